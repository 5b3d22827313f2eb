"""Files and checkpoints that cannot be converted, and what the errors say."""

from __future__ import annotations

import os
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fastmunit.conversion.read_public import read_public
from fastmunit.conversion.write_public import write_public
from fastmunit.errors import CheckpointError, ConfigError, FastmunitError
from tests.conversion.look_alikes import batch, instance_with_weights, no_norm, patch_gan, resnet, trained, unet
from tests.conversion.test_convert import cycle_gan, our_checkpoint, save

State = OrderedDict[str, Tensor]


def refused(path: Path, message: str, error: type[FastmunitError] = CheckpointError, **options: object) -> None:
    """Check that a conversion of public files fails with a message, and writes nothing."""
    output = path.parent / "refused"
    with pytest.raises(error, match=message):
        read_public(path, output, **options)  # type: ignore[arg-type]
    assert not output.exists()


def pixel_discriminator() -> nn.Module:
    network = nn.Module()
    network.net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.LeakyReLU(), nn.Conv2d(4, 8, 1))
    return network


DIFFERENT: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "batch norm": (lambda: resnet(norm=batch), r"resnet_9blocks.* its norm is batch norm \(model.2.weight\), ours is"),
    "batch norm in a U-Net": (
        lambda: unet(norm=batch),
        r"unet_256.* its norm is batch norm \(model.model.1.model.2.weight\)",
    ),
    "weights": (lambda: resnet(norm=instance_with_weights), "its norm is instance norm with weights"),
    "no norm": (lambda: unet(norm=no_norm), "its convolutions have no biases .*is missing.*norm none"),
    "zero padding": (lambda: resnet(reflect=False), r"conv_block.0.weight: its residual blocks pad with zeros"),
    "upsampling": (
        lambda: resnet(upsample_convolve=True),
        r"model.19.weight \(8, 16, 3, 3\) is a convolution after an upsampling, ours is a transposed convolution",
    ),
    "discriminator": (patch_gan, "is a PatchGAN discriminator.*, not a residual generator"),
    "pixel discriminator": (pixel_discriminator, r"is a pixel discriminator \(netD pixel\), not a residual generator"),
    "other": (lambda: nn.Linear(2, 2), "weights of a single network .*bias, weight.*not a residual generator"),
    "one level": (lambda: unet(downs=1), "a U-Net of 1 levels; ours have 2 to 16"),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_the_property_that_differs_is_named(name: str, tmp_path: Path) -> None:
    build, message = DIFFERENT[name]
    refused(save(build(), tmp_path / "latest_net_G.pth"), message)


def with_spectral_norm() -> nn.Module:
    network = patch_gan()
    nn.utils.spectral_norm(network.model[2])
    return network


DIFFERENT_DISCRIMINATORS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "pixel": (pixel_discriminator, "a pixel discriminator.*--generators-only"),
    "weights": (lambda: patch_gan(norm=instance_with_weights), "its instance norm has weights, ours none"),
    "generator": (resnet, "a residual generator, not a PatchGAN"),
    "channels": (lambda: patch_gan(channels=7), "takes 7 channels, and its generator's images need 3 or 6"),
    "spectral norm": (
        with_spectral_norm,
        "has spectral norm, which discriminators of this layout do not have",
    ),
}


@pytest.mark.parametrize("name", DIFFERENT_DISCRIMINATORS)
def test_discriminators_can_be_left_out(name: str, tmp_path: Path) -> None:
    build, message = DIFFERENT_DISCRIMINATORS[name]
    save(resnet(), tmp_path / "latest_net_G.pth")
    save(build(), tmp_path / "latest_net_D.pth")
    refused(tmp_path, message)
    assert read_public(tmp_path, tmp_path / "run", generators_only=True).discriminators is None


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: resnet(blocks=6), "latest_net_G_A.pth do not fit together: residual blocks 6 and 9"),
        (lambda: resnet(width=6), "channels of the first layer 6 and 4"),
        (lambda: resnet(dropout=True), "dropout True and False"),
        (lambda: resnet(source=1), "image channels 1 to 3 and 3 to 3"),
        (unet, "are unet_256 and resnet_9blocks, but a CycleGAN has two of a kind"),
    ],
)
def test_two_generators_that_differ(other: Callable[[], nn.Module], message: str, tmp_path: Path) -> None:
    save(resnet(), tmp_path / "latest_net_G_A.pth")
    save(other(), tmp_path / "latest_net_G_B.pth")
    refused(tmp_path, message)


def test_two_discriminators_that_differ(tmp_path: Path) -> None:
    cycle_gan(tmp_path, resnet, patch_gan)
    save(patch_gan(norm=batch, layers=2), tmp_path / "latest_net_D_A.pth")
    refused(tmp_path, "do not fit together: layers 3 and 2; norm in and bn")


