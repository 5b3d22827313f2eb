"""An iteration of every system with its public configuration at 256², with the kernels and with the reference path."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.harness import Count, StepTimes
from fastmunit import functional
from fastmunit.config import Config
from fastmunit.systems import registry
from fastmunit.testing import saved_bytes

SIZE = 256


def trainer_and_batch(name):
    """Return a trainer with the public configuration and a batch."""
    system = registry.system_named(name)
    config = Config.load(system.recipe, ["vgg_w=0"])
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    batch = [
        torch.rand(config.batch_size, channels, SIZE, SIZE, generator=generator) * 2 - 1
        for channels in config.channels("a2b")
    ]
    return system(config), batch


def step_by(implementation, trainer, batch):
    torch.manual_seed(2)
    with functional.use_implementation(implementation):
        trainer.step(*batch)


def check_losses(name):
    """Assert that both paths give the same losses: a wrong step is not timed."""
    found = []
    for implementation in ("reference", "auto"):
        trainer, batch = trainer_and_batch(name)
        step_by(implementation, trainer, batch)
        found.append({key: float(loss) for key, loss in trainer.losses().items()})
    assert found[1] == pytest.approx(found[0], rel=1e-3), name


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.names())
def bench_system_counts(count, name):
    check_losses(name)
    macs, saved = {}, {}
    for implementation in ("reference", "auto"):
        trainer, batch = trainer_and_batch(name)
        with FlopCounterMode(display=False) as flops:
            step_by(implementation, trainer, batch)
        macs[implementation] = flops.get_total_flops() // 2
        saved[implementation] = saved_bytes(
            lambda i=implementation, t=trainer, b=batch: step_by(i, t, b), [*trainer.parameters(), *batch]
        )
    count(
        Count(f"{name}: multiply-adds of an iteration", macs["auto"], macs["reference"]),
        Count(f"{name}: bytes saved for backward in an iteration", saved["auto"], saved["reference"]),
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.names())
def bench_system_time(step_times, name):
    check_losses(name)
    trainer, batch = trainer_and_batch(name)
    fast, _ = trainer_and_batch(name)
    fast.config.precision = "bfloat16"
    fast.to(memory_format=torch.channels_last)
    calls = {
        "reference path": lambda: step_by("reference", trainer, batch),
        "float32": lambda: step_by("auto", trainer, batch),
        "bfloat16": lambda: step_by("auto", fast, batch),
    }
    step_times(StepTimes(f"{name}, an iteration at 256²", calls, "reference path"))
