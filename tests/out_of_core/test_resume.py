"""Interrupted translations are resumed, and those that cannot run are refused before they start."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from fastmunit.errors import FastmunitError
from fastmunit.out_of_core import choice, execution
from fastmunit.out_of_core.engine import OutOfCoreTranslation, Settings
from fastmunit.out_of_core.execution import Progress
from fastmunit.out_of_core.pixels import TensorSource
from fastmunit.systems.translators import Translator
from tests.out_of_core.models import Canvas, canvases, picture, styles_of, untrained, whole

MEMORY = 20_000


class Killed(BaseException):
    """Ends a translation like a signal."""


def killed_at(tile: int) -> Callable[[Progress], None]:
    count = 0

    def progress(_: Progress) -> None:
        nonlocal count
        count += 1
        if count == tile:
            raise Killed

    return progress


class Case:
    """A translation of two styles that can be run again and again."""

    def __init__(self, scratch: Path, name: str = "munit") -> None:
        self.translator: Translator = untrained(name)
        self.image = picture(3, 40, 48)
        self.styles = styles_of(self.translator)
        self.scratch, self.steps = scratch, list[str]()

    def run(self, progress: Callable[[Progress], object] = lambda _: None, **settings: Any) -> Tensor:
        """Translate. Note the names of the passes that run in `steps`."""
        sinks: list[Canvas] = canvases(self.translator, self.image, self.styles)
        self.steps = []

        def noted(done: Progress) -> None:
            self.steps.append(done.name)
            progress(done)

        options = {"memory": MEMORY, "tile": (16, 24), "scratch": self.scratch, **settings}
        OutOfCoreTranslation(self.translator, TensorSource(self.image), self.styles, Settings(**options)).run(
            sinks, noted
        )
        return torch.stack([sink.image for sink in sinks])

    def kill(self, tile: int) -> list[str]:
        """Run until a tile. Return the names of the passes of the tiles that were computed."""
        with pytest.raises(Killed):
            self.run(killed_at(tile))
        return self.steps


@pytest.mark.parametrize("name", ["munit", "unit with noise"])
def test_resumed_from_any_tile(tmp_path: Path, name: str) -> None:
    case = Case(tmp_path / "scratch", name)
    expected = case.run()
    for tile in (1, 7, 30, len(case.steps) - 1):
        case.kill(tile)
        assert torch.equal(case.run(), expected)
        assert not (tmp_path / "scratch").exists()


def test_a_finished_map_is_not_computed_again(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.run()
    all_steps = case.steps
    before = case.kill(len(all_steps) // 2)
    assert list(tmp_path.glob("*/*.map"))
    case.run()
    assert case.steps == [step for step in all_steps if step not in before or step == before[-1]]


@pytest.mark.parametrize("name", ["munit", "unit with noise"])
def test_finished_tiles_are_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(execution, "_NOTE_SECONDS", 0)
    case = Case(tmp_path, name)
    expected = case.run()
    all_steps = case.steps
    for tile in (3, len(all_steps) // 3, len(all_steps) // 2):
        before = case.kill(tile)
        assert torch.equal(case.run(), expected)
        # The tile at which it was killed is stored, but not noted.
        assert len(case.steps) <= len(all_steps) - len(before) + 1


def test_tiles_of_another_size_start_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "_NOTE_SECONDS", 0)
    case = Case(tmp_path)
    expected = whole(case.translator, case.image, case.styles)
    case.kill(5)
    torch.testing.assert_close(case.run(tile=(24, 16)), expected, rtol=0, atol=1e-12)


def test_changed_weights_start_again(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.kill(30)
    for network in case.translator.networks().values():
        for parameter in network.parameters():
            parameter.data.mul_(1.01)
    result = case.run()
    torch.testing.assert_close(result, whole(case.translator, case.image, case.styles), rtol=0, atol=1e-12)


def test_another_image_starts_again(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.kill(30)
    case.image = case.image.flip(1)
    expected = whole(case.translator, case.image, case.styles)
    torch.testing.assert_close(case.run(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("damage", ["truncate", "garbage", "empty", "map"])
def test_damaged_scratch(tmp_path: Path, damage: str) -> None:
    case = Case(tmp_path)
    expected = case.run()
    case.kill(30)
    (journal,) = tmp_path.glob("*/journal.jsonl")
    text = journal.read_bytes()
    if damage == "map":
        for path in tmp_path.glob("*/*.map"):
            path.write_bytes(path.read_bytes()[:-1])
    else:
        journal.write_bytes({"truncate": text[:-9], "garbage": b"\xff\x00" + text, "empty": b""}[damage])
    assert torch.equal(case.run(), expected)


def test_the_scratch_folder_is_locked(tmp_path: Path) -> None:
    case, other = Case(tmp_path), Case(tmp_path)

    def second(_: Progress) -> None:
        with pytest.raises(FastmunitError, match="another process"):
            other.run()
        raise Killed

    with pytest.raises(Killed):
        case.run(second)


def test_a_small_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(FastmunitError, match=r"need .* GB on disk.*give a --scratch folder"):
        case.run()
    assert case.steps == []
    case.run(memory=10**9)


def test_maps_that_do_not_fit_on_the_disk_are_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "CHEAP", 0)  # store every convolution of these small networks
    case = Case(tmp_path)
    settings = Settings(MEMORY, scratch=tmp_path, tile=(16, 24))

    def planned(free: int) -> OutOfCoreTranslation:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
        return OutOfCoreTranslation(case.translator, TensorSource(case.image), case.styles, settings)

    usual = planned(10**9)
    assert "again" not in usual.describe()
    needed = usual.placement.disk_bytes
    smaller = planned(needed - 1)
    assert smaller.placement.disk_bytes < needed
    assert smaller.placement.work > usual.placement.work
    assert "computes layers again instead of storing them" in smaller.describe()
    expected = whole(case.translator, case.image, case.styles)
    torch.testing.assert_close(case.run(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("part", [0.1, 0.9])
def test_a_full_disk_is_named_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: float) -> None:
    case = Case(tmp_path)
    write, written, room = os.pwrite, 0, float("inf")

    def limited(handle: int, data: Any, position: int) -> int:
        nonlocal written
        if written + len(data) > room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written += len(data)
        return write(handle, data, position)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", limited)
        expected = case.run()
        written, room = 0, part * written
        with pytest.raises(FastmunitError, match=r"No space left on device.*run the same command again"):
            case.run()
    assert torch.equal(case.run(), expected)


@pytest.mark.parametrize("name", ["munit", "unit with noise", "bicyclegan, z everywhere"])
def test_too_little_memory_is_refused(tmp_path: Path, name: str) -> None:
    """The error names an amount of memory that is enough, but not much more."""
    case = Case(tmp_path, name)
    case.image = case.image[:1].expand(case.translator.channels, -1, -1)
    with pytest.raises(FastmunitError, match=r"too little for a tile of .*: raise --memory to") as raised:
        case.run(memory=1000, tile=None)
    enough = int(1e6 * float(str(raised.value).split()[-2]))
    case.run(memory=enough, tile=None)
    with pytest.raises(FastmunitError, match="too little"):
        case.run(memory=(enough - 200_000) // 4, tile=None)


def test_an_unwritable_scratch_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FastmunitError, match="Give a --scratch folder"):
        Case(tmp_path / "file").run()
