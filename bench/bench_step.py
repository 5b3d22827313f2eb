"""A whole MUNIT iteration at 256² with the public configuration, against the step as the public trainer runs it."""

import importlib

import pytest
import torch
from harness import Count, StepTimes
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from fastmunit import functional
from fastmunit.config import Config
from fastmunit.models.munit import MUNIT
from fastmunit.models.reference_step import reference_step
from fastmunit.testing import saved_bytes

SIZE = 256


def trainer_of(precision="float32", **options):
    torch.manual_seed(0)
    return MUNIT(Config.load("edges2shoes", [f"precision={precision}"]), **options)


def images(batch=1):
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(batch, 3, SIZE, SIZE, generator=generator) * 2 - 1 for _ in range(2)]


upsample_ops = importlib.import_module("fastmunit.ops.upsample_conv2d")  # the package has the function of that name
DISSOLVED = {
    torch.ops.fastmunit.upsample_conv2d.default: upsample_ops._run,
    torch.ops.fastmunit.upsample_conv2d_backward.default: upsample_ops._run_backward,
}


class DispatchedOps(TorchDispatchMode):
    """Counts ops that do work on the device: views and allocations are left out.

    upsample_conv2d is made of torch's ops: each of those counts.
    """

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in DISSOLVED:
            with self:
                return DISSOLVED[function](*args)
        results = function(*args, **(kwargs or {}))
        allocates = function.overloadpacket.__name__ in ("empty", "empty_like", "empty_strided", "new_empty", "detach")
        if not (function.is_view or allocates):
            self.count += 1
        return results


def plain_step(trainer, x_a, x_b):
    reference_step(trainer, x_a, x_b)


def our_step(trainer, x_a, x_b):
    trainer.step(x_a, x_b)


def competitors():
    return (
        ("eager", plain_step, trainer_of(fused_adam=False)),
        ("ours", our_step, trainer_of()),
    )


def losses_of(trainer):
    return {name: float(loss) for name, loss in trainer.losses().items()}


def check_losses(precision):
    """A wrong step gets no figure: the losses of the first iteration are the reference's."""
    found = {}
    for name, step in (("eager", plain_step), ("ours", our_step)):
        trainer = trainer_of(precision, fused_adam=name == "ours")
        torch.manual_seed(2)
        step(trainer, *images())
        found[name] = losses_of(trainer)
    tolerance = 2e-5 if precision == "float32" else 2e-2
    for name, loss in found["eager"].items():
        assert found["ours"][name] == pytest.approx(loss, rel=tolerance), name


@pytest.mark.slow
def bench_step_multiply_adds(count):
    check_losses("float32")
    macs = {}
    for name, step, trainer in competitors():
        with FlopCounterMode(display=False) as flops:
            step(trainer, *images())
        macs[name] = flops.get_total_flops() // 2
    count(Count("multiply-adds of an iteration, default configuration, 256², batch 1", macs["ours"], macs["eager"]))


@pytest.mark.slow
def bench_step_dispatched_ops(count):
    ops = {}
    for name, step, trainer in competitors():
        step(trainer, *images())  # the first step of an optimizer also makes its state
        with DispatchedOps() as dispatched:
            step(trainer, *images())
        ops[name] = dispatched.count
    count(Count("ops dispatched in an iteration, views and allocations left out", ops["ours"], ops["eager"]))


@pytest.mark.slow
def bench_step_saved_bytes(count):
    x_a, x_b = images()
    saved = {}
    for name in ("reference", "auto"):
        trainer = trainer_of()
        parameters = [*trainer.parameters(), x_a, x_b]
        with functional.use_implementation(name):
            saved[name] = saved_bytes(lambda trainer=trainer: trainer.gen_update(x_a, x_b), parameters)
    count(Count("bytes saved for backward in gen_update, float32", saved["auto"], saved["reference"]))


@pytest.mark.slow
def bench_step_time(step_times):
    check_losses("float32")
    check_losses("bfloat16")
    trainers = {
        "reference_step float32": (plain_step, trainer_of("float32", fused_adam=False)),
        "reference_step bfloat16": (plain_step, trainer_of("bfloat16", fused_adam=False)),
        "float32": (our_step, trainer_of("float32")),
        "bfloat16": (our_step, trainer_of("bfloat16")),
    }
    x_a, x_b = images()
    calls = {name: lambda step=step, t=t: step(t, x_a, x_b) for name, (step, t) in trainers.items()}
    step_times(StepTimes("iteration, 256², batch 1", calls, baseline="reference_step float32"))


@pytest.mark.slow
def bench_step_batch(step_times):
    trainer = trainer_of("bfloat16")
    one, four = images(1), images(4)
    calls = {"batch 1": lambda: our_step(trainer, *one), "batch 4, a quarter": lambda: our_step(trainer, *four)}
    step_times(StepTimes("iteration in bfloat16, time an image", calls, "batch 1", {"batch 4, a quarter": 0.25}))
