"""The examples with slides, volumes and scenes: their files, their measures, and short runs."""

from __future__ import annotations

import builtins
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from examples import brain_slices, satellite, scientific, stain
from fastmunit.errors import FastmunitError
from fastmunit.image_files.open import open_image
from fastmunit.region import Region

SECONDS = 0.01 / 60


@pytest.fixture(scope="module")
def tifffile() -> Any:
    return pytest.importorskip("tifffile", reason="tifffile is not installed")


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (64, 32, 3), dtype=np.uint8)


def test_an_absent_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *arguments: Any, **options: Any) -> Any:
        if name.split(".")[0] in ("skimage", "nilearn"):
            raise ImportError(f"No module named {name!r}")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(FastmunitError, match="pip install scikit-image"):
        stain.stains()
    with pytest.raises(SystemExit, match=r"error: this example needs nilearn: pip install nilearn"):
        brain_slices.main(Path("nowhere"))
    assert not Path("nowhere").exists()


def test_the_command_is_run_and_its_failure_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    status = SimpleNamespace(returncode=0)
    monkeypatch.setattr(scientific.subprocess, "run", lambda command, check: commands.append(command) or status)
    run, image = tmp_path / "run", tmp_path / "brain.nii.gz"
    for name in ("brain_style01.nii.gz", "brain_style00.nii.gz", "sheet.png"):
        (tmp_path / name).touch()
    outputs = scientific.translate(run, image, tmp_path, "--styles", "2")
    assert [path.name for path in outputs] == ["brain_style00.nii.gz", "brain_style01.nii.gz"]
    given = ["--checkpoint", str(run), "--input", str(image), "--output", str(tmp_path), "--styles", "2"]
    assert commands == [[sys.executable, "-m", "fastmunit", "translate", *given]]
    status.returncode = 1
    with pytest.raises(FastmunitError, match=r"brain\.nii\.gz was not translated"):
        scientific.translate(run, image, tmp_path)


def test_panels_are_placed_in_rows_below_captions(tmp_path: Path) -> None:
    black, white = (scientific.gray(np.full((20, 30), value), 0, 1) for value in (-1.0, np.nan))
    white[:] = 255
    scientific.save_panels(tmp_path / "a" / "p.png", [[black, white], [white, black]], ["one", "two"])
    with Image.open(tmp_path / "a" / "p.png") as image:
        pixels = np.asarray(image)
    assert pixels.shape == (22 + 2 * 26 - 6, 2 * 36 - 6, 3)
    assert not pixels[22:42, :30].any() and not pixels[48:68, 36:].any()
    assert pixels[:22].min() < 128, "the captions"
    assert (pixels[22:42, 30:] == 255).all()


def test_gray_maps_the_range_and_what_has_no_data() -> None:
    levels = scientific.gray(np.array([[-1.0, 2.0, 3.0, 4.0, 9.0, np.nan]]), 2, 4)
    assert levels.shape == (1, 6, 3) and levels[0, :, 1].tolist() == [0, 0, 128, 255, 255, 0]


