from pathlib import Path

import pytest

from fastmunit.config import Config
from fastmunit.data import list_images
from fastmunit.data.paths import domain_files, read_image_list
from fastmunit.errors import ConfigError, DataError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_folders_are_walked_and_sorted(tmp_path: Path) -> None:
    touch(tmp_path, "b.JPG", "a/z.png", "a/sub/y.TIFF", "c.jpeg", "d.ppm", "e.bmp", "f.tif")
    touch(tmp_path, "notes.txt", "x.jpg.txt", "._b.jpg", "thumbs.db")
    names = [str(path.relative_to(tmp_path)) for path in list_images(tmp_path)]
    assert names == ["a/sub/y.TIFF", "a/z.png", "b.JPG", "c.jpeg", "d.ppm", "e.bmp", "f.tif"]


def test_missing_empty_and_file_for_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere does not exist"):
        list_images(tmp_path / "nowhere")
    touch(tmp_path, "empty/readme.txt")
    with pytest.raises(DataError, match=r"empty holds no images"):
        list_images(tmp_path / "empty")
    with pytest.raises(DataError, match="is not a folder"):
        list_images(tmp_path / "empty" / "readme.txt")


def test_lists_keep_their_order_and_repetitions(tmp_path: Path) -> None:
    touch(tmp_path, "images/b.jpg", "images/a b.jpg")
    (tmp_path / "list.txt").write_text("\ufeffb.jpg\r\n\r\n  a b.jpg  \nb.jpg\n", encoding="utf-8")
    names = [path.name for path in read_image_list(tmp_path / "list.txt", tmp_path / "images")]
    assert names == ["b.jpg", "a b.jpg", "b.jpg"]


def test_list_errors_name_list_line_and_file(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg")
    listing = tmp_path / "list.txt"
    with pytest.raises(DataError, match=r"list\.txt does not exist"):
        read_image_list(listing, tmp_path / "images")
    listing.write_text("\n")
    with pytest.raises(DataError, match=r"list\.txt is empty"):
        read_image_list(listing, tmp_path / "images")
    listing.write_text("a.jpg\n\nc.jpg\nd.jpg\n")
    with pytest.raises(DataError, match=r"2 of 3 files that do not exist; first, line 3: .*c\.jpg"):
        read_image_list(listing, tmp_path / "images")
    listing.write_bytes(b"\xff\xfe\xfa\n")
    with pytest.raises(DataError, match="UTF-8"):
        read_image_list(listing, tmp_path / "images")
    with pytest.raises(DataError, match=r"other of list .* does not exist"):
        read_image_list(listing, tmp_path / "other")


def test_domain_files_in_folder_and_list_mode(tmp_path: Path) -> None:
    touch(tmp_path, "trainA/1.jpg", "testB/2.jpg", "images/3.jpg", "images/4.jpg")
    (tmp_path / "list.txt").write_text("4.jpg\n")
    config = Config(data_root=str(tmp_path))
    assert domain_files(config, "train", "a").paths == [tmp_path / "trainA/1.jpg"]
    assert domain_files(config, "test", "b").paths == [tmp_path / "testB/2.jpg"]
    with pytest.raises(DataError, match="testA does not exist"):
        domain_files(config, "test", "a")
    images = str(tmp_path / "images")
    config = Config(data_folder_train_a=images, data_list_train_a=str(tmp_path / "list.txt"), data_folder_test_b=images)
    assert domain_files(config, "train", "a").paths == [tmp_path / "images/4.jpg"]
    assert len(domain_files(config, "test", "b").paths) == 2
    with pytest.raises(ConfigError, match="data_folder_train_b"):
        domain_files(config, "train", "b")
    with pytest.raises(DataError, match=r"data_root .* does not exist"):
        domain_files(Config(data_root=str(tmp_path / "gone")), "train", "a")
