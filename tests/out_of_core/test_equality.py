"""Translation out of core gives what translation of the whole image gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from fastmunit import functional
from fastmunit.out_of_core.engine import OutOfCoreTranslation, Settings, encode_style
from fastmunit.out_of_core.pixels import TensorSource
from tests.out_of_core.models import MODELS, picture, styles_of, translated, untrained, whole

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
ON_DISK = 20_000
"""Bytes of memory in which only the smallest maps fit."""
SIZES = [(37, 53), (64, 64), (129, 65)]
TILES = [(16, 16), (24, 40), (1000, 1000)]


def difference(name: str, size: tuple[int, int], tile: tuple[int, int], dtype: torch.dtype, memory: int) -> float:
    translator = untrained(name, dtype)
    image = picture(translator.channels, *size, dtype)
    styles = styles_of(translator)
    expected = whole(translator, image, styles)
    assert float(expected.std()) > 0.05
    return float((translated(translator, image, styles, tile, memory) - expected).abs().max())


@pytest.mark.parametrize("name", MODELS)
def test_every_system(name: str) -> None:
    assert difference(name, (37, 53), (16, 24), torch.float64, ON_DISK) <= 1e-12


@pytest.mark.parametrize("name", ["munit", "unit with noise", "cyclegan", "bicyclegan"])
def test_float32(name: str) -> None:
    assert difference(name, (33, 70), (32, 16), torch.float32, 10**9) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_every_system_size_and_tile(name: str, dtype: torch.dtype) -> None:
    for size in SIZES:
        for tile in TILES:
            assert difference(name, size, tile, dtype, ON_DISK) <= TOLERANCE[dtype], (size, tile)


@pytest.mark.parametrize("size", [(3, 2), (1, 40), (9, 2)])
def test_images_below_the_minimum_size(size: tuple[int, int]) -> None:
    assert difference("munit", size, (16, 16), torch.float64, 10**9) <= 1e-12


def test_the_reference_path() -> None:
    with functional.use_implementation("reference"):
        assert difference("munit", (37, 40), (16, 24), torch.float64, 10**9) <= 1e-12


@pytest.mark.parametrize("norm", ["batch norm", "no norm"])
def test_other_norms(norm: str) -> None:
    translator = untrained("cyclegan")
    (generator,) = translator.networks().values()
    torch.manual_seed(3)
    for module in list(generator.modules()):
        if getattr(module, "norm", None) is None:
            continue
        channels = module.norm.num_features
        module.norm = nn.BatchNorm2d(channels).double().eval() if norm == "batch norm" else None
        if module.norm is not None:
            module.norm.running_mean.normal_()
            module.norm.running_var.uniform_(0.5, 2)
    image = picture(3, 37, 53)
    styles = styles_of(translator)
    expected = whole(translator, image, styles)
    assert float(expected.std()) > 0.05
    torch.testing.assert_close(translated(translator, image, styles, (16, 24), ON_DISK), expected, rtol=0, atol=1e-12)


def test_bfloat16() -> None:
    """Maps are stored in bfloat16, as they are without tiles. Rounding there differs where sums do."""
    translator = untrained("munit", torch.float32)
    image, styles = picture(3, 40, 48, torch.float32), styles_of(translator, 1)
    expected = translator.translate(image, styles, precision="bfloat16")[0]
    translator.precision = "bfloat16"
    result = translated(translator, image, styles, (16, 16))[0]
    assert float((result - expected).abs().mean()) < 0.02 < float(expected.std())


@pytest.mark.parametrize("name", ["munit", "bicyclegan"])
def test_style_of_an_image(name: str) -> None:
    translator = untrained(name)
    image = picture(translator.target_channels, 53, 90)
    code = encode_style(translator, TensorSource(image), Settings(ON_DISK, tile=(16, 16)))
    torch.testing.assert_close(code, translator.style_of(image), rtol=0, atol=1e-6)
    assert code.shape == (1, translator.style_dim, 1, 1)


def test_many_styles_share_the_content_code() -> None:
    translator = untrained("munit")
    source, styles = TensorSource(picture(3, 32, 32)), styles_of(translator, 4)
    counts = [len(OutOfCoreTranslation(translator, source, styles[:n], Settings(10**9)).passes) for n in (1, 2, 4)]
    assert counts[1] - counts[0] < counts[0] / 2
    assert counts[2] - counts[1] == 2 * (counts[1] - counts[0])


def test_equal_styles_are_decoded_once() -> None:
    translator = untrained("munit")
    image, styles = picture(3, 32, 32), styles_of(translator, 1)
    results = translated(translator, image, styles.expand(3, -1, -1, -1), (16, 16))
    assert torch.equal(results[0], results[2])


def test_the_result_does_not_depend_on_where_maps_are(tmp_path: Path) -> None:
    translator = untrained("unit with noise")
    image, styles = picture(3, 40, 40), styles_of(translator)
    on_disk = translated(translator, image, styles, (16, 24), ON_DISK, tmp_path / "scratch")
    assert torch.equal(on_disk, translated(translator, image, styles, (16, 24), 10**9))
    assert not list(tmp_path.iterdir())