@pytest.mark.parametrize("side", [64, 97, 600])
def test_a_slide_is_the_mirrored_picture(tifffile: Any, picture: np.ndarray, side: int, tmp_path: Path) -> None:
    stain.write_slide(tmp_path / "slide.ome.tif", picture, side, [])
    with open_image(tmp_path / "slide.ome.tif") as reader:
        assert (reader.height, reader.width, reader.channels) == (side, side, 3)
        found = reader.read().transpose(1, 2, 0)
        assert len(reader.levels) == (2 if side > 512 else 1)
    repeats = -(-side // 32)
    expected = np.pad(picture, ((0, 64 * repeats - 64), (0, 32 * repeats - 32), (0, 0)), "symmetric")
    assert np.array_equal(found, expected[:side, :side])


def test_levels_of_a_slide_are_means(tifffile: Any, picture: np.ndarray, tmp_path: Path) -> None:
    channels = picture[..., :2].astype(np.float32) / 7
    stain.write_slide(tmp_path / "stains.ome.tif", channels, 520, ["Hematoxylin", "DAB"])
    with open_image(tmp_path / "stains.ome.tif") as reader:
        assert reader.channel_names == ("Hematoxylin", "DAB") and reader.dtype == np.float32
        part = reader.read(Region(4, 6, 40, 20))
    assert np.array_equal(part, channels[4:44, 6:26].transpose(2, 0, 1))
    with tifffile.TiffFile(tmp_path / "stains.ome.tif") as file:
        half = file.series[0].levels[1].asarray()
    assert half.shape == (2, 260, 260)
    assert np.allclose(half[:, 0, 0], channels[:2, :2].mean(axis=(0, 1)))


def test_the_seam_ratio_sees_seams() -> None:
    smooth = np.add.outer(np.arange(300.0), np.arange(300.0))
    assert stain.seam_ratio(smooth) == pytest.approx(1)
    tiled = smooth + 50 * ((np.arange(300) // stain.NAIVE_TILE) % 2)
    assert stain.seam_ratio(tiled) > 20


def test_brain_files_have_the_affines_of_their_slices(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel", reason="nibabel is not installed")
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    affine[:3, 3] = 5, 6, 7
    values = np.random.default_rng(0).random((5, 6, 7), dtype=np.float32)
    t1, gray_matter = nibabel.Nifti1Image(values, affine), nibabel.Nifti1Image(1 - values, affine)
    brain_slices.write_volumes(t1, gray_matter, tmp_path)
    for domain, expected in (("trainA", values), ("trainB", 1 - values)):
        image = nibabel.load(tmp_path / domain / "brain.nii.gz")
        assert image.affine[2].tolist() == [0, 0, 6, 7]
        assert np.array_equal(image.get_fdata(dtype=np.float32), expected[:, :, ::2])
    same, agreement = brain_slices.compare(t1, gray_matter, t1, tmp_path / "p.png")
    assert same and agreement == pytest.approx(-1)


def test_scenes_have_their_calibration_and_georeference(
    tifffile: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(satellite, "COUNTS", {"trainA": 1, "trainB": 2, "held_out": 1})
    first = satellite.write_scenes(tmp_path / "one", seed=3)
    assert satellite.write_scenes(tmp_path / "two", seed=3) == first
    assert set(json.loads((tmp_path / "one" / "gains.json").read_text())) == set(first)
    assert set(first) == {"trainB/scene_00.tif", "trainB/scene_01.tif", "held_out/scene_00.tif"}
    with open_image(tmp_path / "one" / "trainA" / "scene_00.tif") as reader:
        values = reader.read()
        assert (reader.dtype, reader.nodata, values.shape) == (np.uint16, 0, (4, 192, 192))
        assert (values == 0).all(axis=0).sum() == 48 * 49 // 2 and (values[:, 60:] > 0).all()
    for name, sensor in first.items():
        with open_image(tmp_path / "one" / name) as reader:
            assert reader.dtype == np.float32 and (reader.read() > sensor.offset).all()
        with tifffile.TiffFile(tmp_path / "one" / name) as file:
            assert file.pages[0].geotiff_tags["ModelPixelScale"][:2] == [10, 10]


def test_gains_are_predicted_by_least_squares() -> None:
    random = np.random.default_rng(0)
    codes, new_codes = random.random((9, 4)), random.random((3, 4))
    weights = np.array([1.0, -2, 3, 0.5])
    predicted = satellite.predicted_gains(codes, codes @ weights + 7, new_codes)
    assert np.allclose(predicted, new_codes @ weights + 7)


@pytest.mark.slow
def test_the_stain_example_runs(tifffile: Any, tmp_path: Path) -> None:
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    figures = stain.separate(tmp_path, 300, SECONDS, 0)
    assert all(np.isfinite(value) for value in figures.values()) and len(figures) == 5
    with open_image(tmp_path / "translated" / "slide_style00.ome.tif") as reader:
        assert (reader.height, reader.width, reader.channels, reader.dtype) == (300, 300, 2, np.float32)
    assert (tmp_path / "stain.jpg").stat().st_size > 10_000


@pytest.mark.slow
def test_the_brain_example_runs(tmp_path: Path) -> None:
    pytest.importorskip("nilearn", reason="nilearn is not installed")
    same_affine, agreement = brain_slices.translate_brain(tmp_path, SECONDS, 0)
    assert same_affine and np.isfinite(agreement)
    assert (tmp_path / "brain_slices.jpg").stat().st_size > 10_000


@pytest.mark.slow
def test_the_satellite_example_runs(tifffile: Any, tmp_path: Path) -> None:
    figures = satellite.calibrate(tmp_path, SECONDS, 0)
    assert len(figures) == 3 and all(-1 <= value <= 1 for value in figures.values())
    scene, translated = tmp_path / "trainA" / "scene_00.tif", tmp_path / "translated" / "scene_00_reference01.tif"
    with open_image(scene) as given, open_image(translated) as made:
        assert np.array_equal(np.isin(made.read(), (0,)).all(axis=0), (given.read() == 0).all(axis=0))
    with tifffile.TiffFile(scene) as given, tifffile.TiffFile(translated) as made:
        assert made.pages[0].geotiff_tags == given.pages[0].geotiff_tags
        assert made.pages[0].dtype == np.float32
