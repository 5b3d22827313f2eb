"""The choice between whole images and out of core, from Python and from the command line."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest
import tifffile
import torch
from PIL import Image
from torch import Tensor

import fastmunit as package
from fastmunit.data import read_image
from fastmunit.errors import DataError, FastmunitError
from fastmunit.out_of_core.engine import whole_image_bytes
from fastmunit.region import Region
from fastmunit.translation.large_images import Resources, memory_of, translate_image
from fastmunit.translation.large_pictures import PictureSink
from fastmunit.translation.references import encode_reference
from tests.out_of_core.models import MODELS, picture, styles_of, untrained


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "model"
    untrained("munit", torch.float32).save_pretrained(folder)
    return folder


def image(height: int = 200, width: int = 280) -> Tensor:
    return picture(3, height, width, torch.float32)


def test_the_choice_by_memory(model: Path, tmp_path: Path) -> None:
    translator = package.load_translator(model)
    codes = styles_of(translator)
    whole = translator.translate(image(), codes)
    said: list[str] = []
    for memory, words in (("1.2MB", "out of core"), ("1GB", "as a whole")):
        parts: list[float] = []
        resources = Resources(memory_of(memory), tmp_path / "scratch", say=said.append, progress=parts.append)
        result = translate_image(translator, image(), codes, resources=resources)
        torch.testing.assert_close(result, whole, rtol=0, atol=1e-5)
        assert words in said[-1]
        assert parts == sorted(parts)
    assert re.search(r"passes in \d+ tiles, .* on disk, .* of memory, about \d+ s\.$", said[0])
    assert not (tmp_path / "scratch").exists()


def test_from_python(model: Path, tmp_path: Path) -> None:
    whole = package.translate(model, image(), 2)
    small = package.translate(model, image(), 2, memory="1.2MB", scratch=tmp_path)
    torch.testing.assert_close(small, whole, rtol=0, atol=1e-5)
    file = tmp_path / "look.safetensors"
    saved = package.translate(model, image(), 2, save_statistics=file)
    torch.testing.assert_close(saved, whole, rtol=0, atol=1e-5)
    fixed = package.translate(model, [image(), image(40, 40)], 2, statistics=file)
    torch.testing.assert_close(fixed[0], whole, rtol=0, atol=1e-5)
    assert float((fixed[1] - package.translate(model, image(40, 40), 2)).abs().max()) > 1e-3
    local = package.translate(model, image(), 2, statistics="local")
    torch.testing.assert_close(local, whole)  # one tile holds this image


def test_a_full_disk_leaves_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    words = r"cannot write .*a\.png: No space left on device"
    sink, whole = PictureSink(tmp_path / "a.png", tmp_path, 3, 20, 30), Region(0, 0, 20, 30)
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(FastmunitError, match=words):
            sink.write(image(20, 30)[None], whole)
    sink.write(image(20, 30)[None], whole)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(FastmunitError, match=words):
            sink.save()
    assert list(tmp_path.iterdir()) == []
    sink.save()
    torch.testing.assert_close(read_image(tmp_path / "a.png", 3), image(20, 30), rtol=0, atol=1.1 / 255)
    torch.testing.assert_close(sink.preview(), image(20, 30), rtol=0, atol=1.1 / 255)


def test_wrong_arguments(model: Path, tmp_path: Path) -> None:
    for memory, error, words in (
        ("much", ValueError, "expected a size such as 8GB"),
        (0, ValueError, "positive"),
        (-5, ValueError, "positive"),
        (1.5, TypeError, "got float"),
        (True, TypeError, "got bool"),
    ):
        with pytest.raises(error, match=words):
            package.translate(model, image(), memory=memory)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="does not exist"):
        package.translate(model, image(), statistics=tmp_path / "none")
    with pytest.raises(ValueError, match="leave statistics out"):
        package.translate(model, image(), statistics="local", save_statistics=tmp_path / "a")
    with pytest.raises(ValueError, match="of one image, got 2"):
        package.translate(model, [image(), image()], save_statistics=tmp_path / "a")
    with pytest.raises(FastmunitError, match="raise --memory"):
        package.translate(model, image(), memory=100)


@pytest.mark.parametrize("name", [name for name in MODELS if name.split(",")[0] in ("munit", "cyclegan", "bicyclegan")])
def test_estimated_memory_grows_with_the_image(name: str) -> None:
    translator = untrained(name, torch.float32)
    small, large = (whole_image_bytes(translator, side, side) for side in (256, 512))
    assert small > 256 * 256 * 4 * (translator.channels + 4)
    larger = whole_image_bytes(translator, 1024, 1024)
    assert larger - large == pytest.approx(4 * (large - small), rel=0.02)


def test_references_are_encoded_out_of_core(model: Path, tmp_path: Path) -> None:
    """The code equals that of the whole image, for a slide that is read by region and for a picture."""
    translator = package.load_translator(model)
    reference = image(480, 420)
    pixels = ((reference + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    tifffile.imwrite(tmp_path / "slide.tif", pixels, tile=(64, 64), photometric="rgb")
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    expected = translator.style_of(read_image(tmp_path / "picture.png", 3))
    for path, memory in (("slide.tif", 2_500_000), ("picture.png", 2_500_000), ("slide.tif", None)):
        said: list[str] = []
        resources = Resources(memory, tmp_path / "scratch", say=said.append)
        code, shown = encode_reference(translator, tmp_path / path, resources)
        torch.testing.assert_close(code, expected, rtol=0, atol=1e-5)
        assert said == ([] if memory is None else ["reference of 420x480: style out of core."])
        assert shown.shape == (3, 480, 420)
    outputs = [package.translate(model, image(), tmp_path / "slide.tif", memory=m) for m in ("2.5MB", None)]
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-4)