def test_files_that_are_missing_or_too_many(tmp_path: Path) -> None:
    refused(tmp_path, "has none of latest_net_G_B.pth, latest_net_G_A.pth, latest_net_G.pth: check the folder, or give")
    cycle_gan(tmp_path, resnet, patch_gan)
    (tmp_path / "latest_net_D_A.pth").unlink()
    refused(tmp_path, "latest_net_D_A.pth is missing: put it back, or add --generators-only")
    refused(tmp_path, "has none of 5_net_G_B.pth", epoch="5")
    refused(tmp_path, "epoch '../5' is not part of a file name", FastmunitError, epoch="../5")
    (tmp_path / "latest_net_G_B.pth").rename(tmp_path / "latest_net_G.pth")
    refused(tmp_path, "has both latest_net_G_A.pth and latest_net_G.pth")
    (tmp_path / "latest_net_G.pth").unlink()
    refused(tmp_path, "latest_net_G_B.pth is missing, and a CycleGAN has two generators")
    refused(tmp_path / "absent.pth", "absent.pth does not exist")


def test_an_output_that_is_not_empty(tmp_path: Path) -> None:
    path = save(resnet(), tmp_path / "g.pth")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/notes.txt").write_text("mine")
    with pytest.raises(FastmunitError, match="run is not empty: give another --output"):
        read_public(path, tmp_path / "run")
    assert [entry.name for entry in (tmp_path / "run").iterdir()] == ["notes.txt"]


class Touch:
    """An object whose unpickling would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    for number, content in enumerate([Touch(tmp_path / "owned"), {"model.1.weight": Touch(tmp_path / "owned")}]):
        path = tmp_path / f"{number}.pth"
        torch.save(content, path)
        refused(path, "is not a file of plain tensors")
        path.write_bytes(pickle.dumps(content))
        refused(path, "not a (torch file|file of plain tensors)")
    assert not (tmp_path / "owned").exists()


def changed(change: Callable[[State], object]) -> State:
    state: State = trained(resnet(blocks=1, width=2), 0).state_dict()
    change(state)
    return state


CHANGES: dict[str, tuple[Callable[[State], object], str]] = {
    "missing": (lambda s: s.pop("model.11.bias"), "does not agree with ours: model.11.bias is missing"),
    "missing layer": (lambda s: s.pop("model.10.conv_block.5.weight"), "model.10.conv_block.5.weight is missing"),
    "unknown": (lambda s: s.update({"model.99.weight": torch.zeros(3)}), "model.99.weight is not known"),
    "shape": (
        lambda s: s.update({"model.4.weight": torch.zeros(4, 2, 5, 5)}),
        r"\(4, 2, 5, 5\), expected \(4, 2, 3, 3\)",
    ),
    "no dimension": (lambda s: s.update({"model.1.weight": torch.zeros(())}), r"model.1.weight is \(\), expected"),
    "bias": (lambda s: s.update({"model.4.bias": torch.zeros(3)}), r"model.4.bias is \(3,\), expected \(4,\)"),
    "integers": (lambda s: s.update({"model.4.bias": torch.zeros(4, dtype=torch.int8)}), "model.4.bias is torch.int8"),
    "complex": (lambda s: s.update({"model.4.bias": torch.zeros(4) * 1j}), "expected a dense real tensor"),
    "sparse": (lambda s: s.update({"model.4.bias": torch.zeros(4).to_sparse()}), "expected a dense real tensor"),
    "NaN": (lambda s: s["model.4.bias"].fill_(torch.nan), "model.1.conv.bias are NaN or infinite"),
    "no tensor": (lambda s: s.update({"model.4.bias": "text"}), r"model.4.bias is a str"),
    "key": (lambda s: s.update({4: torch.zeros(1)}), "not the state dict of a network"),
    "block": (
        lambda s: s.update({"model.99999.conv_block.1.weight": torch.zeros(1)}),
        "2 downsamplings and 99990 blocks, more than",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_damaged_files(name: str, tmp_path: Path) -> None:
    change, message = CHANGES[name]
    torch.save(changed(change), tmp_path / "g.pth")
    refused(tmp_path / "g.pth", message)


def test_other_contents(tmp_path: Path) -> None:
    for number, content in enumerate([[1, 2], torch.zeros(3), {"a": {}}, {}, {"optimizer": 3}, None]):
        path = tmp_path / f"{number}.pth"
        torch.save(content, path)
        refused(path, "is a file|is the weights|is the state")
    os.mkfifo(tmp_path / "fifo.pth")
    refused(tmp_path / "fifo.pth", "is a FIFO, not a regular file")


def test_sizes_that_a_small_file_claims(tmp_path: Path) -> None:
    """A tensor of one stored value can claim any size. It is refused before it is copied."""
    state = {name: torch.zeros(()).expand(value.shape) for name, value in resnet(blocks=1).state_dict().items()}
    for width, message in ((8000, "more than the limit of .*gen.dim"), (2**20, "gen.dim")):
        claims: State = OrderedDict()
        for name, value in state.items():
            shape = [size // 4 * width if size in (4, 8, 16) else size for size in value.shape]
            claims[name] = torch.zeros(()).expand(shape)
        torch.save(claims, tmp_path / "g.pth")
        assert (tmp_path / "g.pth").stat().st_size < 100_000
        refused(tmp_path / "g.pth", message, ConfigError)
    indices = {f"model.{4 + 3 * 10_000}.conv_block.1.weight": torch.zeros(1)}
    torch.save(indices, tmp_path / "deep.pth")
    refused(tmp_path / "deep.pth", "10000 downsamplings and 1 blocks, more than")


@pytest.fixture(scope="module")
def small_file() -> bytes:
    import io

    buffer = io.BytesIO()
    torch.save(trained(resnet(blocks=1, width=1), 0).state_dict(), buffer)
    return buffer.getvalue()


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_cut_and_changed_bytes(
    small_file: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Damaged bytes give an error of ours, or are not noticed because they are values of weights."""
    end = data.draw(st.integers(0, len(small_file)))
    content = bytearray(small_file[:end])
    for _ in range(data.draw(st.integers(0, 3))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "g.pth").write_bytes(content)
    refusal = ""
    try:
        read_public(folder / "g.pth", folder / "run")
    except FastmunitError as error:
        refusal = str(error)
    assert ("g.pth" in refusal) != (folder / "run").exists()


