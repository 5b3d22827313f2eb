"""Decoding of all images before training, and the pixel limit."""

import os
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from PIL import Image

from fastmunit import data
from fastmunit.config import Config
from fastmunit.data import transforms
from fastmunit.data.images import decode_image, read_header
from fastmunit.data.opening import pillow_settings
from fastmunit.errors import ConfigError, DataError
from tests.data.conftest import photo


def test_verify_names_all_damaged_images_at_once(make_config: Callable[..., Config], data_root: Path) -> None:
    config = make_config()
    seen: list[tuple[int, int]] = []
    data.verify(config, lambda done, total: seen.append((done, total)))
    assert seen == [(done, 23) for done in range(1, 24)]
    damaged = [f"trainA/{index}.png" for index in range(5)] + ["testB/1.png", "trainB/7.png"]
    for name in damaged[:-1]:
        path = data_root / name
        path.write_bytes(path.read_bytes()[:-2000])
    flipped = bytearray((data_root / damaged[-1]).read_bytes())
    flipped[-16] ^= 1  # the checksum of the image data, which training ignores
    (data_root / damaged[-1]).write_bytes(flipped)
    assert decode_image(data_root / damaged[-1], 3).shape == (3, 80, 80)
    data.check(config)  # the headers are intact
    with pytest.raises(DataError, match=r"7 of 23 images cannot be used:\n") as caught:
        data.verify(config)
    for name in damaged:
        assert f"{data_root / name} is damaged" in str(caught.value)


def test_verify_reads_each_file_once(
    make_config: Callable[..., Config], data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in ("train", "val"):
        (data_root / part).mkdir()
        for index in range(3):
            photo(index, 80, 160).save(data_root / part / f"{index}.png")
    seen: list[Path] = []
    monkeypatch.setattr("fastmunit.data.verification.verify_image", lambda path, *_: seen.append(path))
    data.verify(make_config(pairs="side_by_side"))
    assert len(seen) == len(set(seen)) == 6


def test_errors_for_images_above_the_limit_say_how_to_allow_them(
    make_config: Callable[..., Config], data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = data_root / "trainA" / "0.png"
    Image.new("RGB", (200, 150)).save(path)
    message = r"0\.png has 0\.03 megapixels, more than the limit: .*--max-pixels 30000 \(max_pixels in a conf"
    for limit in (None, 29_999):
        with monkeypatch.context() as patched:
            if limit is None:
                patched.setattr(Image, "MAX_IMAGE_PIXELS", 14_999)
            for read in (decode_image, data.read_image):
                with pytest.raises(DataError, match=message):
                    read(path, 3, limit)
            with pytest.raises(DataError, match=message):
                read_header(path, limit)
            for examine in (data.check, data.verify):
                with pytest.raises(DataError, match=message):
                    examine(make_config(max_pixels=limit))
    with warnings.catch_warnings(), monkeypatch.context() as patched:
        warnings.simplefilter("error")
        patched.setattr(Image, "MAX_IMAGE_PIXELS", 15_000)  # Pillow warns above this, and refuses above twice this
        assert decode_image(path, 3).shape == (3, 150, 200)
        patched.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        config = make_config(max_pixels=30_000)
        data.check(config)
        data.verify(config)
        assert [len(dataset) for dataset in data.training_datasets(config)] == [7, 10]
        assert data.training_datasets(config)[0][0].shape == (3, 64, 64)
        assert Image.MAX_IMAGE_PIXELS == 100
        patched.setattr(Image, "MAX_IMAGE_PIXELS", None)  # set by the user
        assert decode_image(path, 3).shape == (3, 150, 200)


def test_threads_with_different_limits_keep_their_own(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.new("L", (30, 30)).save(path)
    before = Image.MAX_IMAGE_PIXELS

    def read(limit: int) -> bool:
        with nullcontext() if limit >= 900 else pytest.raises(DataError, match=r"0\.0009 megapixels"):
            decode_image(path, 1, limit)
        return True

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(read, [899, 900, 10, 10**12] * 50))
    assert before == Image.MAX_IMAGE_PIXELS


def test_a_forked_process_starts_with_the_settings_of_its_parent(tmp_path: Path) -> None:
    """A DataLoader may fork its workers while another thread of the parent reads an image."""
    path = tmp_path / "x.png"
    Image.new("L", (30, 30)).save(path)
    entered, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with pillow_settings.applied(10**12):
            entered.set()
            leave.wait(60)

    before = Image.MAX_IMAGE_PIXELS
    with ThreadPoolExecutor(1) as threads:
        staying = threads.submit(stay)
        assert entered.wait(60)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns about forks in processes with threads
            child = os.fork()
        if child == 0:
            same = before == Image.MAX_IMAGE_PIXELS and decode_image(path, 1).shape == (1, 30, 30)
            os._exit(0 if same else 1)
        assert os.waitpid(child, 0)[1] == 0
        leave.set()
        staying.result()


def test_sizes_that_do_not_fit_in_memory(
    make_config: Callable[..., Config], data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastmunit.data.memory_limit.total_memory", lambda: 8 * 10**9)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)  # fails if anything is decoded
    with pytest.raises(ConfigError, match=r"display_size 3 with images of 30000x30000 .* would take 65 GB of memory"):
        data.check(make_config(new_size=30_000))
    with pytest.raises(ConfigError, match=r"batch_size 7 with images of 8000x8000 .* 11 GB .* has 8: lower batch_size"):
        data.check(make_config(crop_image_height=8000, crop_image_width=8000, batch_size=7, display_size=1))
    Image.new("RGB", (1, 21_000)).save(data_root / "trainB" / "3.png")
    with pytest.raises(
        DataError, match=r"trainB: 1 of 10 .*3\.png: 21000x1 .* resized to 5376000x256 would take 8 GB .* has 8"
    ):
        data.check(make_config(new_size=256))
    with pytest.raises(DataError, match=r"thing: 21000x1 .* resized to 5376000x256 would take 8 GB of memory"):
        transforms.resize(torch.zeros(3, 21_000, 1, dtype=torch.uint8), 256, "thing")
    assert transforms.resize(torch.zeros(3, 20, 10, dtype=torch.uint8), 5).shape == (3, 10, 5)


def test_files_left_out_are_reported_once_per_folder(make_config: Callable[..., Config], data_root: Path) -> None:
    assert data.check(make_config()) == []
    (data_root / "trainA" / "notes.txt").touch()
    for index in range(5):
        (data_root / "testB" / f"{index}.heif").touch()
    first = f"{data_root / 'trainA'}: 1 file left out: notes.txt."
    second = f"{data_root / 'testB'}: 5 files left out: 0.heif, 1.heif, 2.heif and 2 more."
    assert data.check(make_config()) == [first, second]
    for part in ("train", "val"):
        (data_root / part).mkdir()
        for index in range(3):
            photo(index, 80, 160).save(data_root / part / f"{index}.png")
    (data_root / "train" / "notes.txt").touch()
    assert len(data.check(make_config(pairs="side_by_side"))) == 1
