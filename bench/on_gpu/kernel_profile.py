"""The stage that profiles a replayed step by kernel."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from bench.harness import WARM_UP_STEPS
from bench.on_gpu.stage import Context, Row, Task
from bench.on_gpu.step import our_step

NAMES = 60

CATEGORIES = (
    ("weighted_l1", r"fastmunit.*\bl1_|weighted_l1|^_sums_kernel"),
    ("gan_loss", r"fastmunit.*\bgan_|^_gan_"),
    ("weighted_l1 and gan_loss, totals", r"^total_kernel"),
    ("fused_norm, backward", r"fastmunit.*(backward|combine_sums|coefficient_gradients)"),
    ("fused_norm, forward", r"fastmunit|fused_norm"),
    ("fused_norm in Triton", r"^_(forward|backward|moments|combine)_kernel"),
    ("layout", r"nchwToNhwc|nhwcToNchw|transpose"),
    ("convolution, weight gradient", r"wgrad"),
    ("convolution, data gradient", r"dgrad"),
    ("convolution, both gradients", r"convolution_backward"),
    ("convolution, forward or unnamed", r"conv|fprop|implicit_gemm|cudnn|xmma|cutlass"),
    ("matrix product", r"gemm|gemv|nvjet|cublas|\bmm\b|addmm|bmm|splitK"),
    ("optimizer", r"adam"),
    ("foreach", r"multi_tensor_apply|foreach"),
    ("copy or cast", r"copy|cast|memcpy|_to_copy|\bclone\b"),
    ("fill", r"memset|fill|zero_"),
    ("pad", r"pad"),
    ("reduction", r"reduce|\bsum\b|\bmean\b"),
    ("elementwise", r"elementwise|vectorized"),
)
"""Categories of kernels: the first whose pattern matches the name, ignoring case; else "other"."""


def tasks(context: Context) -> Sequence[Task]:
    """Return the task."""
    return [Task("our step, one iteration", partial(_rows, context))]


def category_of(name: str) -> str:
    """Return a kernel's category."""
    return next((category for category, pattern in CATEGORIES if re.search(pattern, name, re.IGNORECASE)), "other")


def _rows(context: Context) -> Iterator[Row]:
    """Yield the time of one iteration by category, then the slowest kernels by name."""
    torch.backends.cudnn.benchmark = True
    step = our_step(context, graph=True)
    for _ in range(WARM_UP_STEPS):
        step()
    counts, times = _kernels(context, step)
    yield {"kind": "all", "count": sum(counts.values()), "us": sum(times.values())}
    yield from _by_category(counts, times)
    for name in sorted(times, key=lambda name: (-times[name], name))[:NAMES]:
        count, total = counts[name], times[name]
        row = {"name": name[:300], "count": count, "us": total, "us_mean": total / count}
        yield {"kind": "kernel", "category": category_of(name), **row}


def _kernels(context: Context, step: Callable[[], None]) -> tuple[dict[str, int], dict[str, float]]:
    """Return the number of runs and the microseconds of each kernel in a step, by name.

    In a dry run, these are ops on the CPU with a microsecond each.
    """
    activity = ProfilerActivity.CPU if context.dry_run else ProfilerActivity.CUDA
    with profile(activities=[activity]) as profiled:
        step()
        if not context.dry_run:
            torch.cuda.synchronize()
    counts: dict[str, int] = defaultdict(int)
    times: dict[str, float] = defaultdict(float)
    for event in profiled.events():
        if context.dry_run or event.device_type == DeviceType.CUDA:
            counts[event.name] += 1
            times[event.name] += 1.0 if context.dry_run else event.time_range.elapsed_us()
    return counts, times


def _by_category(counts: Mapping[str, int], times: Mapping[str, float]) -> Iterator[Row]:
    names: dict[str, list[str]] = defaultdict(list)
    for name in counts:
        names[category_of(name)].append(name)
    step_us = sum(times.values())
    for category in sorted(names, key=lambda c: (-sum(times[name] for name in names[c]), c)):
        total = sum(times[name] for name in names[category])
        count = sum(counts[name] for name in names[category])
        row = {"count": count, "us": total, "us_mean": total / count, "share": total / step_us}
        yield {"kind": "category", "category": category, **row}
