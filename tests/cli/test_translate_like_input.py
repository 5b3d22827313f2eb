"""Volumes in, volumes out: training on slices, and translation with one style into files like the input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import fastmunit as package
from fastmunit.config import Config
from fastmunit.data.value_range import PixelValues, ValueRange
from fastmunit.translation.like_input import output_range
from tests.cli.conftest import Command
from tests.runs.tiny import assert_same_checkpoint, tiny_config


def volume(seed: int, domain: str) -> np.ndarray:
    """Return signed values (Z, C, Y, X) for domain A, and values from 0 to 4000 for domain B."""
    random = np.random.default_rng(seed)
    low, high = (-1000, 2000) if domain == "A" else (0, 4001)
    return random.integers(low, high, (3, 1, 37, 42)).astype(np.int16)


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("volumes")
    for number, part in enumerate(("trainA", "trainB", "testA", "testB")):
        (root / part).mkdir()
        for index in range(2):
            np.save(root / part / f"{index}.npy", volume(10 * number + index, part[-1]))
    return root


def settings(root: Path, **changes: Any) -> Config:
    values: dict[str, Any] = {
        "new_size": None,
        "input_dim_a": 1,
        "input_dim_b": 1,
        "value_range_a": "auto",
        "value_range_b": [0, 4000],
        "max_iter": 4,
    }
    return tiny_config(root, **{**values, **changes})


@pytest.fixture(scope="module")
def run(volumes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "volumes"
    package.train(settings(volumes), folder, device="cpu")
    return folder


def test_a_resumed_run_gets_the_same_crops(volumes: Path, run: Path, tmp_path: Path) -> None:
    package.train(settings(volumes, max_iter=2), tmp_path / "cut", device="cpu")
    package.train(settings(volumes), tmp_path / "cut", device="cpu", resume=True)
    assert_same_checkpoint(run, tmp_path / "cut", 4)


def test_all_slices_have_one_style(fastmunit: Command, run: Path, volumes: Path, tmp_path: Path) -> None:
    path = volumes / "testA" / "0.npy"
    result = fastmunit("translate", "--checkpoint", run, "--input", path, "--output", tmp_path, "--styles", 2)
    assert result.status == 0, result.err
    assert sorted(file.name for file in tmp_path.glob("*.npy")) == ["0_style00.npy", "0_style01.npy"]
    translator = package.load_translator(run, device="cpu")
    codes = translator.random_styles(2, torch.Generator().manual_seed(0))
    pixels = np.load(path)
    for style in range(2):
        output = np.load(tmp_path / f"0_style0{style}.npy")
        assert (output.dtype, output.shape) == (np.int16, pixels.shape)
        for plane in range(3):
            expected = package.translate(translator, pixels[plane, 0], codes)[style]
            assert np.array_equal(output[plane], ValueRange(0, 4000).from_network(expected, np.int16))
    back = fastmunit(
        "translate", "--checkpoint", run, "--direction", "b2a", "--input", volumes / "testB", "--output", tmp_path / "b"
    )
    assert back.status == 0, back.err
    low, high = Config.load(run / "config.yaml").value_range_a  # type: ignore[misc]
    output = np.load(tmp_path / "b" / "1_style03.npy")
    assert low <= output.min() < 0 < output.max() <= high  # type: ignore[operator]


def test_nifti_keeps_its_geometry_and_missing_pixels(fastmunit: Command, run: Path, tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    values = volume(1, "A")[:, 0].transpose(2, 1, 0).astype(np.float32)
    values[:5, :7, 1] = np.nan
    affine = np.array([[2.0, 0, 0, -9], [0, 3, 0, 8], [0, 0, 4, 7], [0, 0, 0, 1]])
    nibabel.Nifti1Image(values, affine).to_filename(tmp_path / "brain.nii.gz")
    result = fastmunit(
        "translate",
        "--checkpoint",
        run,
        "--input",
        tmp_path / "brain.nii.gz",
        "--output",
        tmp_path / "out",
        "--styles",
        1,
    )
    assert result.status == 0, result.err
    output = nibabel.load(tmp_path / "out" / "brain_style00.nii.gz")
    assert np.array_equal(output.affine, affine)
    pixels = np.asanyarray(output.dataobj)
    assert (pixels.shape, pixels.dtype) == (values.shape, np.float32)
    assert np.array_equal(np.isnan(pixels), np.isnan(values))
    assert 0 <= np.nanmin(pixels) <= np.nanmax(pixels) <= 4000


def test_outputs_as_pictures_and_back(fastmunit: Command, run: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "flat.npy", volume(2, "A")[0, 0])
    pixels = np.random.default_rng(0).integers(0, 4000, (37, 42), dtype=np.uint16)
    Image.fromarray(pixels).save(tmp_path / "deep.png")
    base = ("translate", "--checkpoint", run, "--styles", 1, "--input", tmp_path / "flat.npy", "--input")
    result = fastmunit(*base, tmp_path / "deep.png", "--output", tmp_path / "out")
    assert result.status == 0, result.err
    assert {path.name for path in (tmp_path / "out").glob("*_*")} == {"flat_style00.npy", "deep_style00.png"}
    assert Image.open(tmp_path / "out" / "deep_style00.png").mode == "I;16"
    result = fastmunit(*base, tmp_path / "deep.png", "--output", tmp_path / "pictures", "--no-like-input")
    assert result.status == 0, result.err
    assert {path.name for path in (tmp_path / "pictures").glob("*_*")} == {"flat_style00.png", "deep_style00.png"}
    assert Image.open(tmp_path / "pictures" / "deep_style00.png").mode == "L"


def test_tiffs_are_written_as_they_came(fastmunit: Command, trained: Path, tmp_path: Path) -> None:
    gray = np.random.default_rng(0).integers(0, 65535, (37, 42), np.uint16)
    tifffile.imwrite(tmp_path / "geo.tif", gray, extratags=[(33550, 12, 3, (2.0, 2.0, 0.0), True)])
    tifffile.imwrite(tmp_path / "cells.ome.tif", gray, ome=True, metadata={"axes": "YX", "PhysicalSizeX": 0.5})
    tifffile.imwrite(tmp_path / "photo.tif", (gray >> 8).astype(np.uint8), metadata=None)
    command = ["translate", "--checkpoint", trained, "--styles", 1, "--output", tmp_path / "out"]
    for name in ("geo.tif", "cells.ome.tif", "photo.tif"):
        command += ["--input", tmp_path / name]
    result = fastmunit(*command)
    assert result.status == 0, result.err
    with tifffile.TiffFile(tmp_path / "out" / "geo_style00.tif") as file:
        assert file.pages.first.tags[33550].value == (2.0, 2.0, 0.0)
        assert (file.asarray().shape, file.asarray().dtype) == ((37, 42, 3), np.uint16)
    with tifffile.TiffFile(tmp_path / "out" / "cells_style00.ome.tif") as file:
        assert file.is_ome and 'PhysicalSizeX="0.5"' in str(file.ome_metadata)
        assert (file.asarray().shape, file.asarray().dtype) == ((37, 42, 3), np.uint16)
    assert Image.open(tmp_path / "out" / "photo_style00.png").size == (42, 37)


def test_a_size_does_not_fit_the_metadata(fastmunit: Command, run: Path, volumes: Path, tmp_path: Path) -> None:
    path = volumes / "testA" / "0.npy"
    result = fastmunit("translate", "--checkpoint", run, "--input", path, "--output", tmp_path, "--size", 48)
    assert result.status == 1
    assert "do not fit its metadata: leave --size out, or give --no-like-input" in result.err
    assert not list(tmp_path.glob("*.npy"))
    result = fastmunit("translate", "--checkpoint", run, "--input", path, "--output", tmp_path, "--no-like-input")
    assert result.status == 1
    assert "has 3 slices, where one image is expected" in result.err


def test_slices_with_neighbors_give_one_slice(fastmunit: Command, volumes: Path, tmp_path: Path) -> None:
    config = settings(volumes, slices=3, input_dim_a=3, input_dim_b=3, value_range_a=[-1000, 2000], max_iter=1)
    package.train(config, tmp_path / "run", device="cpu")
    path = volumes / "testA" / "1.npy"
    result = fastmunit(
        "translate", "--checkpoint", tmp_path / "run", "--input", path, "--output", tmp_path, "--styles", 1
    )
    assert result.status == 0, result.err
    output, pixels = np.load(tmp_path / "1_style00.npy"), np.load(path)
    assert output.shape == pixels.shape
    image = ValueRange(-1000, 2000).to_network(pixels[[1, 2, 2], 0])
    translator = package.load_translator(tmp_path / "run", device="cpu")
    codes = translator.random_styles(1, torch.Generator().manual_seed(0))
    expected = ValueRange(0, 4000).from_network(translator.translate(image, codes)[0][1:2], np.int16)
    assert np.array_equal(output[2], expected)


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        (None, "uint16", "uint16"),
        (None, "float32", "float32"),
        (None, "int16", "uint8"),
        ((0, 4000), "int16", "int16"),
        ((0, 4000), "uint8", "uint16"),
        ((-1000, 2000), "uint16", "int16"),
        ((-1000, 70000), "uint8", "int32"),
        ((0, 1), "uint8", "float32"),
        ((0, 1), "float64", "float64"),
        ((0.5, 4.5), "int16", "float32"),
    ],
)
def test_the_type_holds_the_range(values: tuple[float, float] | None, dtype: str, expected: str) -> None:
    given = PixelValues(None if values is None else ValueRange(*map(float, values)))
    assert output_range(given, np.dtype(dtype))[1] == np.dtype(expected)
