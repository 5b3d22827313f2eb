"""Predict the time of a whole bfloat16 iteration on a GPU: `python -m bench.predict_step`. Predicted, not measured.

Each op that the census records gets a time, which the table sums by category:

- A convolution or matrix product is a product of matrices in tiles. Each multiprocessor computes one tile at a time
  (`product_us`). Its last wave is as long as a full one. Weight gradients may split their sum.
- fused_norm and its backward are predicted as in `bench.predict`, from their launches, bytes and instructions; maps of
  its value-by-value kernels by their bytes.
- Everything else moves its bytes: at the bandwidth of the level-two cache if they fit there, else of memory.
- Each kernel also takes the time from the end of the previous one to its own start, and one round trip to memory, which
  a product has in its own time.

The model leaves out kernels that cuDNN adds to a convolution, algorithms that are better or worse than these tiles, and
kernels that run at the same time. The rates of `TILES` are fitted to one convolution, the other parameters to copies
and to fused_norm (`bench.gpu_model`). So the sum is no more than an orientation, and only for GPUs with the H100's
multiprocessors.

torch.compile's time is not predicted, because its kernels cannot be counted without it. `--reference` gives a lower
bound for it: the convolutions and matrix products of the public iteration, and nothing else.
"""

import argparse
import functools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from bench import predict
from bench.census import census_of
from bench.dispatch import COMPOSITES, Call
from bench.gpu_model import FITTED, GPUS, Gpu, call_parts
from bench.kernel_rule import category_of, kernels_of, layout_of
from bench.problems import FusedNormCase
from fastmunit.fused_norm_options import FusedNormOptions
from fastmunit.systems import registry
from tools.count_instructions import Counts, read_counts
from tools.gpu_budget import short_name

TILES = {(128, 128): 6.0, (128, 64): 3.0, (64, 64): 3.0}
"""Tera floating-point operations per second of a multiprocessor in bfloat16, by tile. They are the largest rates with
which a 3x3 convolution of 256 channels at 64² takes the 13.6 µs that were measured, whatever its tiles were."""
SPLITS = (1, 2, 4, 8, 16, 32)
MIN_DEPTH = 64
"""The smallest part of a sum that is split."""
PRODUCT_US = 1.0
"""Time to fill and drain the pipeline of a product. A guess."""
SPLIT_US = 1.5
"""Further time to add the parts of a split sum. A guess."""
FLOAT32_SHARE = 0.07
"""The rate of float32 without TF32, relative to bfloat16: 67 to 989 tera operations per second in the specification."""
MODELED = ("H100", "H200")


def product_us(
    rows: int, columns: int, depth: int, gpu: Gpu, *, batch: int = 1, splits: bool = False, share: float = 1.0
) -> float:
    """Return the microseconds of a batch of (rows, depth) by (depth, columns) products, with the best tiles.

    Args:
        rows: Rows of a result.
        columns: Columns of a result.
        depth: Number of terms of a sum.
        gpu: The GPU.
        batch: Number of products, or of groups of a convolution.
        splits: True if sums may be split.
        share: The rate relative to that of bfloat16.
    """
    best = math.inf
    for (height, width), rate in TILES.items():
        for parts in SPLITS if splits else (1,):
            if parts > 1 and depth / parts < MIN_DEPTH:
                continue
            tiles = batch * math.ceil(rows / height) * math.ceil(columns / width) * parts
            waves = math.ceil(tiles / gpu.device.multiprocessors)
            tile_us = 2 * height * width * (depth / parts) / (rate * share) * 1e-6
            best = min(best, waves * tile_us + PRODUCT_US + (SPLIT_US if parts > 1 else 0))
    return best


