"""Export to ONNX, its check, and translation with exported folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastmunit
from fastmunit.config import Config
from fastmunit.errors import CheckpointError, ConfigError, FastmunitError
from fastmunit.export import packages
from fastmunit.export.check import checked_cases
from fastmunit.export.description import DESCRIPTION_FILE, Precision, read_description
from fastmunit.export.graphs import exportable, graphs_of
from fastmunit.export.onnx import OnnxGraph, build
from fastmunit.export.write import export
from fastmunit.nn.layers.init import weights_init
from fastmunit.nn.layers.spectral_norm import SpectralNorm
from fastmunit.systems import registry
from fastmunit.systems.translators import Translator
from tests.metrics.translators import Tinted

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

CONFIG = Config.load("demo")
SMALL = ["gen.dim=4", "gen.n_downsample=1", "gen.n_res=1", "gen.mlp_dim=4"]
SYSTEMS = {
    "munit": ("demo", SMALL),
    "unit": ("demo_unit", SMALL),
    "unit with noise": ("demo_unit", [*SMALL, "options.noise_at_test=true"]),
    "cyclegan": ("demo_cyclegan", SMALL),
    "cyclegan_noise": ("demo_cyclegan_noise", ["gen.dim=4"]),
    "cyclegan with dropout alone": ("demo_cyclegan", [*SMALL, "options.dropout=0.5", "options.dropout_at_test=true"]),
    "bicyclegan": ("demo_bicyclegan", ["gen.dim=4", "options.encoder_dim=4"]),
    "pix2pix_noise": ("demo_bicyclegan", ["gen.dim=4", "options.variant=pix2pix_noise"]),
}


def untrained(config: Config, direction: str = "a2b") -> Translator:
    torch.manual_seed(0)
    system = registry.system_of(config)
    generators = {name: network.eval() for name, network in system.build_generators(config).items()}
    for network in generators.values():
        network.apply(weights_init("kaiming"))
    return system.directed_translator(generators, config, direction)


def configured(translator: Translator) -> Translator:
    translator.config = CONFIG
    return translator


def in_dtype(dtype: torch.dtype) -> Translator:
    translator = Tinted()
    translator.dtype = dtype
    return translator


def image(channels: int = 3, height: int = 30, width: int = 21) -> Tensor:
    return torch.rand(channels, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


def assert_same_translations(translator: Translator, folder: Path) -> None:
    exported = fastmunit.load_translator(folder)
    count = 3 if translator.style_dim else 1
    expected, output = (fastmunit.translate(model, image(), count, seed=4) for model in (translator, exported))
    assert output.shape == expected.shape
    torch.testing.assert_close(output, expected, atol=2e-5, rtol=0)
    if translator.takes_references:
        styles = [model.style_of(image(translator.target_channels, 17, 40)) for model in (translator, exported)]
        torch.testing.assert_close(styles[1], styles[0], atol=1e-5, rtol=1e-5)


def operators(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


@pytest.fixture(scope="module")
def tinted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of a translator whose results are known."""
    folder = tmp_path_factory.mktemp("exports") / "tinted"
    export(configured(Tinted()), folder)
    return folder


@pytest.fixture
def built(tinted: Path) -> Iterator[None]:
    """Let exports take the graphs of `tinted`, because tracing and conversion take seconds."""
    with mock.patch("fastmunit.export.onnx.build", lambda graph, _translator: onnx.load(tinted / f"{graph.name}.onnx")):
        yield


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Translator, Path]:
    """A CycleGAN with noise and dropout at test, which draws masks, and its export."""
    config = Config.load("demo_cyclegan", [*SMALL, "options.dropout=0.5", "options.dropout_at_test=true",
                                           "options.noise_dim=2", "input_dim_a=1", "options.identity=0"])  # fmt: skip
    translator = untrained(config, "b2a")
    folder = tmp_path_factory.mktemp("exports") / "noisy"
    export(translator, folder)
    return translator, folder


