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


def formula(k: int, policy: str | None, warmup: int, last: int) -> float:
    """Return the factor of the rate in iteration k, counted from 1, for step_size 4 and gamma 0.5."""
    warm = min(1, k / warmup) if warmup else 1
    if policy == "linear":
        return warm * (1 - max(0, k - 4) / (last - 4 + 1))
    return warm * (0.5 ** (k // 4) if policy == "step" else 1)


@pytest.mark.parametrize("policy", ["step", "linear", "constant", None])
@pytest.mark.parametrize(("warmup", "lr_dis"), [(3, None), (6, 4e-4), (0, 4e-4), (1, None)])
@pytest.mark.parametrize("stops", [(), (2,), (3, 6)])
def test_rates_of_both_optimizers_are_the_formula(
    hyperparameters: dict[str, Any], tmp_path: Path, policy: str | None, warmup: int, lr_dis: float, stops: list[int]
) -> None:
    changes = {"lr_policy": policy, "lr_warmup": warmup, "lr_dis": lr_dis, "max_iter": 12}
    trainer = MUNIT({**hyperparameters, **changes})
    done = 0
    for stop in (*stops, 12):
        for k in range(done + 1, stop + 1):
            trainer.update_learning_rate()
            factor = formula(k, policy, warmup, last=12)
            assert trainer.gen_opt.param_groups[0]["lr"] == pytest.approx(1e-4 * factor, rel=1e-12)
            assert trainer.dis_opt.param_groups[0]["lr"] == pytest.approx((lr_dis or 1e-4) * factor, rel=1e-12)
        if stop < 12:
            trainer.save(tmp_path, stop - 1)
            trainer = MUNIT({**hyperparameters, **changes})
            done = trainer.resume(tmp_path)
    if policy == "linear":
        trainer.update_learning_rate()
        assert [o.param_groups[0]["lr"] for o in (trainer.gen_opt, trainer.dis_opt)] == [0, 0], "after max_iter"


def test_no_rate_is_zero_before_the_first_iteration(hyperparameters: dict[str, Any]) -> None:
    trainer = MUNIT({**hyperparameters, "lr_warmup": 4})
    assert trainer.gen_opt.param_groups[0]["lr"] == pytest.approx(1e-4 / 4)


def test_weight_decay_is_coupled(hyperparameters: dict[str, Any]) -> None:
    trainer = MUNIT({**hyperparameters, "weight_decay": 0.25})
    for optimizer in (trainer.gen_opt, trainer.dis_opt):
        assert isinstance(optimizer, torch.optim.Adam) and not isinstance(optimizer, torch.optim.AdamW)
        (group,) = optimizer.param_groups
        assert group["weight_decay"] == 0.25 and not group["decoupled_weight_decay"]
