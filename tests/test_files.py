"""Atomic writes, path checks and tensor files."""

from __future__ import annotations

import os
import socket
import zipfile
from pathlib import Path

import pytest
import torch

from fastmunit.errors import CheckpointError, DataError, FastmunitError
from fastmunit.files import (
    atomic_write,
    load_tensors,
    printable,
    require_apart,
    require_regular_file,
    require_writable,
    save_tensors,
    write_text,
)


def test_a_failing_block_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "note.txt"
    write_text(path, "old ü")
    with pytest.raises(TypeError), atomic_write(path, "w") as file:
        file.write(len("new"))
    assert path.read_text(encoding="utf-8") == "old ü"
    assert os.listdir(path.parent) == ["note.txt"]


def test_files_that_are_read_are_found_by_any_path(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "a.png")
    read = [tmp_path / "a.png"]
    for path in (tmp_path / "a.png", tmp_path / "link", tmp_path / ".." / tmp_path.name / "a.png"):
        with pytest.raises(FastmunitError, match=rf"{path.name} is an input and would be overwritten"):
            require_apart([tmp_path / "b.png", path], read)
    require_apart([tmp_path / "b.png"], read)


def test_tensors_survive(tmp_path: Path) -> None:
    content = {"a": torch.arange(5), "b": [1.5, "text"]}
    save_tensors(content, tmp_path / "x.pt")
    loaded = load_tensors(tmp_path / "x.pt")
    assert torch.equal(loaded["a"], content["a"]) and loaded["b"] == content["b"]
    assert (tmp_path / "x.pt").stat().st_mode & 0o444 == 0o444 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_full_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    write_text(tmp_path / "x.pt", "old")

    def full(*_: object, **__: object) -> tuple[int, str]:
        partial = tmp_path / "partial"
        partial.touch()
        return os.open("/dev/full", os.O_WRONLY), str(partial)

    monkeypatch.setattr("tempfile.mkstemp", full)
    with pytest.raises(FastmunitError, match=r"cannot write .*x\.pt: .*Free some space"):
        save_tensors({"a": torch.zeros(100_000)}, tmp_path / "x.pt")
    with pytest.raises(FastmunitError, match=r"x\.pt: No space left on device"):
        write_text(tmp_path / "x.pt", "new")
    assert (tmp_path / "x.pt").read_text() == "old"
    assert os.listdir(tmp_path) == ["x.pt"]


def test_unwritable_paths_are_refused_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_writable(tmp_path / "deep" / "deeper" / "x.json", tmp_path / "y.html")
    assert os.listdir(tmp_path) == [], "nothing is left behind"
    (tmp_path / "file").write_text("kept")
    with pytest.raises(FastmunitError, match=r"cannot write .*file/x\.json: .*file is not a folder\. .*choose a"):
        require_writable(tmp_path / "y.html", tmp_path / "file" / "x.json")
    (tmp_path / "x.json").mkdir()
    with pytest.raises(FastmunitError, match=r"x\.json: it is a folder"):
        require_writable(tmp_path / "x.json")

    def full(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(FastmunitError, match="No space left on device"):
        require_writable(tmp_path / "deep" / "x.json")
    assert sorted(os.listdir(tmp_path)) == ["file", "x.json"] and (tmp_path / "file").read_text() == "kept"


def test_read_only_folder(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write into read-only folders")
    tmp_path.chmod(0o500)
    with pytest.raises(FastmunitError, match="Permission denied"):
        write_text(tmp_path / "x", "text")


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FastmunitError, match="cannot write"):
        write_text(tmp_path / "file" / "x", "text")


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tensors({}, tmp_path / "x.pt")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("torch.load", refuse)
    with pytest.raises(CheckpointError, match=r"x\.pt cannot be read: permission denied"):
        load_tensors(tmp_path / "x.pt")


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        load_tensors(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("this is not a checkpoint")
    with pytest.raises(CheckpointError, match=r"text\.pt"):
        load_tensors(tmp_path / "text.pt")


def test_only_regular_files_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # socket paths are short
    Path("file").write_text("x")
    Path("link").symlink_to("file")
    os.mkfifo("fifo")
    Path("folder").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        for name in ("file", "link"):
            require_regular_file(name, "image", DataError)
        for name, reason in {
            "fifo": "is a FIFO, not a regular file",
            "folder": "is a folder, not a regular file",
            "socket": "is a socket, not a regular file",
            "/dev/zero": "is a device, not a regular file",
            "absent": "does not exist",
            "x" * 300: "File name too long",
            "nul\0byte": "embedded null",
        }.items():
            with pytest.raises(DataError, match=f"^image .*{reason}"):
                require_regular_file(name, "image", DataError)


def test_names_that_are_not_utf8_are_shown_escaped() -> None:
    assert printable("\x1b[31mred\n\x9b\u202e\ud800") == "\\x1b[31mred\\n\\x9b\\u202e\\ud800"
    assert printable(os.fsdecode(b"caf\xe9/\xc3\xbc.png")) == "caf\\xe9/ü.png"


def test_longest_names_can_be_written(tmp_path: Path) -> None:
    for name in ("x" * 255, "ü" * 127):
        write_text(tmp_path / name, "text")
        assert (tmp_path / name).read_text() == "text"


def test_compressed_entries_are_refused(tmp_path: Path) -> None:
    plain, compressed = tmp_path / "plain.pt", tmp_path / "compressed.pt"
    torch.save({"weight": torch.zeros(1000)}, plain)
    with zipfile.ZipFile(plain) as file, zipfile.ZipFile(compressed, "w", zipfile.ZIP_DEFLATED) as copy:
        for name in file.namelist():
            copy.writestr(name, bytes(1 << 26) if name.endswith("data/0") else file.read(name))
    assert load_tensors(plain)["weight"].shape == (1000,)
    with pytest.raises(CheckpointError, match=r"compressed\.pt has compressed entries of 67,1.* bytes"):
        load_tensors(compressed)
    torch.save({"weight": torch.zeros(1000)}, plain, _use_new_zipfile_serialization=False)
    assert load_tensors(plain)["weight"].shape == (1000,)


def test_the_file_that_a_link_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/a.txt").write_text("old")
    for name in ("a.txt", "b.txt"):  # b.txt does not exist yet
        (tmp_path / name).symlink_to(f"disk/{name}")
        write_text(tmp_path / name, "new")
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "disk" / name).read_text() == "new"
    assert sorted(os.listdir(tmp_path / "disk")) == ["a.txt", "b.txt"]


def test_links_and_devices_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "nowhere").symlink_to(tmp_path / "none/x")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "null").symlink_to("/dev/null")
    for path, reason in (
        ("nowhere/a.txt", "nowhere is a link that leads nowhere"),
        ("nowhere", "it is a link that leads nowhere"),
        ("circle/a.txt", "circle is a link that leads nowhere"),
        ("circle", "it is a link that leads nowhere"),
        ("null", "it is a device"),
    ):
        with pytest.raises(FastmunitError, match=rf"cannot write .*{path}: .*{reason}"):
            require_writable(tmp_path / path)
        with pytest.raises(FastmunitError, match=rf"cannot write .*{path}: .*{reason}"):
            write_text(tmp_path / path, "text")
    require_apart([tmp_path / "circle"], [tmp_path / "a.png"])
    assert (tmp_path / "null").is_symlink()
    assert not (tmp_path / "none").exists()