def test_an_export_translates_like_the_model(noisy: tuple[Translator, Path]) -> None:
    translator, folder = noisy
    assert_same_translations(translator, folder)
    exported = fastmunit.load_translator(folder)
    assert (exported.direction, exported.channels, exported.target_channels) == ("b2a", 3, 1)
    assert not torch.equal(*exported.translate(image(), exported.random_styles(2, torch.Generator())))
    description = read_description(folder)
    assert [given.name for given in description.graphs["translate"].inputs] == ["images", "styles", "mask_0"]
    assert translator.config is not None
    assert description.settings().gen == translator.config.gen
    assert exported.digest() == translator.digest() != ""


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0, 0.3])
def test_blank_images_translate_like_in_the_model(noisy: tuple[Translator, Path], value: float) -> None:
    """Instance norm of a plane of one value is 0. Rounding would be divided by √eps, in one layer after the other."""
    translator, folder = noisy
    blank = torch.full((3, 64, 192), value)
    expected, output = (fastmunit.translate(model, blank, 2, seed=4) for model in (translator, folder))
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=0)


def test_instance_norm_is_one_node_and_sizes_are_free(noisy: tuple[Translator, Path]) -> None:
    path = noisy[1] / "translate.onnx"
    assert "InstanceNormalization" in operators(path)
    assert not {"BatchNormalization", "Sqrt", "Div"} & operators(path)
    inputs = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in onnx.load(path).graph.input
    }
    assert inputs == {
        "images": [1, 3, "2*h", "2*w"],
        "styles": ["S", 2, 1, 1],
        "mask_0": ["S", 8, "h", "w"],
    }


def test_a_file_describes_itself_and_names_no_path(tinted: Path) -> None:
    described = json.loads((tinted / DESCRIPTION_FILE).read_text())
    assert set(described["graphs"]) == {"encode_content", "decode"}
    model = onnx.load(tinted / "decode.onnx")
    onnx.checker.check_model(model, full_check=True)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata["fastmunit.multiple"]) == 2
    assert metadata["fastmunit.system"] == "munit"
    assert 0 <= float(metadata["fastmunit.error"]) < 1e-5
    assert 0 <= float(metadata["fastmunit.blank_error"]) < 1e-5
    assert len(described["checked"]) == 3
    assert len({count for *_, count in described["checked"]}) == 3
    assert str(Path(fastmunit.__file__).parent).encode() not in (tinted / "decode.onnx").read_bytes()


def test_other_sizes_of_images_are_refused(tinted: Path) -> None:
    exported = fastmunit.load_translator(tinted)
    for height, width in ((1, 2), (2, 3)):
        with pytest.raises(ValueError, match=rf"at least 2 and multiples of 2, got {height} × {width}"):
            exported.encode(torch.zeros(1, 3, height, width))


def test_checked_sizes_are_the_least_another_and_the_crop() -> None:
    assert checked_cases(Tinted(), CONFIG) == ((2, 2, 5), (4, 6, 2), (64, 64, 1))
    small = Config(crop_image_height=1, crop_image_width=2)
    assert checked_cases(Tinted(), small)[2] == (6, 2, 1)


def test_a_style_may_be_given_and_sizes_need_not_fit(tinted: Path) -> None:
    model = Tinted()
    codes = torch.randn(4, 3, 1, 1)
    expected = model.translate(image(3, 5, 7), codes)
    assert torch.allclose(fastmunit.translate(tinted, image(3, 5, 7), codes), expected)


