"""Budgets for the machine code of the Triton kernels on MUNIT's maps: registers, spills and widths of accesses."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")
pytest.importorskip("fastmunit.kernels", reason="the Triton kernels are not installed")

from fastmunit.fused_norm_options import FusedNormOptions
from fastmunit.kernels.gan_loss import gan_loss, gan_loss_backward
from fastmunit.kernels.instance_norm_stats import instance_norm_stats, instance_norm_stats_backward
from fastmunit.kernels.weighted_l1 import weighted_l1, weighted_l1_backward
from fastmunit.ops import fused_norm
from tests.kernels.ahead_of_time import bytes_in_flight, launches_compiled_for, resources, tools_missing

REASON = tools_missing()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))


def norm(shape, dtype, layout, statistics, pad, coefficients, residual):
    """Run forward and backward of a block of MUNIT."""
    memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    n, c, h, w = shape
    x = torch.empty(shape, dtype=dtype, memory_format=memory_format)
    weight, bias = (torch.empty(coefficients) if coefficients else None for _ in range(2))
    near = torch.empty((n, c, h + 2, w + 2), dtype=dtype, memory_format=memory_format)[:, :, 1:-1, 1:-1]
    options = (statistics, "relu", 0.2, pad, "reflect", 1e-5, False)
    padded, mean, rstd = fused_norm._triton(x, weight, bias, near if residual else None, *options)
    dpadded = torch.empty_like(padded)
    fused_norm._triton_backward(
        dpadded, None, x, mean, rstd, weight, bias, weight is not None, bias is not None, residual, *options
    )


def l1():
    pairs = [torch.empty(1, 3, 256, 256), torch.empty(1, 256, 64, 64, dtype=torch.bfloat16), torch.empty(1, 8)]
    values, total, signs = weighted_l1(pairs, pairs, [10.0, 1.0, 1.0], True)
    counts = [x.numel() for x in pairs]
    weighted_l1_backward(values, total, signs, counts, [10.0, 1.0, 1.0], [*pairs[:2], None], [None, pairs[1], None])


def gan():
    """Run two of the maps of a MUNIT step."""
    maps = [torch.empty(2, 1, side, side, dtype=torch.bfloat16) for side in (16, 8)]
    arguments = (maps, ["fake_real", "generator"], [1.0, 2.0], "lsgan")
    values, total = gan_loss(*arguments)
    gan_loss_backward(values, total, *arguments, maps)


def stats(layout):
    memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    x = torch.empty((1, 64, 256, 256), memory_format=memory_format)
    mean, rstd = instance_norm_stats(x, 1e-5)
    instance_norm_stats_backward(mean, rstd, x, mean, rstd)


def instance(shape, dtype, layout):
    """Return a call of instance norm, ReLU and a pad of 1."""
    return partial(norm, shape, dtype, layout, "instance", 1, None, False)


FULL, HALF, QUARTER = (1, 64, 256, 256), (1, 128, 128, 128), (1, 256, 64, 64)
F32, BF16 = torch.float32, torch.bfloat16


@dataclass(frozen=True)
class Budget:
    """The resources that a call may take.

    Attributes:
        launch: The call.
        kernels: For each kernel, in the order of the launches: name, maximum number of registers, minimum numbers of
            128-bit reads and writes per thread, and maximum number of float64 instructions. All values of x are read
            with 128-bit accesses in forward and backward. All values are written with 128-bit accesses too, except for
            padded maps in NCHW, whose rows do not start at multiples of 16 bytes.
        values: Number of values of the map.
        per_value: Maximum number of instructions of all kernels per value of the map, forward and backward. An
            instruction counts once per thread even if it is skipped, as the code for edges is in most programs.
        in_flight: Minimum number of bytes that a thread reads before it waits for the first of them: 32 values of two
            bytes. It is smaller if the compiler moves the use of a statistic before the reads of the map.
    """

    launch: Callable[[], None]
    kernels: list[tuple[str, int, int, int, int]]
    values: int = 0
    per_value: tuple[float, float] | None = None
    in_flight: int = 64


BUDGET = {
    "instance norm, NCHW, 64x256x256": Budget(
        instance(FULL, F32, "nchw"),
        [
            ("_moments_kernel", 56, 8, 0, 0), ("_forward_combine_kernel", 72, 0, 0, 13),
            ("_forward_kernel", 80, 8, 0, 0), ("_backward_kernel", 104, 8, 0, 8),
            ("_backward_combine_kernel", 72, 0, 0, 9), ("_backward_kernel", 112, 8, 8, 0),
        ], 4194304, (35, 58),
    ),
    "instance norm, NCHW, 128x128x128": Budget(
        instance(HALF, F32, "nchw"),
        [("_forward_kernel", 96, 8, 0, 6), ("_backward_kernel", 120, 8, 8, 9)], 2097152, (32, 44), 24,
    ),
    "instance norm, NCHW, 256x64x64": Budget(
        instance(QUARTER, F32, "nchw"),
        [("_forward_kernel", 96, 8, 0, 6), ("_backward_kernel", 120, 8, 8, 9)], 1048576, (33, 43),
    ),
    "instance norm, channels_last, 64x256x256": Budget(
        instance(FULL, BF16, "channels_last"),
        [
            ("_moments_kernel", 64, 4, 0, 0), ("_forward_combine_kernel", 96, 0, 0, 13),
            ("_forward_kernel", 88, 11, 5, 0), ("_backward_kernel", 136, 20, 0, 24),
            ("_backward_combine_kernel", 72, 0, 0, 9), ("_backward_kernel", 144, 24, 5, 0),
        ], 4194304, (32, 67),
    ),
    "instance norm, channels_last, 128x128x128": Budget(
        instance(HALF, BF16, "channels_last"),
        [
            ("_moments_kernel", 64, 4, 0, 0), ("_forward_combine_kernel", 96, 0, 0, 13),
            ("_forward_kernel", 88, 11, 5, 0), ("_backward_kernel", 136, 20, 0, 24),
            ("_backward_combine_kernel", 72, 0, 0, 9), ("_backward_kernel", 144, 24, 5, 0),
        ], 2097152, (32, 67),
    ),
    "instance norm, channels_last, 256x64x64": Budget(
        instance(QUARTER, BF16, "channels_last"),
        [
            ("_moments_kernel", 64, 4, 0, 0), ("_forward_combine_kernel", 88, 0, 0, 13),
            ("_forward_kernel", 88, 11, 5, 0), ("_backward_kernel", 136, 20, 0, 24),
            ("_backward_combine_kernel", 72, 0, 0, 9), ("_backward_kernel", 144, 24, 5, 0),
        ], 1048576, (32, 67),
    ),
    "instance norm without pad, bfloat16 NCHW": Budget(
        partial(norm, HALF, BF16, "nchw", "instance", 0, None, False),
        [("_forward_kernel", 96, 4, 4, 6), ("_backward_kernel", 112, 8, 4, 5)], 2097152, (19, 22),
    ),
    "AdaIN, NCHW": Budget(
        partial(norm, QUARTER, F32, "nchw", "instance", 1, (1, 256), True),
        [("_forward_kernel", 112, 8, 0, 6), ("_backward_kernel", 160, 8, 16, 9)], 1048576, (39, 47),
    ),
    "AdaIN, channels_last": Budget(
        partial(norm, QUARTER, BF16, "channels_last", "instance", 1, (1, 256), True),
        [
            ("_moments_kernel", 64, 4, 0, 0), ("_forward_combine_kernel", 96, 0, 0, 13),
            ("_forward_kernel", 96, 16, 5, 0), ("_backward_kernel", 136, 24, 0, 24),
            ("_backward_combine_kernel", 72, 0, 0, 9), ("_backward_kernel", 136, 24, 10, 0),
        ], 1048576, (39, 70),
    ),
    "layer norm, channels_last": Budget(
        partial(norm, FULL, BF16, "channels_last", "layer", 3, (64,), False),
        [
            ("_moments_kernel", 56, 4, 0, 0), ("_forward_combine_kernel", 88, 0, 0, 66),
            ("_forward_kernel", 80, 11, 5, 0), ("_backward_kernel", 120, 14, 0, 7),
            ("_backward_combine_kernel", 72, 0, 0, 59), ("_backward_kernel", 168, 20, 5, 8),
        ], 4194304, (32, 80),
    ),
    "bias, activation and pad": Budget(
        partial(norm, HALF, F32, "channels_last", "none", 1, (128,), False),
        [
            ("_forward_kernel", 80, 12, 10, 0), ("_backward_kernel", 136, 27, 10, 0),
            ("_backward_combine_kernel", 64, 0, 0, 0),
        ], 2097152, (18, 39),
    ),
    "weighted L1": Budget(
        l1,
        [
            ("_sums_kernel", 80, 12, 2, 0), ("total_kernel", 48, 0, 0, 168),
            ("_backward_kernel", 48, 2, 8, 41),
        ],
    ),
    "GAN losses": Budget(
        gan,
        [
            ("_gan_sums_kernel", 32, 2, 0, 0), ("total_kernel", 48, 0, 0, 60),
            ("_gan_backward_kernel", 32, 2, 2, 40),
        ],
    ),
    "instance_norm_stats": Budget(
        partial(stats, "nchw"),
        [
            ("_moments_kernel", 56, 8, 0, 0), ("_combine_kernel", 72, 0, 0, 0),
            ("_backward_kernel", 40, 4, 4, 0),
        ],
    ),
    "instance_norm_stats, channels_last": Budget(
        partial(stats, "channels_last"),
        [
            ("_moments_kernel", 56, 8, 0, 0), ("_combine_kernel", 88, 0, 0, 0),
            ("_backward_kernel", 48, 8, 4, 0),
        ],
    ),
}  # fmt: skip


def cases():
    """Yield most cases for one architecture and a case of few kernels for the two others. The rest is slow.

    AdaIN has maps of 256x64x64, too, in both layouts. In channels_last, it runs the kernels of instance norm with a
    weight, a bias and a residual in addition.
    """
    rare = ("128x128x128", "256x64x64", "without", "instance norm, channels_last")
    for case in BUDGET:
        for capability in (80, 90, 100):
            slow = (capability != 90 and case != "AdaIN, NCHW") or any(word in case for word in rare)
            yield pytest.param(case, capability, marks=pytest.mark.slow if slow else [])


@pytest.mark.parametrize(("case", "capability"), list(cases()))
def test_budget(case, capability, tmp_path):
    budget = BUDGET[case]
    with launches_compiled_for(capability) as compiled:
        budget.launch()
    assert [kernel.metadata.name for _, kernel in compiled] == [name for name, *_ in budget.kernels]
    per_value = {False: 0.0, True: 0.0}
    for (grid, kernel), (name, registers, reads, writes, float64) in zip(compiled, budget.kernels, strict=True):
        found = resources(kernel, tmp_path)
        print(f"sm_{capability} {case}: {name} {found}")
        assert found.spills == 0, f"{name} spills registers"
        assert found.registers <= registers, f"{name} takes {found.registers} registers"
        assert found.registers * found.threads <= 65536
        assert found.accesses["LDG", 128] >= reads, f"{name}: {found.accesses}"
        assert found.accesses["STG", 128] >= writes, f"{name}: {found.accesses}"
        assert found.float64 <= float64, f"{name} has {found.float64} float64 instructions"
        if budget.per_value is not None:
            if "combine" not in name:
                assert found.in_flight >= budget.in_flight, f"{name} reads {found.in_flight} bytes before it waits"
            per_value["backward" in name] += found.instructions * found.threads * grid[0] / budget.values
    if budget.per_value is not None:
        print(f"sm_{capability} {case}: {per_value[False]:.1f} and {per_value[True]:.1f} instructions per value")
        assert per_value[False] <= budget.per_value[0], f"forward takes {per_value[False]:.1f} instructions per value"
        assert per_value[True] <= budget.per_value[1], f"backward takes {per_value[True]:.1f} instructions per value"


def test_a_row_length_that_is_not_aligned_is_noticed(tmp_path):
    """The checks can fail: rows of 255 values are read one by one, with more instructions."""
    with launches_compiled_for(90) as compiled:
        norm((1, 64, 256, 255), torch.float32, "nchw", "instance", 1, None, False)
    forward, backward = (resources(compiled[k][1], tmp_path) for k in (2, 5))
    assert forward.accesses["LDG", 128] == 0 and backward.accesses["LDG", 128] == 0
    assert forward.instructions + backward.instructions > 2000  # 1643 if rows are aligned


def test_gradients_of_coefficients_cost_nothing_if_they_are_not_needed():
    """Only one kernel runs. Without statistics it takes no sums."""
    from fastmunit.kernels.fused_norm_backward import fused_norm_backward

    x, mean, dx = torch.empty(2, 16, 16, 16), torch.empty(2, 16, dtype=torch.float64), torch.empty(2, 16, 16, 16)
    bias, dbias = torch.empty(16), torch.empty(16)
    expected = {("none", True): 2, ("none", False): 1, ("instance", True): 2, ("instance", False): 1}
    for (statistics, needed), launches in expected.items():
        options = FusedNormOptions(statistics, "relu", pad_mode="zero")
        with launches_compiled_for(90) as compiled:
            fused_norm_backward(x, None, x, mean, mean, None, bias, dx, None, dbias if needed else None, None, options)
        assert len(compiled) == launches, (statistics, needed)
        assert ("shfl.sync" in compiled[0][1].asm["ptx"]) == (needed or statistics == "instance")


def test_reads_after_a_use_are_not_in_flight():
    reads = ["LDG.E.128 R4, desc[UR4][R2.64]", "@!P0 LDG.E R8, desc[UR4][R2.64+0x10]", "IMAD R9, R3, R3, RZ"]
    assert bytes_in_flight([*reads, "FADD R1, R1, R7", "LDG.E R10, desc[UR4][R2.64]"]) == 20
    assert bytes_in_flight([*reads, "STG.E desc[UR4][R2.64], R8", "LDG.E R10, desc[UR4][R2.64]"]) == 20
    assert bytes_in_flight([*reads, "FADD R1, R1, R3", "LDG.E R10, desc[UR4][R2.64]"]) == 24


def test_float64_is_noticed(tmp_path):
    """The count of float64 instructions can fail: float64 maps have hundreds of them."""
    from fastmunit.kernels.instance_norm_stats import instance_norm_stats

    with launches_compiled_for(90) as compiled:
        instance_norm_stats(torch.empty(1, 4, 64, 64, dtype=torch.float64), 1e-5)
    assert resources(compiled[0][1], tmp_path).float64 > 100