OUR_DIFFERENCES = {
    "blocks": (
        "cyclegan",
        ["gen.n_res=4"],
        "generators.* gen.n_res is 4, public generators have 6 or 9 residual blocks",
    ),
    "downsampling": ("cyclegan", ["gen.n_downsample=3"], "gen.n_downsample is 3, public generators have 2"),
    "padding": ("cyclegan", ["gen.pad_type=zero"], "gen.pad_type is zero, public generators pad with reflect"),
    "noise": ("cyclegan", ["options.noise_dim=3"], "model.0.conv reads a latent vector of 3 values"),
    "upsampling": (
        "cyclegan",
        ["options.generator=unet", "options.num_downs=5", "options.upsample=bilinear"],
        "options.num_downs is 5, public U-Nets have 7.*options.upsample is bilinear, public U-Nets have transposed",
    ),
    "injection": ("pix2pix_noise", [], "options.inject is all, public U-Nets read no latent vector"),
    "scales": ("cyclegan", ["dis.num_scales=2"], "dis.num_scales is 2, public discriminators have 1"),
    "layer norm": ("cyclegan", ["dis.norm=ln"], "dis.norm is ln, public discriminators have in, bn or none"),
    "spectral norm": ("cyclegan", ["dis.norm=sn"], "dis.norm is sn, public.*--generators-only"),
    "biases": ("cyclegan", ["dis.norm=none"], "cnns.0.1.conv has a bias, but with norm none"),
    "activation": (
        "cyclegan",
        ["dis.activ=relu", "dis.pad_type=reflect"],
        "dis.activ is relu, public discriminators have lrelu; dis.pad_type is reflect",
    ),
    "bicycle": ("bicyclegan", ["batch_size=2"], "bicyclegan model with variant bicycle has no counterpart"),
    "munit": ("demo", [], "a munit model has no counterpart"),
}


@pytest.mark.parametrize("name", OUR_DIFFERENCES)
def test_properties_that_public_networks_lack(name: str, tmp_path: Path) -> None:
    config, overrides, message = OUR_DIFFERENCES[name]
    run = our_checkpoint(tmp_path / "run", *overrides, config=config)
    with pytest.raises(CheckpointError, match=message):
        write_public(run, tmp_path / "public")
    assert not (tmp_path / "public").exists()
    if re.match("dis|.*cnns", message):
        written = write_public(run, tmp_path / "public", generators_only=True)
        assert [item.path.name for item in written] == ["latest_net_G_A.pth", "latest_net_G_B.pth"]


def test_existing_files_stay(tmp_path: Path) -> None:
    run = our_checkpoint(tmp_path / "run")
    (tmp_path / "public").mkdir()
    (tmp_path / "public/latest_net_D_B.pth").write_text("mine")
    with pytest.raises(FastmunitError, match=r"public has latest_net_D_B.pth already: give another --output"):
        write_public(run, tmp_path / "public")
    assert [entry.name for entry in (tmp_path / "public").iterdir()] == ["latest_net_D_B.pth"]
