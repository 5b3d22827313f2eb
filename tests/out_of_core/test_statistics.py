"""Statistics of tiles, fixed statistics from a file, and tiles with their own statistics."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import fastmunit as package
from fastmunit.errors import DataError
from fastmunit.out_of_core import local
from fastmunit.out_of_core.engine import OutOfCoreTranslation, Settings
from fastmunit.out_of_core.moments import moments_of, no_moments
from fastmunit.out_of_core.pixels import TensorSource
from fastmunit.out_of_core.statistics_file import read_statistics
from fastmunit.systems.translators import Translator
from tests.out_of_core.models import canvases, picture, styles_of, translated, untrained, whole


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_moments_of_tiles(dtype: torch.dtype, mean: float) -> None:
    torch.manual_seed(0)
    x = (torch.randn(1, 5, 33, 47) + mean).to(dtype).contiguous(memory_format=torch.channels_last)
    total = no_moments(5)
    for rows in x.split(7, 2):
        for tile in rows.split(10, 3):
            total = total.merged(moments_of(tile))
    wide = x.double()
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    found_mean, rstd = total.normalization("instance", 1e-5)
    expected = wide.mean((2, 3))
    torch.testing.assert_close(found_mean, expected, rtol=tolerance / 10, atol=tolerance)
    variance = wide.var((2, 3), correction=0)
    torch.testing.assert_close(rstd, (variance + 1e-5).rsqrt(), rtol=10 * tolerance, atol=0)
    found_mean, rstd = total.normalization("layer", 1e-5)
    torch.testing.assert_close(found_mean[0], wide.mean(), rtol=tolerance / 10, atol=tolerance)
    torch.testing.assert_close(rstd[0], 1 / (wide.std() + 1e-5), rtol=10 * tolerance, atol=0)


def test_moments_of_constant_and_single_pixels() -> None:
    one = moments_of(torch.full((1, 2, 1, 1), 3.0))
    both = one.merged(moments_of(torch.full((1, 2, 1, 3), 7.0)))
    assert one.squares.tolist() == [0, 0]
    assert both.count == 4
    assert both.mean.tolist() == [6, 6]
    assert both.squares.tolist() == [12, 12]


def test_blank_images_have_no_tiles() -> None:
    """On some processors, convolutions of tiles round differently, and norms amplify that unless `is_constant`."""
    for translator in (package.load_translator("fruit", device="cpu"), untrained("cyclegan", torch.float64)):
        image = torch.full((3, 90, 110), 0.3, dtype=translator.dtype)
        output = translated(translator, image, styles_of(translator, 1), (16, 16))
        assert (output.amax((2, 3)) - output.amin((2, 3))).max() < 1e-5


def test_what_is_constant() -> None:
    x = torch.randn(1, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    for noise, expected in ((1e-7, True), (1e-4, False)):
        moments = moments_of(5 + noise * x)
        assert moments.is_constant(torch.float32) == expected
        assert not moments.is_constant(torch.bfloat16)
    assert not moments_of(5 + 1e-7 * x.double()).is_constant(torch.float64)
    mixed = torch.full((1, 3, 20, 20), 5.0)
    mixed[:, 2] += x[:, 2]
    assert not moments_of(mixed).is_constant(torch.float32)


class Case:
    """Two images and one model."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        self.translator: Translator = untrained("munit", dtype)
        self.styles = styles_of(self.translator)
        self.image = picture(3, 48, 40, dtype)
        self.other = (picture(3, 30, 64, dtype) * 0.5).flip(2)

    def run(self, image: Tensor, styles: Tensor | None = None, **settings: Path) -> Tensor:
        styles = self.styles if styles is None else styles
        sinks = canvases(self.translator, image, styles)
        options = Settings(10**9, tile=(16, 16), **settings)  # type: ignore[arg-type]
        OutOfCoreTranslation(self.translator, TensorSource(image), styles, options).run(sinks)
        return torch.stack([sink.image for sink in sinks])


