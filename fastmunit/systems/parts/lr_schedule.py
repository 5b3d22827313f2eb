"""Learning rate schedules of the public trainers and of CycleGAN, and linear warm-up."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, StepLR

from fastmunit.config import Config


def make_scheduler(
    optimizer: Optimizer, config: Config, lr: float, iterations: int = 0, compat: bool = False
) -> LRScheduler | None:
    """Return the scheduler for `config.lr_policy` in its state after `iterations` calls of step().

    After k calls the learning rate is lr · `warmup_factor` · gamma^⌊k / step_size⌋ for "step", lr · `warmup_factor` ·
    (1 - max(0, k - step_size) / (max_iter - step_size + 1)) for "linear", which is CycleGAN's schedule with iterations
    instead of epochs, and lr · `warmup_factor` for "constant" and None. There is no scheduler for a rate that never
    changes. The trainers call step() before each update, so the rate drops at iteration step_size itself.

    Args:
        optimizer: Optimizer whose groups hold the learning rate after `iterations`, as after loading a checkpoint.
        config: Source of lr_policy, lr_warmup, step_size, gamma and max_iter.
        lr: Learning rate of the optimizer in `config`.
        iterations: Number of finished iterations; 0 for a new training.
        compat: On resuming, rebuild the "step" scheduler as the public trainer does. It counts one call too many per
            resume, so later drops come one iteration earlier each time. With lr_warmup, which the public trainer does
            not have, it is ignored.
    """
    if config.lr_policy == "linear" or config.lr_warmup:
        for group in optimizer.param_groups:
            group["initial_lr"] = group.get("initial_lr", lr)
        return LambdaLR(optimizer, lambda k: rate_factor(k, config), last_epoch=iterations - 1)
    if config.lr_policy != "step":
        return None
    if iterations and compat:
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", lr)
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


def rate_factor(iteration: int, config: Config) -> float:
    """Return the learning rate of an iteration, counted from 1, as a factor of the configured one."""
    warmup = warmup_factor(iteration, config.lr_warmup)
    if config.lr_policy == "linear":
        falling = max(config.max_iter - config.step_size, 0) + 1
        return warmup * (1 - min(max(0, iteration - config.step_size), falling) / falling)
    return warmup * (config.gamma ** (iteration // config.step_size) if config.lr_policy == "step" else 1)


def warmup_factor(iteration: int, length: int) -> float:
    """Return the factor of linear warm-up, min(1, iteration / length).

    Source: Goyal et al. 2017, "Accurate, Large Minibatch SGD", section 2.2.

    Args:
        iteration: Number of the iteration, counted from 1. 0, before training, has the factor of 1.
        length: Number of iterations of the warm-up; 0 for none.
    """
    return min(1.0, max(iteration, 1) / length) if length else 1.0
