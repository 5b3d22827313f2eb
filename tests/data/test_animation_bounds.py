"""Animations whose frames do not fit in memory."""

import struct
from pathlib import Path

import pytest
from PIL import Image

from fastmunit.data.animation import animated_format, read_animation
from fastmunit.errors import DataError


def write(path: Path, side: int, frames: int) -> Path:
    """Write a GIF whose frames after the first one change a pixel, in 25 bytes each."""
    Image.new("P", (side, side)).save(path, "GIF")
    frame = b"\x21\xf9\x04\0\1\0\0\0,"
    frame += struct.pack("<HHHH", 0, 0, 1, 1) + b"\0\2\2D\1\0"
    path.write_bytes(path.read_bytes()[:-1] + frame * (frames - 1) + b"\x3b")
    return path


def test_frames_that_do_not_fit_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastmunit.data.memory_limit.total_memory", lambda: 1 << 30)
    path = write(tmp_path / "image.gif", 2000, 1000)
    assert animated_format(path) == "GIF"
    with pytest.raises(DataError, match=r"image\.gif has 1,000 frames of 2000 x 2000 pixels, which need 24 GB of mem"):
        read_animation(path, 3)
    assert len(read_animation(write(path, 20, 5), 3).frames) == 5
