"""The Triton kernels' machine code on MUNIT's maps, held to a budget: registers, spills and the width of accesses."""

import importlib
from functools import partial

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")
pytest.importorskip("fastmunit.kernels", reason="the Triton kernels are not installed")

from fastmunit.kernels.instance_norm_stats import instance_norm_stats, instance_norm_stats_backward
from fastmunit.kernels.weighted_l1 import weighted_l1, weighted_l1_backward
from tests.kernels.ahead_of_time import launches_compiled_for, resources, tools_missing

REASON = tools_missing()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))


def norm(shape, dtype, layout, statistics, pad, coefficients, residual):
    """Forward and backward of a block of MUNIT."""
    memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    n, c, h, w = shape
    x = torch.empty(shape, dtype=dtype, memory_format=memory_format)
    weight, bias = (torch.empty(coefficients) if coefficients else None for _ in range(2))
    near = torch.empty((n, c, h + 2, w + 2), dtype=dtype, memory_format=memory_format)[:, :, 1:-1, 1:-1]
    options = (statistics, "relu", 0.2, pad, "reflect", 1e-5, False)
    ops = importlib.import_module("fastmunit.ops.fused_norm")  # the package has the function of that name
    padded, mean, rstd = ops._triton(x, weight, bias, near if residual else None, *options)
    dpadded = torch.empty_like(padded)
    ops._triton_backward(dpadded, None, x, mean, rstd, weight, bias, residual, *options)


def l1():
    pairs = [torch.empty(1, 3, 256, 256), torch.empty(1, 256, 64, 64, dtype=torch.bfloat16), torch.empty(1, 8)]
    values, total, signs = weighted_l1(pairs, pairs, [10.0, 1.0, 1.0], True)
    counts = [x.numel() for x in pairs]
    weighted_l1_backward(values, total, signs, counts, [10.0, 1.0, 1.0], [*pairs[:2], None], [None, pairs[1], None])


def stats(layout):
    memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    x = torch.empty((1, 64, 256, 256), memory_format=memory_format)
    mean, rstd = instance_norm_stats(x, 1e-5)
    instance_norm_stats_backward(mean, rstd, x, mean, rstd)


FULL, HALF, QUARTER = (1, 64, 256, 256), (1, 128, 128, 128), (1, 256, 64, 64)
# What is launched, and of each kernel in the order of its launch: registers at most, and the least number of 128-bit
# reads and writes of each thread. They come to every value of x in forward and in backward, and to every value that is
# written, but for padded maps in NCHW, whose rows do not begin at multiples of 16 bytes.
BUDGET = {
    "AdaIN, whole planes": (
        partial(norm, QUARTER, torch.float32, "nchw", "instance", 1, (1, 256), True),
        [("_forward_kernel", 96, 4, 0), ("_backward_kernel", 184, 8, 8)],
    ),
    "instance norm, whole planes without pad": (
        partial(norm, HALF, torch.bfloat16, "nchw", "instance", 0, None, False),
        [("_forward_kernel", 168, 8, 8), ("_backward_kernel", 255, 16, 8)],
    ),
    "instance norm, whole planes": (
        partial(norm, HALF, torch.bfloat16, "nchw", "instance", 1, None, False),
        [("_forward_kernel", 255, 8, 0), ("_backward_kernel", 255, 8, 8)],
    ),
    "instance norm, read twice": (
        partial(norm, FULL, torch.float32, "nchw", "instance", 1, None, False),
        [
            ("_moments_kernel", 40, 4, 0), ("_combine_kernel", 64, 0, 0), ("_forward_kernel", 64, 4, 0),
            ("_backward_kernel", 96, 4, 0), ("_combine_kernel", 64, 0, 0), ("_backward_kernel", 128, 4, 4),
        ],
    ),
    "AdaIN, channels_last": (
        partial(norm, QUARTER, torch.bfloat16, "channels_last", "instance", 1, (1, 256), True),
        [
            ("_moments_kernel", 64, 2, 0), ("_combine_kernel", 64, 0, 0), ("_forward_kernel", 128, 4, 2),
            ("_backward_kernel", 128, 4, 0), ("_combine_kernel", 64, 0, 0), ("_backward_kernel", 184, 4, 4),
        ],
    ),
    "layer norm, channels_last": (
        partial(norm, FULL, torch.float32, "channels_last", "layer", 3, (64,), False),
        [
            ("_moments_kernel", 40, 4, 0), ("_combine_kernel", 96, 0, 0), ("_forward_kernel", 96, 4, 4),
            ("_backward_kernel", 128, 8, 0), ("_combine_kernel", 64, 0, 0), ("_backward_kernel", 168, 8, 4),
        ],
    ),
    "bias, activation and pad": (
        partial(norm, HALF, torch.float32, "channels_last", "none", 1, (128,), False),
        [("_forward_kernel", 96, 4, 4), ("_backward_kernel", 128, 8, 4), ("_combine_kernel", 64, 0, 0)],
    ),
    "weighted L1": (l1, [("_sums_kernel", 72, 4, 1), ("_total_kernel", 64, 0, 0), ("_backward_kernel", 72, 1, 4)]),
    "instance_norm_stats": (
        partial(stats, "nchw"),
        [("_moments_kernel", 40, 4, 0), ("_combine_kernel", 64, 0, 0), ("_backward_kernel", 48, 4, 4)],
    ),
    "instance_norm_stats, channels_last": (
        partial(stats, "channels_last"),
        [("_moments_kernel", 64, 4, 0), ("_combine_kernel", 96, 0, 0), ("_backward_kernel", 64, 4, 4)],
    ),
}  # fmt: skip


# One architecture has most of them, the others one; the rest takes a minute and a half to compile.
LONG = {"instance norm, whole planes", "instance norm, whole planes without pad"}
CASES = [
    pytest.param(
        case,
        capability,
        marks=pytest.mark.slow if (capability != 90 and case != "AdaIN, channels_last") or case in LONG else [],
    )
    for case in BUDGET
    for capability in (80, 90, 100)
]


@pytest.mark.parametrize(("case", "capability"), CASES)
def test_budget(case, capability, tmp_path):
    launch, budget = BUDGET[case]
    with launches_compiled_for(capability) as compiled:
        launch()
    assert [kernel.metadata.name for _, kernel in compiled] == [name for name, *_ in budget]
    for (_, kernel), (name, registers, reads, writes) in zip(compiled, budget, strict=True):
        found = resources(kernel, tmp_path)
        print(f"sm_{capability} {case}: {name} {found}")
        assert found.spills == 0, f"{name} spills registers"
        assert found.registers <= registers, f"{name} takes {found.registers} registers"
        assert found.registers * found.threads <= 65536
        assert found.accesses["LDG", 128] >= reads, f"{name}: {found.accesses}"
        assert found.accesses["STG", 128] >= writes, f"{name}: {found.accesses}"


def test_a_row_length_that_is_not_aligned_is_seen(tmp_path):
    """The check of widths can fail: rows of 255 values are read one by one."""
    with launches_compiled_for(90) as compiled:
        norm((1, 64, 256, 255), torch.float32, "nchw", "instance", 1, None, False)
    assert resources(compiled[2][1], tmp_path).accesses["LDG", 128] == 0