def convolution_us(call: Call, gpu: Gpu) -> float:
    """Return the microseconds of a convolution and of adding its bias."""
    weight, bias, groups = call.arguments[1], call.arguments[2], call.arguments[8]
    y = call.outputs[0]
    n, o, h, w = y.shape
    us = product_us(n * h * w, o // groups, math.prod(weight.shape[1:]), gpu, batch=groups)
    return us if bias is None else us + gpu.memory_us(2 * y.nbytes, cached=_fits(2 * y.nbytes, gpu))


def convolution_backward_us(call: Call, gpu: Gpu) -> float:
    """Return the microseconds of the gradients of a convolution that are computed."""
    dy, x, weight = call.arguments[:3]
    stride, groups, computed = call.arguments[4], call.arguments[9], call.arguments[10]
    n, o, h, w = dy.shape
    _, c, height, width = weight.shape
    us = 0.0
    if computed[0]:  # a pixel of x is read by this share of the taps
        depth = math.ceil(o // groups * height * width / math.prod(stride))
        us += product_us(n * math.prod(x.shape[2:]), c, depth, gpu, batch=groups)
    if computed[1]:
        us += product_us(o // groups, c * height * width, n * h * w, gpu, batch=groups, splits=True)
    if computed[2]:
        us += gpu.memory_us(dy.nbytes, cached=_fits(dy.nbytes, gpu))
    return us


def matrix_product_us(call: Call, gpu: Gpu) -> float:
    """Return the microseconds of a matrix product, or of a batch of them."""
    a = call.inputs[-2]
    *batch, rows, columns = (1, *call.outputs[0].shape)
    share = FLOAT32_SHARE if a.dtype == torch.float32 else 1.0
    of_products = product_us(rows, columns, a.shape[-1], gpu, batch=math.prod(batch), splits=True, share=share)
    return max(of_products, gpu.memory_us(call.nbytes, cached=_fits(call.nbytes, gpu)))


def bytes_moved(call: Call) -> int:
    """Return the bytes that an op reads and writes. Ops on lists that return nothing write some of their arguments."""
    packet = call.op.overloadpacket.__name__
    if packet.startswith("_fused_adam"):
        parameters, _, *averages = call.arguments[:4]
        return call.nbytes + sum(form.nbytes for forms in (parameters, *averages) for form in forms)
    if packet == "_foreach_copy_":
        return sum(form.nbytes for forms in call.arguments[:2] for form in forms)
    if packet.startswith("_foreach") and packet.endswith("_"):
        return call.nbytes + sum(form.nbytes for form in call.arguments[0])
    return call.nbytes


def time_us(call: Call, gpu: Gpu) -> float:
    """Return the microseconds of an op with its launches."""
    kernels = kernels_of(call, gpu.device)
    if kernels == 0:
        return 0.0
    launches_us = kernels * FITTED.launch_us
    category = category_of(call)
    if category in _PRODUCTS:
        return launches_us + _PRODUCTS[category](call, gpu)
    if category.startswith("fused_norm"):
        known = _fused_norm_us(*_case_of(call), gpu)
        if known is not None:
            return known
    moved = bytes_moved(call)
    return launches_us + kernels * FITTED.round_trip_us + gpu.memory_us(moved, cached=_fits(moved, gpu))


_PRODUCTS = {
    "convolution, forward": convolution_us,
    "convolution, backward": convolution_backward_us,
    "matrix product": matrix_product_us,
}
"""The products by category. They bound the time of the same iteration under torch.compile."""


def _fits(count: int, gpu: Gpu) -> bool:
    """Return True if so many bytes of the previous ops are still in the level-two cache."""
    return count <= gpu.cache_bytes


def _case_of(call: Call) -> tuple[Any, ...]:
    """Return the fields of the `FusedNormCase` of a call, which can be compared, and whether it is a backward pass."""
    backward = "backward" in call.name
    if backward:
        _, _, x, _, _, weight, bias, needs_weight, needs_bias, residual, *options = call.arguments
        learn = needs_weight or needs_bias
    else:
        x, weight, bias, residual, *options = call.arguments
        learn, residual = False, residual is not None
    parameters = tuple(None if p is None else p.shape for p in (weight, bias))
    fused = FusedNormOptions(*options)
    return fused.result_shape(x.shape), x.dtype, layout_of(x), fused, backward, parameters, learn, residual


@functools.cache
def _fused_norm_us(
    shape: tuple[int, int, int, int],
    dtype: torch.dtype,
    layout: str,
    options: FusedNormOptions,
    backward: bool,
    parameters: tuple[Any, Any],
    learn: bool,
    residual: bool,
    gpu: Gpu,
) -> float | None:
    """Return the predicted microseconds of a pass, or None if the instructions of a kernel are not counted."""
    case = FusedNormCase("", shape, dtype, layout, options._asdict(), backward, parameters, learn, residual)
    kernels = predict.kernels_of(case, gpu.device)[backward]
    counts = _counts()
    if not all(short_name(kernel.name) in counts for kernel in kernels):
        return None
    launches = [predict.launch_of(kernel, counts[short_name(kernel.name)], case, gpu) for kernel in kernels]
    return sum(call_parts(launches, gpu).values()) - FITTED.call_us + FITTED.launch_us


@functools.cache
def _counts() -> dict[str, Counts]:
    return dict(read_counts()[1])


def prediction(calls: Sequence[Call], gpu: Gpu) -> dict[str, Counter[str]]:
    """Return kernels and microseconds by category, the longest first."""
    found: dict[str, Counter[str]] = {}
    for call in calls:
        if call.op not in COMPOSITES:
            group = found.setdefault(category_of(call), Counter())
            group.update({"kernels": kernels_of(call, gpu.device)})
            group["us"] += time_us(call, gpu)  # type: ignore[assignment]
    return dict(sorted(found.items(), key=lambda item: (-item[1]["us"], item[0])))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", choices=registry.names(), default="munit")
    parser.add_argument("--size", type=int, default=256, help="height and width of the images")
    parser.add_argument("--gpu", choices=MODELED, default="H100")
    parser.add_argument("--reference", action="store_true", help="bound the public iteration under torch.compile")
    given = parser.parse_args()
    census = census_of(given.system, "bfloat16", size=given.size, gpu=given.gpu, reference=given.reference)
    calls = [call for call in census.cuda if not given.reference or category_of(call) in _PRODUCTS]
    found = prediction(calls, GPUS[given.gpu])
    print(f"{given.system}, bfloat16, {given.size}², {given.gpu}: predicted, not measured\n")
    print("| category | kernels | predicted ms |\n|---|---|---|")
    for name, counts in found.items():
        print(f"| {name} | {counts['kernels']:,} | {counts['us'] / 1e3:.2f} |")
    kernels, us = (sum(counts[key] for counts in found.values()) for key in ("kernels", "us"))
    print(f"| {'at least' if given.reference else 'all'} | {kernels:,} | {us / 1e3:.2f} |")


if __name__ == "__main__":
    main()
