"""Least times of the fused ops on GPUs that are not at hand: `python -m bench.predict`. Predicted bounds, not measured.

bound = max(bytes / bandwidth, launches · 2.5 µs), the sum over forward and backward of one map. Bytes and launches of
ours are counted by running the CUDA launchers on the emulator of tests/cuda; those of the eager chain by watching each
op that plain PyTorch runs, its inputs read and its outputs written once; the ideal compiled one has two kernels in each
pass, forward reads x twice and writes y, backward reads dy and x twice and writes dx.

No cache is counted on: a map that stays in the level-two cache between two kernels is faster than these bounds say.
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fastmunit import reference
from fastmunit.testing import make_map, munit_maps
from tests.cuda.emulated import Reply
from tests.cuda.fused_norm_requests import Device, Options, backward, forward

LAUNCH_SECONDS = 2.5e-6


@dataclass(frozen=True)
class Gpu:
    """A GPU: what the launch table asks, and the bandwidth that copies reach, in bytes a second."""

    device: Device
    bandwidth: float


GPUS = {
    "A100": Gpu(Device(108, 163 * 1024, 1), 1.8e12),
    "H100": Gpu(Device(132, 227 * 1024, 16), 3.0e12),
    "H200": Gpu(Device(132, 227 * 1024, 16), 4.3e12),
    "RTX 4090": Gpu(Device(128, 99 * 1024, 1), 0.907e12),
}


@dataclass(frozen=True)
class Work:
    """What a pass, or both, move and start."""

    bytes: int
    launches: int

    def __add__(self, other: "Work") -> "Work":
        return Work(self.bytes + other.bytes, self.launches + other.launches)

    def bound(self, gpu: Gpu) -> float:
        """Least seconds."""
        return max(self.bytes / gpu.bandwidth, self.launches * LAUNCH_SECONDS)


@dataclass(frozen=True)
class Case:
    """A map of a step and the op on it."""

    shape: tuple[int, int, int, int]
    statistics: str
    activation: str
    pad: int
    styled: bool  # weight and bias of each sample and channel


def cases(size: int, batch: int) -> list[Case]:
    """The normalised maps of a step, each once."""
    found = {
        Case((batch, m.channels, m.height, m.width), m.statistics, m.activation, m.pad, m.weight == "style")
        for m in munit_maps(size)
        if m.statistics != "none" and not m.residual
    }
    return sorted(found, key=lambda case: (case.statistics, case.shape, case.styled, case.pad))


def _work_of(reply: Reply) -> Work:
    return Work(reply.bytes, reply.launches)


@cache
def ours(case: Case, layout: str, dtype: torch.dtype, device: Device) -> Work:
    """Forward and backward, counted on the emulator."""
    x = make_map(case.shape, dtype, layout)
    n, c = case.shape[:2]
    size = (n, c) if case.styled else (c,)
    weight, bias = (torch.ones(size), torch.zeros(size)) if case.styled or case.statistics == "layer" else (None, None)
    options = Options(statistics=case.statistics, activation=case.activation, pad=case.pad)
    padded, mean, rstd, first = forward(x, weight, bias, None, options, device, count=True)
    *_, second = backward(padded, None, x, mean, rstd, weight, bias, False, options, device, count=True)
    return _work_of(first) + _work_of(second)


class _Watch(TorchDispatchMode):
    """Adds up what ops read and write; views do neither."""

    work = Work(0, 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        given = [t for t in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        written = [t for t in torch.utils._pytree.tree_leaves(results) if isinstance(t, Tensor)]
        is_view = any(alias.alias_info is not None and not alias.alias_info.is_write for alias in func._schema.returns)
        if written and not is_view and func is not torch.ops.aten.detach.default:
            self.work += Work(sum(t.numel() * t.element_size() for t in (*given, *written)), 1)
        return results


@cache
def eager(case: Case, layout: str, dtype: torch.dtype) -> Work:
    """Forward and backward of plain PyTorch."""
    memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    x = torch.empty(case.shape, dtype=dtype, device="meta").to(memory_format=memory_format).requires_grad_()
    n, c = case.shape[:2]
    weight = bias = None
    if case.styled or case.statistics == "layer":
        size = (n, c) if case.styled else (c,)
        weight, bias = (torch.empty(size, device="meta", requires_grad=True) for _ in range(2))
    with _Watch() as watch:
        padded, _ = reference.fused_norm(
            x, weight, bias, statistics=case.statistics, activation=case.activation, pad=case.pad
        )
        learning = [t for t in (x, weight, bias) if t is not None]
        torch.autograd.grad(padded, learning, torch.empty_like(padded))
    return watch.work


def ideal_compiled(case: Case, dtype: torch.dtype) -> Work:
    """Statistics and the rest as two kernels, forward and backward."""
    n, c, h, w = case.shape
    x = n * c * h * w * dtype.itemsize
    y = n * c * (h + 2 * case.pad) * (w + 2 * case.pad) * dtype.itemsize
    return Work(2 * x + y, 2) + Work(2 * (x + y) + x, 2)


def rows(
    gpu: Gpu, layout: str, dtype: torch.dtype, chosen: list[Case], told: Callable[[str], None]
) -> dict[str, list[float]]:
    """Tell a line for each map; return the ratios of the bounds."""
    ratios: dict[str, list[float]] = {"eager": [], "ideal compiled": []}
    for case in chosen:
        works = {
            "ours": ours(case, layout, dtype, gpu.device),
            "eager": eager(case, layout, dtype),
            "ideal compiled": ideal_compiled(case, dtype),
        }
        bounds = {name: work.bound(gpu) for name, work in works.items()}
        name = f"{case.statistics}{' style' if case.styled else ''} {case.shape} pad {case.pad}"
        columns = [f"{w.bytes / 1e6:9.2f} {w.launches:3d} {bounds[k] * 1e6:8.1f}" for k, w in works.items()]
        told(f"  {name:<42}" + " |".join(columns))
        for other, of in ratios.items():
            of.append(bounds[other] / bounds["ours"])
    return ratios


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", choices=GPUS, nargs="*", default=list(GPUS))
    parser.add_argument("--layout", choices=["nchw", "channels_last"], nargs="*", default=["nchw", "channels_last"])
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="bfloat16")
    parser.add_argument("--size", type=int, default=256, help="height and width of the images")
    parser.add_argument("--batch", type=int, default=1)
    arguments = parser.parse_args()
    dtype = getattr(torch, arguments.dtype)
    print("predicted bound, not measured: max(bytes / bandwidth, launches * 2.5 us), forward + backward of one map")
    for name in arguments.gpu:
        gpu = GPUS[name]
        for layout in arguments.layout:
            print(f"{name}, {gpu.bandwidth / 1e12:.3g} TB/s, {layout}, {arguments.dtype}")
            heads = [f"{who:>9} MB, launches, us" for who in ("ours", "eager", "compiled")]
            print(f"  {'map':<38}" + " |".join(heads))
            ratios = rows(gpu, layout, dtype, cases(arguments.size, arguments.batch), print)
            for other, of in ratios.items():
                mean = math.exp(sum(math.log(ratio) for ratio in of) / len(of))
                print(f"  {other} / ours: {mean:.2f}, geometric mean of the bounds")


if __name__ == "__main__":
    main()
