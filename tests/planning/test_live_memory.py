"""The tracker of memory, compared with sizes computed by hand and with torch's own accounting."""

from __future__ import annotations

from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile

from fastmunit.config import Config
from fastmunit.planning.live_memory import COPIES, GRADIENTS, SAVED, TEMPORARY, WEIGHTS, WORKSPACE, LiveMemory
from fastmunit.planning.trace import IMAGES, Settings, TracedTraining
from fastmunit.systems import registry

KB = 1024


def no_workspace(op: object, args: object, result: object) -> int:
    return 0


def kilobytes(count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(count * KB // dtype.itemsize, dtype=dtype)


def test_peak_is_the_largest_sum_of_what_lives_together() -> None:
    with FakeTensorMode(), LiveMemory(no_workspace) as memory:
        kept = kilobytes(3)
        gone = kilobytes(5)
        view = gone.view(2, -1)
        del gone
        assert memory.peak().total == 8 * KB, "a view keeps the memory, and takes none"
        del view
        small = kilobytes(4)
        assert memory.peak().total == 8 * KB
        memory.reset()
        assert memory.peak().total == 7 * KB
        small.add_(1)
        small = small + 1
        assert memory.peak().total == 11 * KB, "the sum exists in addition to its argument"
        assert memory.peak().parts == {TEMPORARY: 11 * KB}
        del kept, small


def test_workspace_counts_only_during_its_op() -> None:
    def ten_for_negations(op: Any, args: Any, result: Any) -> int:
        return 10 * KB if op is torch.ops.aten.neg.default else 0

    with FakeTensorMode(), LiveMemory(ten_for_negations) as memory:
        x = kilobytes(2)
        y = -x
        assert memory.peak().total == 14 * KB
        z = kilobytes(9)
        assert memory.peak().parts == {TEMPORARY: 4 * KB, WORKSPACE: 10 * KB}
        del x, y, z


def test_parts_of_a_step() -> None:
    with FakeTensorMode(), LiveMemory(no_workspace) as memory:
        weight = kilobytes(2).requires_grad_()
        memory.assign([weight], WEIGHTS)
        weight.register_post_accumulate_grad_hook(lambda p: memory.assign([p.grad], GRADIENTS))
        low = weight.detach().to(torch.bfloat16)
        y = (weight * 2).exp()  # exp saves its result
        memory.reset()
        y.sum().backward()
        parts = memory.peak().parts
        assert parts[WEIGHTS] == 2 * KB
        assert parts[COPIES] == 1 * KB
        assert parts[SAVED] >= 2 * KB
        del y
        memory.reset()
        assert memory.peak().parts == {WEIGHTS: 2 * KB, COPIES: 1 * KB, GRADIENTS: 2 * KB}
        del low


def test_values_are_zero() -> None:
    with FakeTensorMode(), LiveMemory(no_workspace):
        assert float(torch.rand(())) == 0
        assert not torch.rand(()) > 0


def allocated(config: Config) -> int:
    """Return the peak bytes that torch allocates in two iterations of a training, beyond weights and images."""
    system = registry.system_of(config)(config)
    x_a, x_b = torch.rand(2, config.batch_size, 3, config.crop_image_height, config.crop_image_width).unbind()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        for _ in range(2):
            system.step(x_a, x_b)
    now = peak = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


def test_an_iteration_takes_what_torch_allocates() -> None:
    values = {
        "crop_image_height": 64,
        "crop_image_width": 64,
        "display_size": 1,
        "micro_batches": 2,
        "batch_size": 2,
        "gen": {"dim": 8, "n_res": 1, "mlp_dim": 8, "n_downsample": 1},
        "dis": {"dim": 8, "n_layer": 2, "num_scales": 1},
    }
    config = Config.from_dict(values)
    training = TracedTraining(config, no_workspace)
    settings = Settings(config.batch_size, config.micro_batches, config.recompute, config.checkpointing)
    parts = training.iteration(settings).parts
    found = sum(size for part, size in parts.items() if part not in (WEIGHTS, IMAGES))
    expected = allocated(config)
    assert abs(found - expected) <= 0.05 * expected, f"{found:,} instead of {expected:,}"
