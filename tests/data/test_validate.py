import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastmunit import data
from fastmunit.config import Config
from fastmunit.data.opening import pillow_settings
from fastmunit.errors import DataError


def test_good_data_pass(make_config: Callable[..., Config]) -> None:
    data.check(make_config())
    data.check(make_config(new_size=None))


def test_only_headers_are_read(make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("an image was decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", refuse)
    data.check(make_config())


def test_small_images_are_counted_and_named(make_config: Callable[..., Config], data_root: Path) -> None:
    for index in range(5):
        Image.new("RGB", (40, 30)).save(data_root / "trainB" / f"{index}.png")
    with pytest.raises(DataError, match=r"trainB: 5 of 10 images are smaller than the crop 64x64") as caught:
        data.check(make_config(new_size=None))
    message = str(caught.value)
    assert "0.png (30x40" in message
    assert "3.png" not in message
    assert "and 2 more" in message
    data.check(make_config(new_size=64))
    with pytest.raises(DataError, match="70x70 after the resize"):
        data.check(make_config(new_size=70, crop_image_width=72))


def test_damaged_headers_and_wrong_bands(make_config: Callable[..., Config], data_root: Path) -> None:
    (data_root / "testA" / "1.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"testA: 1 of 3 images cannot be used\. .*1\.png is damaged"):
        data.check(make_config())
    with pytest.raises(DataError, match=r"trainA: 7 of 7 images cannot be used\. .*0\.png has 3 bands .*and 4 more"):
        data.check(make_config(input_dim_a=4))


def test_counts(make_config: Callable[..., Config]) -> None:
    with pytest.raises(DataError, match=r"trainA has 7 images, fewer than batch_size 8"):
        data.check(make_config(batch_size=8))
    with pytest.raises(DataError, match=r"testA has 3 images, fewer than display_size 4.*to 3 or less"):
        data.check(make_config(display_size=4))


def test_missing_and_empty_folders(make_config: Callable[..., Config], data_root: Path) -> None:
    for path in (data_root / "testB").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="testB contains no images"):
        data.check(make_config())
    (data_root / "testB").rmdir()
    with pytest.raises(DataError, match="testB does not exist"):
        data.check(make_config())


def test_rotated_photos_are_checked_upright(make_config: Callable[..., Config], data_root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (96, 64)).save(data_root / "trainA" / "turned.jpg", exif=exif)
    data.check(make_config(new_size=None))
    with pytest.raises(DataError, match=r"turned\.jpg \(96x64"):
        data.check(make_config(new_size=None, crop_image_width=72))


def test_checking_does_not_change_the_warning_filters(make_config: Callable[..., Config], data_root: Path) -> None:
    for index in range(200):
        (data_root / "trainA" / f"copy{index}.png").write_bytes((data_root / "trainA/0.png").read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = list(warnings.filters)
        for _ in range(5):
            data.check(make_config())
        assert warnings.filters == before


def test_warnings_are_ignored_until_the_last_thread_leaves() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = list(warnings.filters)
        entered, left = threading.Event(), threading.Event()

        def stay() -> None:
            with pillow_settings.applied(None):
                entered.set()
                left.wait(10)
                warnings.warn("still ignored", stacklevel=1)

        with ThreadPoolExecutor(1) as pool:
            with pillow_settings.applied(None):
                other = pool.submit(stay)
                assert entered.wait(10)
            left.set()
            other.result()
        assert warnings.filters == before


def test_list_mode(make_config: Callable[..., Config], data_root: Path, tmp_path: Path) -> None:
    keys: dict[str, object] = {"data_root": None}
    for part in ("train", "test"):
        for domain in "ab":
            listing = tmp_path / f"{part}_{domain}.txt"
            listing.write_text("".join(f"{index}.png\n" for index in (2, 0, 1)))
            keys[f"data_list_{part}_{domain}"] = str(listing)
            keys[f"data_folder_{part}_{domain}"] = str(data_root / f"{part}{domain.upper()}")
    config = make_config(**keys)
    data.check(config)
    a, _ = data.training_datasets(config)
    assert [Path(path).name for path in a.paths] == ["2.png", "0.png", "1.png"]
    (data_root / "trainB" / "0.png").unlink()
    with pytest.raises(DataError, match=r"train_b\.txt names 1 of 3 files"):
        data.check(config)


def test_16_bit_images_pass_and_load(make_config: Callable[..., Config], data_root: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (80, 90), dtype=np.uint16)
    for path in (data_root / "trainA").iterdir():
        Image.fromarray(deep).save(path)
    config = make_config(input_dim_a=1)
    data.check(config)
    image = data.training_datasets(config)[0][0]
    assert image.shape == (1, 64, 64)
    assert len(image.unique()) > 256
    assert -1 <= image.min() < image.max() <= 1
