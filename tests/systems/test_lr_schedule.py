"""Tests of learning rate schedules: order of calls, resume, and the public drift with compat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fastmunit.systems.munit import MUNIT


def rates(trainer: MUNIT, count: int) -> list[float]:
    seen = []
    for _ in range(count):
        trainer.update_learning_rate()
        seen.append(trainer.gen_opt.param_groups[0]["lr"])
        assert trainer.dis_opt.param_groups[0]["lr"] == seen[-1]
    return seen


def expected(first: int, last: int) -> list[float]:
    """Return the rates of iterations first … last, counted from 1, for step_size 4 and gamma 0.5: the 4th is lower."""
    return [1e-4 * 0.5 ** (k // 4) for k in range(first, last + 1)]


def test_rate_drops_at_the_iteration_itself(hyperparameters: dict[str, Any]) -> None:
    assert rates(MUNIT(hyperparameters), 9) == pytest.approx(expected(1, 9))


@pytest.mark.parametrize("stops", [(3,), (4,), (5,), (3, 6), (4, 8)])
def test_resume_does_not_drift(hyperparameters: dict[str, Any], tmp_path: Path, stops: tuple[int, ...]) -> None:
    trainer = MUNIT(hyperparameters)
    done = 0
    for stop in (*stops, 12):
        assert rates(trainer, stop - done) == pytest.approx(expected(done + 1, stop))
        trainer.save(tmp_path, stop - 1)
        trainer = MUNIT(hyperparameters)
        done = trainer.resume(tmp_path)
        assert done == stop


def test_compat_drifts_by_one_iteration_a_resume(hyperparameters: dict[str, Any], tmp_path: Path) -> None:
    trainer = MUNIT(hyperparameters, compat=True)
    rates(trainer, 2)
    trainer.save(tmp_path, 1)
    trainer = MUNIT(hyperparameters, compat=True)
    trainer.resume(tmp_path)
    assert rates(trainer, 6) == pytest.approx(expected(4, 9)), "iteration 3 has the rate of iteration 4"


def test_compat_resumes_a_run_that_had_no_schedule(hyperparameters: dict[str, Any], tmp_path: Path) -> None:
    MUNIT({**hyperparameters, "lr_policy": "constant"}).save(tmp_path, 0)
    trainer = MUNIT(hyperparameters, compat=True)
    assert trainer.resume(tmp_path) == 1
    assert rates(trainer, 1) == pytest.approx([1e-4])


@pytest.mark.parametrize("policy", ["constant", None])
def test_constant_policy(hyperparameters: dict[str, Any], policy: str | None) -> None:
    hyperparameters["lr_policy"] = policy
    trainer = MUNIT(hyperparameters)
    assert trainer.gen_scheduler is None
    assert rates(trainer, 6) == [1e-4] * 6


def test_weight_decay_is_coupled(hyperparameters: dict[str, Any]) -> None:
    trainer = MUNIT({**hyperparameters, "weight_decay": 0.25})
    for optimizer in (trainer.gen_opt, trainer.dis_opt):
        assert isinstance(optimizer, torch.optim.Adam) and not isinstance(optimizer, torch.optim.AdamW)
        (group,) = optimizer.param_groups
        assert group["weight_decay"] == 0.25 and not group["decoupled_weight_decay"]