@pytest.mark.usefixtures("built")
def test_a_folder_keeps_files_of_others_and_replaces_an_export(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "README.md").write_text("mine")
    export(configured(Tinted()), folder)
    (folder / "translate.onnx").write_bytes(b"of an earlier export of another system")
    (folder / "decode.onnx").write_bytes(b"of an earlier export")
    export(configured(Tinted()), folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "decode.onnx", "encode_content.onnx", DESCRIPTION_FILE,
    ]  # fmt: skip
    assert fastmunit.translate(folder, image(), 2).shape == (2, 3, 30, 21)


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("moves", range(6))
def test_a_move_that_fails_leaves_the_earlier_export(tmp_path: Path, moves: int) -> None:
    """Three files are moved away, and three into place."""
    export(configured(Tinted()), tmp_path / "model", precision="float32")
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    replace, count = Path.replace, 0

    def failing(path: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count == moves + 1:
            raise OSError(5, "Input/output error")
        return replace(path, target)

    with mock.patch.object(Path, "replace", failing), pytest.raises(FastmunitError, match="Input/output error"):
        export(configured(Tinted(0.5)), tmp_path / "model", limit=10.0)
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_file_that_is_not_from_an_export_is_kept(tmp_path: Path) -> None:
    (tmp_path / "decode.onnx").write_bytes(b"mine")
    with pytest.raises(FastmunitError, match=r"decode\.onnx exists and is not from"):
        export(configured(Tinted()), tmp_path)
    assert (tmp_path / "decode.onnx").read_bytes() == b"mine"


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("strength", [0.201, float("nan")])
def test_past_the_limit_nothing_is_written(tmp_path: Path, strength: float) -> None:
    with pytest.raises(FastmunitError, match="decode differs from PyTorch by"):
        export(configured(Tinted(strength)), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


class Counting(Tinted):
    """A translator that reads the number of styles as a Python number."""

    def decode(self, content: Tensor, styles: Tensor) -> Tensor:
        return super().decode(content, styles) * len(styles)


def test_a_network_that_fixes_a_size_is_named(tmp_path: Path) -> None:
    with pytest.raises(FastmunitError, match=r"decode cannot be traced.*x\.shape\[0\]"):
        export(configured(Counting()), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


class Convolutional(Tinted):
    """A translator with weights of every kind that is stored in fewer bits."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.up = nn.Conv2d(3, 12, 3, padding=1), nn.ConvTranspose2d(12, 8, 2, stride=2)
        self.last, self.linear = nn.Conv2d(8, 3, 5, padding=2), nn.Linear(3, 128)

    def networks(self) -> dict[str, nn.Module]:
        return {"first": self.first, "up": self.up, "last": self.last, "linear": self.linear}

    def decode(self, content: Tensor, styles: Tensor) -> Tensor:
        shift = self.linear(styles.flatten(1)).mean(1)[:, None, None, None]
        return torch.tanh(self.last(self.up(self.first(content)))) + 0.1 * shift


@pytest.fixture(scope="module")
def convolutional() -> dict[str, bytes]:
    """The graphs of a `Convolutional` as ONNX."""
    translator = Convolutional()
    return {graph.name: build(graph, translator).SerializeToString() for graph in graphs_of(translator)}


@pytest.mark.parametrize(("precision", "bits", "limit"), [("float16", 16, 2e-3), ("int8", 8, 5e-2)])
def test_weights_in_fewer_bits(
    convolutional: dict[str, bytes], tmp_path: Path, precision: Precision, bits: int, limit: float
) -> None:
    translator = Convolutional()
    with mock.patch("fastmunit.export.onnx.build", lambda graph, _: onnx.load_from_string(convolutional[graph.name])):
        description = export(configured(translator), tmp_path / "model", precision=precision)
    graph = description.graphs["decode"]
    assert graph.error < 1e-5
    assert graph.weights_error is not None
    assert 1e-5 < graph.weights_error < limit
    model = onnx.load(tmp_path / "model/decode.onnx")
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    packed = [values for values in stored.values() if values.dtype.itemsize * 8 == bits]
    assert len(packed) == 4
    assert "float32" not in {str(values.dtype) for values in stored.values() if values.ndim > 1}
    codes = torch.ones(2, 3, 1, 1)
    difference = fastmunit.translate(tmp_path / "model", image(), codes) - translator.translate(image(), codes)
    assert 0 < float(difference.abs().max()) < limit


def test_spectral_norm_is_applied_once() -> None:
    translator = Convolutional()
    translator.first = nn.Sequential(SpectralNorm(nn.Conv2d(3, 12, 3, padding=1)))  # type: ignore[assignment]
    plain = exportable(translator)
    layer = plain.first[0]  # type: ignore[attr-defined]
    assert type(layer) is nn.Conv2d
    before = layer.weight.clone()
    x = image()[None]
    outputs = [plain.first(x) for _ in range(3)]  # type: ignore[attr-defined]
    assert torch.equal(outputs[0], outputs[2])
    assert torch.equal(layer.weight, before)
    torch.testing.assert_close(outputs[0], translator.first(x))


@pytest.mark.parametrize(
    ("translator", "message"),
    [
        (Tinted(), "got a Tinted without one"),
        (configured(in_dtype(torch.float64)), r"got torch\.float64 on cpu"),
        (configured(in_dtype(torch.bfloat16)), r"got torch\.bfloat16 on cpu"),
    ],
)
def test_other_translators_are_refused(tmp_path: Path, translator: Translator, message: str) -> None:
    with pytest.raises(FastmunitError, match=message):
        export(translator, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_other_options_of_an_export_are_refused(tinted: Path, noisy: tuple[Translator, Path]) -> None:
    with pytest.raises(ConfigError, match="translates a2b only, not b2a"):
        fastmunit.load_translator(tinted, direction="b2a")
    with pytest.raises(FastmunitError, match="float32, not in bfloat16"):
        fastmunit.translate(tinted, image(), 1, precision="bfloat16")
    with pytest.raises(FastmunitError, match="cannot use cuda"):
        fastmunit.load_translator(tinted, device="cuda")
    with pytest.raises(ConfigError, match="leave --config out"):
        fastmunit.load_translator(tinted, "demo")
    with pytest.raises(CheckpointError, match="without PyTorch networks"):
        fastmunit.load_generators(tinted)
    with pytest.raises(FastmunitError, match="no style codes"):
        fastmunit.load_translator(noisy[1]).style_of(image(1))
    with pytest.raises(FastmunitError, match="pt2 files have float32 weights"):
        export(configured(Tinted()), tinted, format="pt2", precision="int8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"multiple": 0}, "multiple"),
        ({"graphs": {"decode": {"file": "../decode.onnx", "inputs": [], "output": "y", "error": 0}}}, "outside"),
        ({"graphs": {"decode": {"file": "other.onnx", "inputs": [], "output": "y", "error": 0}}}, "does not exist"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_a_damaged_description_is_named(tinted: Path, tmp_path: Path, change: dict[str, object], message: str) -> None:
    values = json.loads((tinted / DESCRIPTION_FILE).read_text())
    (tmp_path / DESCRIPTION_FILE).write_text(json.dumps({**values, **change}))
    with pytest.raises(CheckpointError, match=message):
        fastmunit.load_translator(tmp_path)


def test_damaged_files_are_named(tinted: Path, tmp_path: Path) -> None:
    (tmp_path / DESCRIPTION_FILE).write_text("{")
    with pytest.raises(CheckpointError, match=r"export\.json cannot be read"):
        fastmunit.load_translator(tmp_path)
    (tmp_path / "decode.onnx").write_bytes((tinted / "decode.onnx").read_bytes()[:200])
    with pytest.raises(CheckpointError, match=r"decode\.onnx cannot be loaded by onnxruntime"):
        OnnxGraph(tmp_path / "decode.onnx")


def test_a_folder_whose_name_is_not_utf8(tinted: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tinted, tmp_path / "n\udcff")
    assert torch.equal(fastmunit.translate(folder, image(), 2), fastmunit.translate(tinted, image(), 2))
    with pytest.raises(FastmunitError, match="is not UTF-8: choose another output"):
        export(configured(Tinted()), folder, format="pt2")


def test_inputs_that_do_not_fit_are_named(tinted: Path) -> None:
    with pytest.raises(FastmunitError, match=r"onnxruntime failed on inputs \(1, 5, 4, 4\)"):
        OnnxGraph(tinted / "encode_content.onnx")([torch.zeros(1, 5, 4, 4)])


def test_missing_packages_are_named(tmp_path: Path) -> None:
    with (
        mock.patch.object(packages, "find_spec", return_value=None),
        pytest.raises(FastmunitError, match=r'onnx and onnxscript.*pip install "fastmunit\[export\]"'),
    ):
        export(configured(Tinted()), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system(tmp_path: Path, name: str) -> None:
    config = Config.load(*SYSTEMS[name])
    translator = untrained(config)
    description = export(translator, tmp_path / "model")
    assert all(graph.error < 3e-5 for graph in description.graphs.values())
    assert_same_translations(translator, tmp_path / "model")


@pytest.mark.slow
def test_aot_inductor(tmp_path: Path) -> None:
    config = Config.load(*SYSTEMS["munit"])
    translator = untrained(config)
    description = export(translator, tmp_path / "model", format="pt2")
    assert all(graph.error < 3e-5 for graph in description.graphs.values())
    assert_same_translations(translator, tmp_path / "model")


def test_numbers_of_images_and_styles_are_free(tinted: Path) -> None:
    graph = OnnxGraph(tinted / "encode_content.onnx")
    for count, height, width in ((1, 2, 2), (3, 8, 20)):
        images = torch.randn(count, 3, height, width)
        np.testing.assert_allclose(graph([images]), nn.functional.avg_pool2d(images, 2), rtol=1e-5, atol=1e-6)
