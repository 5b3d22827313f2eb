"""The hooks of callbacks, their order, and what they may do."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

import fastmunit
from fastmunit import Callback
from fastmunit.runs import RunFolder, Status, TrainingResult
from fastmunit.runs.callbacks import Callbacks
from fastmunit.systems.base import System
from tests.runs.tiny import assert_same_checkpoint, newest, tiny_config


class Noting(Callback):
    """A callback that notes its hooks, and raises at one of them."""

    def __init__(self, raises_at: str = "") -> None:
        self.hooks: list[str] = []
        self.raises_at = raises_at

    def note(self, hook: str) -> None:
        self.hooks.append(hook)
        if hook == self.raises_at:
            raise LookupError(f"at {hook}")

    def started(self, status: Status, trainer: System) -> None:
        self.note(f"started {status.iterations}")

    def iteration(self, status: Status, trainer: System) -> None:
        assert trainer.losses().keys() == status.losses.keys()
        self.note(f"iteration {status.iterations}")

    def logged(self, status: Status) -> None:
        if status.iterations % 3 == 0:
            self.note(f"logged {status.iterations}")

    def sampled(self, status: Status, grids: Mapping[str, Tensor], kept: bool) -> None:
        assert grids.keys() == {"a2b_test", "b2a_test", "a2b_train", "b2a_train"}
        assert all(grid.shape[0] == 3 and grid.dtype == torch.uint8 for grid in grids.values())
        self.note(f"sampled {status.iterations}{' kept' if kept else ''}")

    def failed(self, status: Status, error: BaseException) -> None:
        self.note(f"failed {error}")

    def saved(self, iterations: int, checkpoints: Path) -> None:
        assert (checkpoints / f"gen_{iterations:08d}.pt").is_file()
        self.note(f"saved {iterations}")

    def ended(self, result: TrainingResult) -> None:
        assert 'class="state finished"' in result.folder.report.read_text(encoding="utf-8")
        self.note(f"ended {result.ended} {result.iterations}")

    def finished(self) -> None:
        self.note("finished")


class Previewing(Callback):
    """A callback that translates between iterations, with its own styles."""

    def __init__(self, image: torch.Tensor) -> None:
        self.image, self.generator, self.count = image, torch.Generator().manual_seed(0), 0

    def iteration(self, status: Status, trainer: System) -> None:
        fastmunit.translate(trainer, self.image[0], styles=2)
        trainer.sample(self.image, self.image, self.generator)
        self.count += 1


def test_hooks_and_their_order(images: Path, uninterrupted: Path, tmp_path: Path) -> None:
    first, second = Noting(), Noting()
    preview = Previewing(torch.zeros(2, 3, 32, 32))
    config = tiny_config(images, image_display_iter=3, image_save_iter=5)
    result = fastmunit.train(config, tmp_path / "run", callbacks=[first, preview, second], device="cpu")
    assert first.hooks == second.hooks == [
        "started 0", "iteration 1", "saved 2", "iteration 2", "logged 3", "sampled 3", "iteration 3",
        "saved 4", "iteration 4", "sampled 5 kept", "iteration 5", "logged 6", "sampled 6", "saved 6", "iteration 6",
        "saved 7", "iteration 7", "sampled 7", "ended finished 7", "finished",
    ]  # fmt: skip
    assert preview.count == result.iterations == 7
    assert_same_checkpoint(uninterrupted, tmp_path / "run", 7)


@pytest.mark.parametrize(("hook", "saved"), [("started 0", None), ("saved 2", 2), ("ended finished 2", 2)])
def test_an_exception_in_a_callback_ends_the_run(images: Path, tmp_path: Path, hook: str, saved: int | None) -> None:
    first, second = Noting(hook), Noting("finished")
    with pytest.raises(LookupError, match="at finished") as caught:
        fastmunit.train(tiny_config(images, max_iter=2), tmp_path / "run", callbacks=[first, second], device="cpu")
    assert str(caught.value.__context__) == f"at {hook}"
    assert first.hooks[-3:] == [hook, f"failed at {hook}", "finished"]
    assert second.hooks[-2:] == [f"failed at {hook}", "finished"] and hook not in second.hooks
    assert newest(tmp_path / "run") == saved
    report = RunFolder(tmp_path / "run").report.read_text(encoding="utf-8")
    assert 'class="state failed"' in report and f"at {hook}" in report


def test_a_run_that_a_callback_ended_resumes_bit_for_bit(images: Path, uninterrupted: Path, tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="at iteration 3"):
        fastmunit.train(tiny_config(images), tmp_path / "run", callbacks=[Noting("iteration 3")], device="cpu")
    assert newest(tmp_path / "run") == 2
    again = Noting()
    fastmunit.train(tiny_config(images), tmp_path / "run", resume=True, callbacks=[again], device="cpu")
    assert again.hooks[:3] == ["started 2", "logged 3", "iteration 3"]
    assert_same_checkpoint(uninterrupted, tmp_path / "run", 7)


@pytest.mark.parametrize("hook", [name for name in vars(Callback) if not name.startswith("_")])
def test_every_hook_reaches_all_callbacks(hook: str) -> None:
    reached: list[str] = []
    callbacks = [Callback(), Callback()]
    for name, callback in zip("ab", callbacks, strict=True):
        setattr(callback, hook, lambda *_, name=name: reached.append(name))
    arguments = [None] * (len(inspect.signature(getattr(Callback, hook)).parameters) - 1)
    getattr(Callbacks(callbacks), hook)(*arguments)
    assert reached == ["a", "b"]
