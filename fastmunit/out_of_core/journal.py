"""The record of what has been computed, from which an interrupted translation is resumed."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch

from fastmunit.errors import FastmunitError
from fastmunit.files import atomic_write, printable, try_lock
from fastmunit.out_of_core.moments import Moments

_FILE = "journal.jsonl"


class Part(NamedTuple):
    """The first tiles of a pass.

    Attributes:
        tile: Height and width of the tiles.
        stored: Number of tiles that are stored.
        moments: Statistics of these tiles.
    """

    tile: tuple[int, int]
    stored: int
    moments: Moments


class Journal:
    """A folder with stored maps, and a file that lists the finished ones, the finished tiles, and all statistics.

    Each line of the file is JSON. The first is the fingerprint of the translation. A line that was cut short is
    ignored. The folder is locked while it is open.

    Args:
        folder: The folder. It is created.
        fingerprint: Text that is different if anything changes that the results depend on. A folder with another
            fingerprint is emptied.

    Attributes:
        maps: Names of the stored maps.
        moments: Statistics by the name of their map.
        parts: Finished tiles by the name of their pass, for passes that are not finished.

    Raises:
        FastmunitError: If the folder cannot be written, or another process uses it.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder
        self.maps: set[str] = set()
        self.moments: dict[str, Moments] = {}
        self.parts: dict[str, Part] = {}
        header = {"fingerprint": fingerprint, "boot": _boot()}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock: IO[str] = (folder / "lock").open("a", encoding="utf-8")
        except OSError as error:
            raise FastmunitError(
                f"cannot write into {printable(folder)}: {error.strerror}. Give a --scratch folder that you can write."
            ) from error
        if not try_lock(self._lock):
            self._lock.close()
            raise FastmunitError(
                f"another process translates with {printable(folder)}: wait for it, or give another --scratch."
            )
        lines = self._lines()
        if not lines or lines[0] != header:
            self._clear()
            lines = [header]
        self._load(lines[1:])
        with atomic_write(folder / _FILE, "w") as file:  # without a line that was cut short
            file.writelines(json.dumps(line) + "\n" for line in lines)

    def finished(self, name: str, maps: list[str], moments: dict[str, Moments]) -> None:
        """Note that a pass is finished, with the maps that it has stored and the statistics that are known."""
        self.maps |= set(maps)
        self.moments |= moments
        self.parts.pop(name, None)
        statistics = {name: _written(value) for name, value in moments.items()}
        self._append({"pass": name, "maps": maps, "moments": statistics})

    def progressed(self, name: str, part: Part) -> None:
        """Note the first tiles of a pass."""
        self._append({"pass": name, "tile": part.tile, "count": part.stored, "part": _written(part.moments)})

    def _append(self, line: dict[str, Any]) -> None:
        try:
            with (self.folder / _FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise FastmunitError(
                f"cannot write {printable(self.folder / _FILE)}: {error.strerror}. Free some space, and run the same "
                "command again."
            ) from error

    def close(self) -> None:
        """Release the folder. What is in it stays for the next run."""
        self._lock.close()

    def remove(self) -> None:
        """Remove the folder."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _lines(self) -> list[dict[str, Any]]:
        """Return the lines of the file up to the first one that is damaged."""
        lines = []
        with suppress(OSError, ValueError):
            for line in (self.folder / _FILE).read_text(encoding="utf-8").splitlines():
                value = json.loads(line)
                if not isinstance(value, dict):
                    break
                lines.append(value)
        return lines

    def _load(self, lines: list[dict[str, Any]]) -> None:
        with suppress(KeyError, TypeError, ValueError):
            for line in lines:
                if "part" in line:
                    height, width = line["tile"]
                    self.parts[line["pass"]] = Part((height, width), int(line["count"]), _read(line["part"]))
                    continue
                self.moments |= {name: _read(value) for name, value in line["moments"].items()}
                self.maps |= set(line["maps"])
                self.parts.pop(line["pass"], None)

    def _clear(self) -> None:
        for path in self.folder.glob("*.map"):
            path.unlink(missing_ok=True)


def _written(moments: Moments) -> dict[str, Any]:
    return {"count": moments.count, "mean": moments.mean.tolist(), "squares": moments.squares.tolist()}


def _read(values: dict[str, Any]) -> Moments:
    mean, squares = (torch.tensor(values[key], dtype=torch.float64) for key in ("mean", "squares"))
    return Moments(int(values["count"]), mean, squares)


def _boot() -> str:
    """Return a text that changes when the system restarts: maps are not flushed to disk, so a crash may lose parts."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""
