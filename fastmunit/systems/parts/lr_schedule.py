"""Learning rate schedules: the public trainers' steps, with their resume drift available but off, and CycleGAN's."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, StepLR

from fastmunit.config import Config


def make_scheduler(
    optimizer: Optimizer, config: Config, iterations: int = 0, compat: bool = False
) -> LRScheduler | None:
    """Return the scheduler that `config.lr_policy` asks for, as it stands after `iterations` calls of step().

    "step": lr · gamma^⌊k / step_size⌋ after k calls; "linear": lr · (1 - max(0, k - step_size) / (max_iter - step_size
    + 1)), CycleGAN's, by iterations instead of epochs; "constant" or None: no scheduler. The trainers call step()
    before each update, so the rate drops at iteration step_size itself.

    Args:
        optimizer: its groups hold the learning rate that belongs to `iterations` (as a loaded checkpoint's do).
        config: lr_policy, step_size, gamma and max_iter are read.
        iterations: finished iterations; 0 for a new training.
        compat: on resuming, rebuild the scheduler as the public trainer does, which counts one call too many each
            time, so that every later drop comes one iteration earlier for each resume.
    """
    if config.lr_policy == "linear":
        falling = max(config.max_iter - config.step_size, 0) + 1
        for group in optimizer.param_groups:
            group["initial_lr"] = group.get("initial_lr", config.lr)
        return LambdaLR(
            optimizer, lambda k: 1 - min(max(0, k - config.step_size), falling) / falling, last_epoch=iterations - 1
        )
    if config.lr_policy != "step":
        return None
    if iterations and compat:
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", config.lr)
        return StepLR(optimizer, config.step_size, config.gamma, last_epoch=iterations)
    rates = [group["lr"] for group in optimizer.param_groups]
    scheduler = StepLR(optimizer, config.step_size, config.gamma)
    if iterations:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        scheduler.last_epoch = iterations
        scheduler._step_count = iterations + 1
        scheduler._last_lr = rates
    return scheduler
