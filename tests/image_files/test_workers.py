"""Readers in other processes, as the workers of a data loader use them."""

import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from fastmunit.image_files.open import open_image
from fastmunit.image_files.reader import ImageReader
from fastmunit.region import Region

SHARED: list[ImageReader] = []
"""The reader that forked workers inherit."""


def regions_are_right(seed: int) -> bool:
    """Compare random regions of the shared reader with the values of the image."""
    (reader,) = SHARED
    rng = np.random.default_rng(seed)
    image = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    for _ in range(50):
        region = Region(*(int(value) for value in rng.integers(0, 40, 2)), 20, 20)
        if not np.array_equal(reader.read(region)[0], image[region.slices]):
            return False
    return True


@pytest.mark.parametrize("name", ["image.tif", "image.zarr"])
def test_forked_workers_share_a_reader(tmp_path: Path, name: str) -> None:
    """Read in two processes and here at once. A shared file position would mix up their reads."""
    image = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    if name.endswith(".tif"):
        tifffile = pytest.importorskip("tifffile")
        pytest.importorskip("imagecodecs")
        tifffile.imwrite(tmp_path / name, image, tile=(16, 16), compression="lzw")
    else:
        zarr = pytest.importorskip("zarr", minversion="3")
        array = zarr.create_array(tmp_path / name, shape=image.shape, dtype=image.dtype, chunks=(16, 16))
        array[:] = image
    with open_image(tmp_path / name) as reader:
        reader.read(Region(0, 0, 1, 1))
        SHARED[:] = [reader]
        with multiprocessing.get_context("fork").Pool(2) as pool:
            results = pool.map_async(regions_are_right, range(4), chunksize=1)
            assert regions_are_right(9)
            assert results.get(timeout=120) == [True] * 4
    SHARED.clear()
