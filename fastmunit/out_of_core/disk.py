"""Disk space of a scratch folder."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path


def free_bytes(folder: Path) -> int:
    """Return the bytes that maps may take in a folder, which need not exist yet: what is free, and its own maps."""
    there = sum(path.stat().st_size for path in folder.glob("*.map"))
    return shutil.disk_usage(existing(folder)).free + there


def existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    for place in (folder, *folder.absolute().parents):
        with suppress(OSError):  # a folder that cannot be examined is named when maps are written
            if place.is_dir():
                return place
    return Path.cwd()
