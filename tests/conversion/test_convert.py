"""Conversion of networks with the public names, and back, compared by their outputs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from fastmunit.cli import main
from fastmunit.config import Config
from fastmunit.conversion.read_public import read_public
from fastmunit.conversion.write_public import write_public
from fastmunit.nn.networks.discriminators import PatchDiscriminator
from fastmunit.systems import registry
from fastmunit.translation.translate import load_generators, load_translator
from tests.conversion.look_alikes import batch, no_norm, patch_gan, resnet, trained, unet, with_prefix

Build = Callable[[], nn.Module]


def save(network: nn.Module, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), path)
    return path


def cycle_gan(folder: Path, generator: Build, discriminator: Build) -> dict[str, nn.Module]:
    """Write the four files of a CycleGAN and return its networks."""
    builds = {"G_A": generator, "G_B": generator, "D_A": discriminator, "D_B": discriminator}
    networks = {name: trained(build(), seed) for seed, (name, build) in enumerate(builds.items())}
    for name, network in networks.items():
        save(network, folder / f"latest_net_{name}.pth")
    return networks


def discriminators(file: Path, config: Config, channels: int = 3) -> dict[str, nn.Module]:
    states = torch.load(file, weights_only=True)
    networks = {name: PatchDiscriminator(channels, config.dis) for name in states}
    for name, network in networks.items():
        network.load_state_dict(states[name])
    return networks


def images(channels: int = 3, size: tuple[int, int] = (64, 48)) -> Tensor:
    return torch.rand(2, channels, *size, generator=torch.Generator().manual_seed(0)).double() * 2 - 1


@torch.no_grad()
def assert_same(ours: Tensor, public: Tensor) -> None:
    assert public.std() > 1e-3  # the comparison means something
    torch.testing.assert_close(ours, public, rtol=0, atol=1e-9)


def assert_loads(file: Path, original: nn.Module, build: Build) -> None:
    """Check that a fresh public network takes a file, whose tensors have the values and the order of the original."""
    state = torch.load(file, weights_only=True)
    assert list(state) == list(original.state_dict())
    build().load_state_dict(state)
    for name, value in original.state_dict().items():
        torch.testing.assert_close(state[name], value, rtol=0, atol=0, msg=name)


GENERATORS: dict[str, tuple[Build, int, tuple[int, int]]] = {
    "resnet_9blocks": (resnet, 3, (64, 48)),
    "resnet_6blocks": (lambda: resnet(blocks=6), 3, (32, 32)),
    "resnet_9blocks with dropout": (lambda: resnet(dropout=True), 3, (32, 32)),
    "resnet_9blocks, gray to RGB": (lambda: resnet(source=1), 1, (32, 32)),
    "unet_256": (unet, 3, (256, 256)),
    "unet_128 with dropout": (lambda: unet(downs=7, dropout=True), 3, (128, 256)),
}


@pytest.mark.parametrize("name", GENERATORS)
def test_a_single_generator_there_and_back(name: str, tmp_path: Path) -> None:
    build, channels, size = GENERATORS[name]
    network = trained(build(), 0)
    converted = read_public(save(network, tmp_path / "public.pth"), tmp_path / "run")
    (generator,) = load_generators(tmp_path / "run")
    x = images(channels, size)
    with torch.no_grad():  # a single generator ignores its noise
        assert_same(generator.double()(x, torch.randn(2, 1)), network.double()(x))
    assert converted.config.options["dropout"] == (0.5 if name == "resnet_9blocks with dropout" else 0)
    (written,) = write_public(tmp_path / "run", tmp_path / "back")
    assert written.path == tmp_path / "back" / "latest_net_G.pth"
    assert_loads(written.path, network.float(), build)


@pytest.mark.parametrize(
    ("discriminator", "norm", "layers"),
    [
        (patch_gan, "in", 3),
        (lambda: patch_gan(norm=batch), "bn", 3),
        (lambda: patch_gan(norm=no_norm, layers=2), "none", 2),
        (lambda: patch_gan(layers=5, width=2), "in", 5),
    ],
    ids=["instance", "batch", "none", "five layers"],
)
def test_a_cycle_gan_there_and_back(discriminator: Build, norm: str, layers: int, tmp_path: Path) -> None:
    def generator() -> nn.Module:
        return resnet(blocks=6, width=2)

    public = cycle_gan(tmp_path / "public", generator, discriminator)
    converted = read_public(tmp_path / "public", tmp_path / "run")
    assert (converted.config.system, converted.config.dis.norm, converted.config.dis.n_layer) == (
        "cyclegan",
        norm,
        layers,
    )
    gen_a, gen_b = load_generators(tmp_path / "run")
    assert converted.discriminators is not None
    dis = discriminators(converted.discriminators, converted.config)
    pairs = {"G_A": gen_b, "G_B": gen_a, "D_A": dis["b"], "D_B": dis["a"]}  # public D_A judges the images of G_A
    x = images(size=(96, 96))
    for training in (False, True):  # batch norm: with running statistics, then with those of the batch
        for name, ours in pairs.items():
            network = public[name].double().train(training)
            with torch.no_grad():
                output = ours.double().train(training)(x)
                assert_same(output[0] if isinstance(output, list) else output, network(x))
    written = write_public(tmp_path / "run", tmp_path / "back")
    assert [item.path.name for item in written] == [f"latest_net_{name}.pth" for name in ("D_A", "D_B", "G_A", "G_B")]
    reference = cycle_gan(tmp_path / "again", generator, discriminator)
    for item in written:
        name = item.path.stem.removeprefix("latest_net_")
        assert_loads(item.path, reference[name], generator if name.startswith("G") else discriminator)


def test_options_that_the_public_programs_need(tmp_path: Path) -> None:
    cycle_gan(tmp_path / "public", lambda: resnet(dropout=True), lambda: patch_gan(layers=4, norm=batch))
    read_public(tmp_path / "public", tmp_path / "run")
    options = {item.path.stem: item.options for item in write_public(tmp_path / "run", tmp_path / "back")}
    assert options["latest_net_G_A"] == "--netG resnet_9blocks --ngf 4 --norm instance --input_nc 3 --output_nc 3"
    assert options["latest_net_D_A"] == "--netD n_layers --n_layers_D 4 --ndf 4 --norm batch"


def test_pix2pix_with_its_conditional_discriminator(tmp_path: Path) -> None:
    generator = trained(unet(target=1), 0)
    discriminator = trained(patch_gan(channels=4), 1)
    save(generator, tmp_path / "public/200_net_G.pth")
    save(discriminator, tmp_path / "public/200_net_D.pth")
    converted = read_public(tmp_path / "public", tmp_path / "run", epoch="200", dropout=0.5)
    options = registry.system_of(converted.config).check(converted.config)
    assert (options.variant, options.conditional_dis, options.dropout) == ("pix2pix_noise", True, 0.5)
    assert converted.discriminators is not None
    (dis,) = discriminators(converted.discriminators, converted.config, channels=4).values()
    x = images(channels=4)
    with torch.no_grad():
        assert_same(dis.double()(x)[0], discriminator.double()(x))
    written = write_public(tmp_path / "run", tmp_path / "back", epoch="7")
    assert [item.path.name for item in written] == ["7_net_D.pth", "7_net_G.pth"]
    assert_loads(written[0].path, discriminator.float(), lambda: patch_gan(channels=4))


def with_unused_statistics(network: nn.Module) -> OrderedDict[str, Tensor]:
    """Return a state dict as PyTorch 0.3 wrote it, with statistics of instance norms without weights."""
    state = network.state_dict()
    for name, module in network.named_modules():
        if isinstance(module, nn.InstanceNorm2d):
            state[f"{name}.running_mean"] = torch.randn(module.num_features)
            state[f"{name}.running_var"] = torch.rand(module.num_features)
    return state


@pytest.mark.parametrize("build", [lambda: resnet(blocks=6, width=2), lambda: unet(downs=5)], ids=["resnet", "unet"])
def test_old_and_wrapped_files_of_generators(build: Build, tmp_path: Path) -> None:
    network = trained(build(), 0)
    plain = network.state_dict()
    assert plain._metadata  # type: ignore[attr-defined]
    forms = {
        "metadata": plain,
        "dict": dict(plain),
        "parallel": with_prefix(plain, "module."),
        "statistics": with_unused_statistics(network),
        "float64": {name: value.double() for name, value in plain.items()},
    }
    expected = None
    for form, state in forms.items():
        for zipped in (True, False):
            path = tmp_path / f"{form}{zipped}.pth"
            torch.save(state, path, _use_new_zipfile_serialization=zipped)
            converted = read_public(path, tmp_path / f"run_{form}{zipped}")
            weights = torch.load(converted.generators, weights_only=True)["b"]
            expected = expected or weights
            assert weights.keys() == expected.keys()
            assert all(torch.equal(weights[name], value) for name, value in expected.items())


def test_batch_norm_without_counters_and_with_biases(tmp_path: Path) -> None:
    cycle_gan(tmp_path / "public", resnet, lambda: patch_gan(norm=batch))
    network = trained(patch_gan(norm=batch), 3)
    state = {name: value for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    state["model.2.bias"] = torch.randn(8)  # without an effect in training: batch norm subtracts it
    torch.save(with_prefix(OrderedDict(state), "module."), tmp_path / "public/latest_net_D_B.pth")
    converted = read_public(tmp_path / "public", tmp_path / "run")
    assert converted.discriminators is not None
    dis = discriminators(converted.discriminators, converted.config)["a"].double().train()
    x = images()
    with torch.no_grad():
        assert_same(dis(x)[0], network.double().train()(x))


def our_checkpoint(folder: Path, *overrides: str, config: str = "cyclegan") -> Path:
    """Write a checkpoint of our own with random weights, also in batch norms."""
    small = ("gen.dim=2", "gen.n_res=6", "dis.dim=4", "gen.style_dim=2", "dis.num_scales=1")
    settings = Config.load(config, [*small, *overrides])
    system = registry.system_of(settings)(settings)
    for seed, network in enumerate([*system.generators().values(), *system.discriminators().values()]):
        trained(network, seed)
    settings.save(folder / "config.yaml")
    system.save(folder / "checkpoints", 9)
    return folder


def test_a_run_of_ours_gives_the_same_outputs_in_public_networks(tmp_path: Path) -> None:
    run = our_checkpoint(tmp_path / "run", "dis.norm=bn", "ema_decay=0.5")
    write_public(run, tmp_path / "public")
    translator = load_translator(run, direction="a2b", device="cpu")
    generator = resnet(blocks=6, width=2)
    generator.load_state_dict(torch.load(tmp_path / "public/latest_net_G_A.pth", weights_only=True))
    x = images()[0].float()
    with torch.no_grad():
        ours, public = translator.translate(x, translator.random_styles(1, torch.Generator()))[0], generator(x[None])[0]
    torch.testing.assert_close(ours, public, rtol=0, atol=2e-5)
    discriminator = patch_gan(norm=batch)
    discriminator.load_state_dict(torch.load(tmp_path / "public/latest_net_D_A.pth", weights_only=True))
    config = Config.load(run / "config.yaml")
    dis = discriminators(run / "checkpoints/dis_00000010.pt", config)["b"]
    assert dis.cnns[0][1].conv.bias.abs().max() > 0.1  # it moves into the running mean
    with torch.no_grad():
        torch.testing.assert_close(dis.eval()(x[None])[0], discriminator.eval()(x[None]), rtol=1e-4, atol=1e-4)


def run_command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return int(exit.value.code or 0), captured.out + captured.err


def test_the_commands_that_convert_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Convert, translate, train on, and convert back, on the command line."""
    cycle_gan(tmp_path / "public", lambda: resnet(blocks=6, width=2), patch_gan)
    status, text = run_command(capsys, "convert", "--public", tmp_path / "public", "--output", tmp_path / "run")
    assert status == 0, text
    gen, dis = tmp_path / "run/checkpoints/gen_00000000.pt", tmp_path / "run/checkpoints/dis_00000000.pt"
    assert f"--init {gen} --init-dis {dis}" in text
    for folder in ("trainA", "trainB", "testA", "testB"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "data" / folder / "1.png")
    picture = tmp_path / "data/testA/1.png"
    status, text = run_command(
        capsys, "translate", "--checkpoint", tmp_path / "run", "--input", picture, "--output", tmp_path / "out"
    )
    assert status == 0 and len(list((tmp_path / "out").glob("1_style*.png"))) == 1, text
    status, text = run_command(
        capsys, "train", "--config", tmp_path / "run/config.yaml", "--data", tmp_path / "data", "--output",
        tmp_path / "trained", "--init", gen, "--init-dis", dis, "--max-iter", 1, "--device", "cpu",
        *(part for key in ("new_size=32", "crop_image_height=32", "crop_image_width=32", "num_workers=0",
                           "display_size=1") for part in ("--set", key)),
    )  # fmt: skip
    assert status == 0, text
    status, text = run_command(
        capsys, "convert", "--checkpoint", tmp_path / "trained", "--output", tmp_path / "back", "--epoch", 3
    )
    assert status == 0 and "3_net_G_A.pth: --netG resnet_6blocks" in text, text
    resnet(blocks=6, width=2).load_state_dict(torch.load(tmp_path / "back/3_net_G_A.pth", weights_only=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --public to read public files, or --checkpoint to write them"),
        (("--public", "x", "--checkpoint", "y"), "give --public to read public files, or --checkpoint"),
        (("--public", "x", "--config", "cyclegan"), "it is for --checkpoint"),
        (("--checkpoint", "x", "--dropout", "0.5"), "it is for --public"),
    ],
)
def test_wrong_options(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, text = run_command(capsys, "convert", "--output", tmp_path / "out", *arguments)
    assert status == 2 and message in " ".join(text.replace("│", " ").split())