@pytest.mark.parametrize("name", ["statistics.safetensors", "\udcff.safetensors"], ids=["utf8", "not_utf8"])
def test_fixed_statistics(tmp_path: Path, name: str) -> None:
    case, file = Case(), tmp_path / name
    own = case.run(case.image, save_statistics=file)
    torch.testing.assert_close(case.run(case.image, statistics=file), own, rtol=0, atol=1e-13)
    fixed, exact = case.run(case.other, statistics=file), case.run(case.other)
    assert float((fixed - exact).abs().max()) > 0.05
    # A pixel far from the border does not depend on the rest of the image.
    part = case.run(case.image[:, :, :32], statistics=file)
    assert float((part - own[..., :32])[..., :4, :4].abs().max()) < float((part - own[..., :32]).abs().max())
    one = case.run(case.image, case.styles[1:], statistics=file)
    torch.testing.assert_close(one, own[1:], rtol=0, atol=1e-13)


def test_statistics_of_another_model_or_style(tmp_path: Path) -> None:
    case, file = Case(), tmp_path / "statistics.safetensors"
    case.run(case.image, save_statistics=file)
    with pytest.raises(DataError, match="saved with other styles"):
        case.run(case.image, case.styles + 1, statistics=file)
    for parameter in case.translator.networks()["b.dec"].parameters():
        parameter.data.add_(0.1)
    with pytest.raises(DataError, match="belongs to another model"):
        case.run(case.image, statistics=file)


def test_files_that_hold_no_statistics(tmp_path: Path) -> None:
    case, file = Case(), tmp_path / "statistics.safetensors"
    with pytest.raises(DataError, match="does not exist"):
        case.run(case.image, statistics=file)
    file.write_bytes(b"not safetensors")
    with pytest.raises(DataError, match="damaged or not a safetensors file"):
        read_statistics(file)
    save_file({"styles": torch.zeros(1)}, file)
    with pytest.raises(DataError, match="not a statistics file"):
        read_statistics(file)
    metadata = {"format": "fastmunit statistics 1"}
    mean = torch.zeros(2, dtype=torch.float64)
    for count, squares in (
        (torch.tensor([3]), mean - 1),
        (torch.tensor([3]), mean * float("nan")),
        (torch.tensor([0]), mean),
        (torch.tensor([1.5]), mean),
        (torch.tensor([3]), mean[:1]),
    ):
        save_file({"a:count": count, "a:mean": mean, "a:squares": squares.clone()}, file, metadata)
        with pytest.raises(DataError, match="no valid statistics of 'a'"):
            read_statistics(file)


def seams(image: Tensor, tile: int) -> float:
    """Return the mean jump across the borders of tiles, in relation to the mean jump elsewhere."""
    jumps = (image.diff(dim=-1).abs().mean((0, 1, 2)), image.diff(dim=-2).abs().mean((0, 1, 3)))
    at, elsewhere = [], []
    for jump in jumps:
        border = torch.zeros(len(jump), dtype=torch.bool)
        border[tile - 1 :: tile] = True
        at.append(jump[border])
        elsewhere.append(jump[~border])
    return float(torch.cat(at).mean() / torch.cat(elsewhere).mean())


def test_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles leave no seams. With statistics of their own they do, which shows that the measure finds seams."""
    case, tile = Case(), 16
    generator = torch.Generator().manual_seed(5)
    colors = torch.rand(1, 3, 3, 3, generator=generator, dtype=torch.float64) * 2 - 1
    image = torch.nn.functional.interpolate(colors, (144, 144), mode="bicubic")[0].clamp(-1, 1)
    expected = seams(whole(case.translator, image, case.styles), tile)
    sinks = canvases(case.translator, image, case.styles)
    work = OutOfCoreTranslation(case.translator, TensorSource(image), case.styles, Settings(10**9, tile=(tile, tile)))
    work.run(sinks)
    exact = seams(torch.stack([sink.image for sink in sinks]), tile)
    assert exact / expected == pytest.approx(1, abs=1e-9)
    monkeypatch.setattr(local, "TILE", tile)
    monkeypatch.setattr(local, "OVERLAP", 8)
    sinks = canvases(case.translator, image, case.styles)
    local.translate_locally(case.translator, TensorSource(image), case.styles, sinks)
    assert seams(torch.stack([sink.image for sink in sinks]), tile) / expected > 1.1
