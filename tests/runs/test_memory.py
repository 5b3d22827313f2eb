"""Memory that runs out, and processes that die, are explained and lose nothing."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data._utils import signal_handling

from fastmunit.errors import DataError, TrainingError
from fastmunit.memory import is_out_of_memory
from fastmunit.runs import RunFolder, train
from fastmunit.runs import loop as training_loop
from fastmunit.systems.munit import MUNIT
from fastmunit.systems.parts.stepper import Weights
from fastmunit.systems.parts.terms import Losses
from tests.runs.tiny import assert_same_checkpoint, newest, tiny_config


def in_fifth_update(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Let something happen in the fifth iteration, after its discriminators have stepped."""
    original, calls = MUNIT.generator_terms, []

    def patched(self: MUNIT, tensors: Sequence[Tensor], weights: Weights) -> Losses:
        calls.append(1)
        if len(calls) == 5:
            happens()
        return original(self, tensors, weights)

    monkeypatch.setattr(MUNIT, "generator_terms", patched)


def fail(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    "happens",
    [
        lambda: torch.empty(2**52),
        lambda: bytearray(2**60),
        lambda: fail(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")),
        lambda: fail(RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be ...")),
        lambda: fail(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")),
    ],
    ids=["CPU", "Python", "CUDA", "CUDA outside of the allocator", "cuBLAS"],
)
def test_memory_that_runs_out_in_a_step(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]
) -> None:
    in_fifth_update(monkeypatch, happens)
    with pytest.raises(TrainingError, match="too little memory on device cpu") as caught:
        train(tiny_config(images), tmp_path / "run", device="cpu")
    message = str(caught.value)
    for fix in ("batch_size", "crop_image_height", "micro_batches", "checkpointing", "--resume", "iteration 4"):
        assert fix in message
    assert "\n" not in message
    assert newest(tmp_path / "run") == 4
    report = RunFolder(tmp_path / "run").report.read_text(encoding="utf-8")
    assert 'class="state failed"' in report
    assert "too little memory" in report


def test_memory_that_runs_out_before_the_first_iteration(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_loop, "Reporter", lambda *_: torch.empty(2**52))
    with pytest.raises(TrainingError, match=r"too little memory .*No iteration was trained\. Lower batch_size"):
        train(tiny_config(images), tmp_path / "run", device="cpu")


def test_other_errors_keep_their_class(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_fifth_update(monkeypatch, lambda: fail(RuntimeError("a defect")))
    with pytest.raises(RuntimeError, match=r"^a defect$") as caught:
        train(tiny_config(images), tmp_path / "run", device="cpu")
    assert not isinstance(caught.value, TrainingError)
    assert not is_out_of_memory(TrainingError("it ran out of memory"))
    assert not is_out_of_memory(ValueError("out of memory"))


@pytest.fixture
def torchs_handler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch's handler of SIGCHLD, as a DataLoader of the program itself leaves it."""
    before = signal.getsignal(signal.SIGCHLD)
    monkeypatch.setattr(signal_handling, "_SIGCHLD_handler_set", False)
    signal_handling._set_SIGCHLD_handler()
    assert signal.getsignal(signal.SIGCHLD) is not before
    yield
    signal.signal(signal.SIGCHLD, before)


def kill_workers() -> None:
    for worker in multiprocessing.active_children():
        worker.kill()
    time.sleep(0.3)  # here torch's handler raises, if it is set


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGCHLD")
def test_worker_killed_during_a_step_with_torchs_handler(
    images: Path, uninterrupted: Path, tmp_path: Path, torchs_handler: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_fifth_update(monkeypatch, kill_workers)
    with pytest.raises(DataError, match=r"killed by signal: Killed.* lower num_workers .*iteration 4 .*--resume"):
        train(tiny_config(images, num_workers=1), tmp_path / "run", device="cpu")
    monkeypatch.undo()
    train(tiny_config(images), tmp_path / "run", resume=True, device="cpu")
    assert_same_checkpoint(uninterrupted, tmp_path / "run", 7)


def test_worker_killed_during_a_step(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_fifth_update(monkeypatch, kill_workers)
    with pytest.raises(DataError, match=r"SIGKILL.* lower num_workers .*--resume"):
        train(tiny_config(images, num_workers=1, max_iter=100), tmp_path / "run", device="cpu")
    assert (newest(tmp_path / "run") or 0) >= 5
