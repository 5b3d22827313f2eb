import os
import socket
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from fastmunit.config import Config
from fastmunit.data import find_images, input_images, list_images
from fastmunit.data.images import decode_image, read_header
from fastmunit.data.lists import read_image_list
from fastmunit.data.paths import domain_files
from fastmunit.errors import ConfigError, DataError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_folders_are_walked_and_sorted(tmp_path: Path) -> None:
    touch(tmp_path, "b.JPG", "a/z.png", "a/sub/y.TIFF", "c.jpeg", "d.ppm", "e.bmp", "f.tif")
    touch(tmp_path, "g.webp", "h.gif", "i.PGM", "j.qoi", "k.mpo", "l.tga")
    touch(tmp_path, "notes.txt", "x.jpg.txt", "._b.jpg", "thumbs.db", "a/film.mpg", "page.ps", "noextension")
    touch(tmp_path, ".git/index", "a/.cache/entry")
    found = find_images(tmp_path)
    assert found.paths == list_images(tmp_path)
    names = [str(path.relative_to(tmp_path)) for path in found.paths]
    assert names[:7] == ["a/sub/y.TIFF", "a/z.png", "b.JPG", "c.jpeg", "d.ppm", "e.bmp", "f.tif"]
    assert names[7:] == ["g.webp", "h.gif", "i.PGM", "j.qoi", "k.mpo", "l.tga"]
    assert found.left_out == ["a/film.mpg", "noextension", "notes.txt", "page.ps", "thumbs.db", "x.jpg.txt"]
    assert found.note == f"{tmp_path}: 6 files left out: a/film.mpg, noextension, notes.txt and 3 more."
    assert find_images(tmp_path / "a" / "sub").note is None


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path, "root/a/1.png", "root/z.png", "elsewhere/sub/2.png", "elsewhere/3.png", "trainB/4.png")
    links = {
        "root/b": "../elsewhere",
        "root/c": "../elsewhere/sub",  # already read as b/sub
        "root/a/again": "../a",
        "root/up": "..",  # contains the root and the other domain
        "root/itself": "itself",
        "elsewhere/back": "../root",
        "root/lost.png": "nowhere.png",
        "root/d.png": "../trainB/4.png",
    }
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    found = find_images(tmp_path / "root")
    names = [str(path.relative_to(tmp_path / "root")) for path in found.paths]
    assert names == ["a/1.png", "b/3.png", "b/sub/2.png", "d.png", "lost.png", "z.png"]
    reason = "(a link to a parent folder or to one already read)"
    assert found.left_out == [f"{name} {reason}" for name in ("a/again", "b/back", "c")] + ["itself", f"up {reason}"]
    with pytest.raises(DataError, match=r"lost\.png does not exist"):
        read_header(tmp_path / "root/lost.png")


def test_special_files_are_left_out_or_refused(tmp_path: Path) -> None:
    """Opening a FIFO or a device could block forever."""
    touch(tmp_path, "images/a.png")
    os.mkfifo(tmp_path / "images/pipe.png")
    (tmp_path / "images/terminal.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "images/socket.png"))
        found = find_images(tmp_path / "images")
        assert [path.name for path in found.paths] == ["a.png"]
        assert found.left_out == [f"{name}.png (not a regular file)" for name in ("pipe", "socket", "terminal")]
        for name, kind in (("pipe", "a FIFO"), ("socket", "a socket"), ("terminal", "a device")):
            path = tmp_path / f"images/{name}.png"
            for read in (read_header, partial(decode_image, channels=3), input_images):
                with pytest.raises(DataError, match=rf"{name}\.png is {kind}, not a regular file"):
                    read(path)
            with pytest.raises(DataError, match=rf"image list .*{name}\.png is {kind}, not a regular file"):
                read_image_list(path, tmp_path / "images")
            (tmp_path / "list.txt").write_text(f"a.png\n{name}.png\n")
            with pytest.raises(DataError, match=rf"1 of 2 files .* line 2: .*{name}\.png is {kind}"):
                read_image_list(tmp_path / "list.txt", tmp_path / "images")
    with pytest.raises(DataError, match=r"images is a folder, not a regular file"):
        decode_image(tmp_path / "images", 3)


def test_names_that_are_too_long_or_not_utf8(tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/caf\xe9 \xff"
    Path(os.fsdecode(odd)).mkdir()
    Image.new("RGB", (5, 4)).save(os.fsdecode(odd + b"/\xe9.png"))
    (path,) = list_images(os.fsdecode(odd))
    assert decode_image(path, 3).shape == (3, 4, 5)
    with pytest.raises(DataError, match=r"caf\\xe9 \\xff/\\xe9\.png has 3 bands"):
        decode_image(path, 4)
    for long in ("x" * 256, "x/" * 3000):
        (tmp_path / "list.txt").write_text(f"{long}\n")
        with pytest.raises(DataError, match=r"1 of 1 files .* line 1: .*File name too long"):
            read_image_list(tmp_path / "list.txt", tmp_path)
        for read in (list_images, input_images, partial(read_image_list, folder=tmp_path)):
            with pytest.raises(DataError, match="File name too long"):
                read(long)
        with pytest.raises(ConfigError, match=r"data_root = .*the path "):
            Config.from_dict({"data_root": long})
    (tmp_path / "list.txt").write_text("a\0b.png\n")
    with pytest.raises(DataError, match=r"null byte in line 1: .*UTF-8, not UTF-16"):
        read_image_list(tmp_path / "list.txt", tmp_path)
    with pytest.raises(DataError, match="embedded null"):
        list_images("a\0b")


def test_unicode_forms_of_names_in_lists(tmp_path: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    touch(tmp_path, f"{decomposed}/{composed}.png", f"{composed}.png")
    listing = tmp_path / "list.txt"
    listing.write_text(f"{composed}/{decomposed}.png\n{decomposed}.png\n{composed}.png\n", encoding="utf-8")
    first, second, third = read_image_list(listing, tmp_path)
    assert first == tmp_path / decomposed / f"{composed}.png"
    assert second == third == tmp_path / f"{composed}.png"
    touch(tmp_path, f"{decomposed}.png")  # if both exist, each line names its own file
    _, second, third = read_image_list(listing, tmp_path)
    assert [second.name, third.name] == [f"{decomposed}.png", f"{composed}.png"]
    listing.write_text("caf\u00e8.png\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"1 of 1 files that do not exist"):
        read_image_list(listing, tmp_path)


def test_missing_empty_and_file_for_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere does not exist"):
        list_images(tmp_path / "nowhere")
    touch(tmp_path, "empty/readme.txt")
    with pytest.raises(DataError, match=r"empty contains no images"):
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
    with pytest.raises(DataError, match=r"2 of 3 files that do not exist or cannot be read; first, line 3: .*c\.jpg"):
        read_image_list(listing, tmp_path / "images")
    listing.write_bytes(b"\xff\xfe\xfa\n")
    with pytest.raises(DataError, match="UTF-8"):
        read_image_list(listing, tmp_path / "images")
    with pytest.raises(DataError, match=r"other does not exist: the list .*list\.txt names images in it"):
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
