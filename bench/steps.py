"""Whole MUNIT iterations as benchmarks run them: that of the public trainer, in plain PyTorch, and ours."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench.harness import DEVICE, without_tf32
from fastmunit.config import Config
from fastmunit.systems.munit import MUNIT
from fastmunit.testing.reference_step import reference_step

SIZE = 256
LOSS_TOLERANCES = {"float32": 2e-5, "bfloat16": 2e-2}


def trainer_of(precision: str = "float32", *overrides: str, fused_adam: bool = True) -> MUNIT:
    """Return a trainer with the public configuration, with the same weights at each call."""
    torch.manual_seed(0)
    config = Config.load("edges2shoes", [f"precision={precision}", *overrides])
    return MUNIT(config, fused_adam=fused_adam).to(DEVICE)


def images(batch: int = 1, size: int = SIZE) -> list[Tensor]:
    """Return a batch of random images per domain, the same at each call."""
    generator = torch.Generator().manual_seed(1)
    return [(torch.rand(batch, 3, size, size, generator=generator) * 2 - 1).to(DEVICE) for _ in range(2)]


def plain_step(trainer: MUNIT, x_a: Tensor, x_b: Tensor) -> None:
    """Run an iteration as the public trainer does."""
    reference_step(trainer, x_a, x_b)


def our_step(trainer: MUNIT, x_a: Tensor, x_b: Tensor) -> None:
    """Run our iteration."""
    trainer.step(x_a, x_b)


def compile_as_a_user_would(trainer: MUNIT, **options: Any) -> None:
    """Put encode and decode of the generators, and the discriminators, each under torch.compile.

    Args:
        trainer: Trainer for `plain_step`.
        **options: Keyword arguments of torch.compile.
    """
    for generator in (trainer.gen_a, trainer.gen_b):
        for name in ("encode", "decode"):
            setattr(generator, name, torch.compile(getattr(generator, name), **options))
    for discriminator in (trainer.dis_a, trainer.dis_b):
        discriminator.compile(**options)


def check_losses(precision: str, *overrides: str, size: int = SIZE) -> float:
    """Check that the losses of our first iteration match those of the reference. A wrong step is not timed.

    Returns:
        The largest relative difference.

    Raises:
        AssertionError: If a loss differs by more than the precision allows.
    """
    return check_losses_of(our_step, trainer_of(precision, *overrides), precision, *overrides, size=size)


def check_losses_of(
    step: Callable[[MUNIT, Tensor, Tensor], None], trainer: MUNIT, precision: str, *overrides: str, size: int = SIZE
) -> float:
    """Do the same for another `step` of a new trainer with the same configuration."""
    expected = _losses_after(plain_step, trainer_of(precision, *overrides, fused_adam=False), size)
    found = _losses_after(step, trainer, size)
    worst = 0.0
    for loss, value in expected.items():
        error = abs(found[loss] - value) / abs(value) if value else abs(found[loss])
        allowed = LOSS_TOLERANCES[precision]
        assert error <= allowed, f"{loss}: expected {value}, got {found[loss]}, relative difference {error:.3g}"
        worst = max(worst, error)
    return worst


def _losses_after(step: Callable[[MUNIT, Tensor, Tensor], None], trainer: MUNIT, size: int) -> dict[str, float]:
    torch.manual_seed(2)
    with without_tf32():
        step(trainer, *images(size=size))
    return {loss: float(value) for loss, value in trainer.losses().items()}
