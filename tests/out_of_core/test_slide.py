"""A slide that is larger than the memory is translated by the command in bounded memory."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from torch import Tensor

from fastmunit import load_translator
from fastmunit.out_of_core.engine import OutOfCoreTranslation, Settings
from fastmunit.out_of_core.pixels import TensorSource
from fastmunit.out_of_core.statistics_file import read_statistics
from tests.out_of_core.models import Canvas
from tests.out_of_core.slide import MODEL, TILE, translated, write_slide

_MARGIN = 96
"""Pixels around a region that its result can depend on, by more than those that the networks read."""

_CORE = 64


def region_of(slide: np.ndarray, statistics: Path, top: int, left: int) -> np.ndarray:
    """Return a region of the result, computed in one tile in memory from its surroundings and the statistics."""
    translator = load_translator(MODEL)
    side = _CORE + 2 * _MARGIN
    pixels = np.ascontiguousarray(slide[top - _MARGIN :, left - _MARGIN :][:side, :side].transpose(2, 0, 1))
    image = torch.from_numpy(pixels).float() / 127.5 - 1
    styles = translator.random_styles(1, torch.Generator().manual_seed(0))
    canvas = Canvas(3, side, side, torch.float32)
    settings = Settings(10**9, statistics=statistics, tile=(side, side))
    OutOfCoreTranslation(translator, TensorSource(image), styles, settings).run([canvas])
    inner = canvas.image[:, _MARGIN : _MARGIN + _CORE, _MARGIN : _MARGIN + _CORE]
    return ((inner + 1) * 127.5).round().permute(1, 2, 0).numpy()


def first_variance(slide: np.ndarray) -> Tensor:
    """Return the variance of each channel of the first convolution over the whole slide, in float64."""
    (encoder,) = (net for name, net in load_translator(MODEL).networks().items() if name.endswith("enc_content"))
    conv = next(module for module in encoder.modules() if isinstance(module, torch.nn.Conv2d))
    height, width, _ = slide.shape
    pad = conv.kernel_size[0] // 2
    total, squares = torch.zeros(2, conv.out_channels, dtype=torch.float64)
    for top in range(0, height, TILE):
        rows = np.arange(top - pad, min(top + TILE, height) + pad)
        rows = np.where(rows < 0, -rows, np.where(rows >= height, 2 * height - 2 - rows, rows))
        band = torch.from_numpy(slide[rows].transpose(2, 0, 1).astype(np.float32))[None] / 127.5 - 1
        with torch.no_grad():
            values = torch.nn.functional.conv2d(
                torch.nn.functional.pad(band, (pad, pad, 0, 0), mode="reflect"), conv.weight
            )
        total += values.sum((0, 2, 3), dtype=torch.float64)
        squares += values.double().square_().sum((0, 2, 3))
    mean = total / (height * width)
    return squares / (height * width) - mean.square()


def check(side: int, memory: str, tmp_path: Path) -> dict[str, object]:
    slide, output = tmp_path / "slide.tif", tmp_path / "out"
    write_slide(slide, side)
    figures = {"side": side, **translated(slide, output, memory)}
    print(json.dumps(figures))
    assert "out of core" in figures["plan"]
    assert not (output / ".scratch").exists()
    source = tifffile.imread(slide)
    with tifffile.TiffFile(output / "slide_style00.tif") as file:
        page = file.pages[0]
        assert (page.shape, page.dtype, page.tile) == ((side, side, 3), np.uint8, (TILE, TILE))
        assert file.is_bigtiff
        result = page.asarray()
    statistics = output / "statistics.safetensors"
    moments = read_statistics(statistics).moments["enc_content.1.conv"]
    variance = first_variance(source)
    torch.testing.assert_close(moments.squares / moments.count, variance, rtol=1e-4, atol=1e-7)
    assert moments.count == side * side
    last = (side - _CORE - _MARGIN) // 4 * 4
    for top, left in ((_MARGIN, _MARGIN), (side // 8 * 4, _MARGIN), (last, last), (side // 12 * 4, last)):
        expected = region_of(source, statistics, top, left)
        found = result[top : top + _CORE, left : left + _CORE]
        assert np.ptp(found) > 50
        assert np.abs(found - expected).max() <= 1, (top, left)
    return figures


def test_small(tmp_path: Path) -> None:
    check(400, "20MB", tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads resident memory from Linux's /proc")
def test_large(tmp_path: Path) -> None:
    """100 megapixels in 2 GB of resident memory. Python and torch take about 0.75 GB of it."""
    assert check(10_000, "1.2GB", tmp_path)["peak_bytes"] <= 2e9
