"""Learning rate schedules of the public trainers and of CycleGAN."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, StepLR

from fastmunit.config import Config


def make_scheduler(
    optimizer: Optimizer, config: Config, iterations: int = 0, compat: bool = False
) -> LRScheduler | None:
    """Return the scheduler for `config.lr_policy` in its state after `iterations` calls of step().

    After k calls the learning rate is lr · gamma^⌊k / step_size⌋ for "step", and lr · (1 - max(0, k - step_size) /
    (max_iter - step_size + 1)) for "linear", which is CycleGAN's schedule with iterations instead of epochs. There is
    no scheduler for "constant" and None. The trainers call step() before each update, so the rate drops at iteration
    step_size itself.

    Args:
        optimizer: Optimizer whose groups hold the learning rate after `iterations`, as after loading a checkpoint.
        config: Source of lr_policy, step_size, gamma and max_iter.
        iterations: Number of finished iterations; 0 for a new training.
        compat: On resuming, rebuild the scheduler as the public trainer does. It counts one call too many per resume,
            so later drops come one iteration earlier each time.
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
