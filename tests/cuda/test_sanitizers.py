"""The emulated kernels under the sanitizers: out-of-bounds and misaligned accesses, overflows, and races.

For races, those of fused_norm are the float32 copies of planted.py without a selected bug: these contain each statement
of the kernels, and test_bugs_in_kernels.py needs them too. Compiling the kernels for races takes long.
"""

from dataclasses import replace
from functools import partial

import pytest
import torch

from tests.cuda import gan_loss_requests as gan_loss
from tests.cuda import instance_norm_stats_requests as instance_norm_stats
from tests.cuda import weighted_l1_requests as weighted_l1
from tests.cuda.fused_norm_cases import check as check_fused_norm
from tests.cuda.fused_norm_cases import plain_case
from tests.cuda.planted import planted_include
from tests.ops.gan_loss_cases import make_maps


def check_pairs(dtypes, shapes=weighted_l1.SHAPES, **options):
    weights = [10.0, 0.5, -1.0, 0.0, 3.0, 1.0][: len(shapes)]
    weighted_l1.check(*weighted_l1.make_pairs(dtypes, shapes=shapes), weights, **options)


def check_maps(gan_type, dtypes, shapes=gan_loss.SHAPES, **options):
    maps, targets = make_maps(dtypes, shapes=shapes)
    gan_loss.check(maps, targets, gan_loss.WEIGHTS[: len(maps)], gan_type, **options)


def fused_norm(shape, layout="nchw", **changes):
    case = plain_case(shape, layout, activation="relu", **changes)

    def check(sanitize, schedule="forward"):
        include = planted_include() if sanitize == "thread" else None
        check_fused_norm(replace(case, schedule=schedule), sanitize=sanitize, include=include)

    return check


# Each case runs forward and backward of an op and compares them with float64. Add a new kernel to both tables.
SMALL = {
    "instance_norm_stats nchw": partial(instance_norm_stats.check, (2, 5, 65, 64), torch.bfloat16, "nchw"),
    "instance_norm_stats nchw, two pixels": partial(instance_norm_stats.check, (1, 1, 1, 2), torch.float32, "nchw"),
    "instance_norm_stats channels_last": partial(
        instance_norm_stats.check, (2, 35, 7, 9), torch.float16, "channels_last"
    ),
    "weighted_l1 float32": partial(check_pairs, [torch.float32]),
    "weighted_l1 of 16 bits": partial(check_pairs, [torch.bfloat16, torch.bfloat16, torch.float16]),
    "weighted_l1 mixed": partial(check_pairs, [torch.float32, torch.bfloat16, torch.float64, torch.float16]),
    "gan_loss float32": partial(check_maps, "nsgan", [torch.float32]),
    "gan_loss mixed": partial(check_maps, "hinge", [torch.float16, torch.bfloat16, torch.float64, torch.float32]),
    **{
        f"fused_norm {layout} {statistics} {device}": fused_norm(
            (2, 8, 10, 10), layout, statistics=statistics, device=device, dtype=dtype, residual="strided", pad=2
        )
        for layout, dtype in (("nchw", torch.bfloat16), ("channels_last", torch.float32))
        for statistics in ("instance", "layer")
        for device in ("H100", "small clusters", "small tiles", "no tiles")
    },
    "fused_norm with pixel_shuffle": fused_norm(
        (2, 8, 8, 6), pixel_shuffle=True, coefficients=(2, 2), gradient_layout="strided"
    ),
    "fused_norm without statistics": fused_norm((2, 8, 9, 7), "channels_last", statistics="none", pad_mode="zero"),
}
TINY = {
    "instance_norm_stats nchw": partial(instance_norm_stats.check, (1, 2, 5, 7), torch.float32, "nchw"),
    "instance_norm_stats channels_last": partial(
        instance_norm_stats.check, (1, 33, 3, 5), torch.float32, "channels_last"
    ),
    "weighted_l1": partial(check_pairs, [torch.float32, torch.bfloat16], [(1, 1, 5, 7), (1, 1, 65, 64)]),
    "gan_loss": partial(check_maps, "lsgan", [torch.float32, torch.bfloat16], [(2, 1, 5, 7), (2, 1, 33, 32)]),
    **{
        f"fused_norm {layout} {statistics} {device}": fused_norm(
            (1, 8, 6, 6), layout, statistics=statistics, device=device
        )
        for layout in ("nchw", "channels_last")
        for statistics, device in (("instance", "H100"), ("layer", "small clusters"), ("instance", "no tiles"))
    },
}


@pytest.mark.parametrize("case", SMALL)
def test_addresses_and_arithmetic(case):
    SMALL[case](sanitize="address,undefined")


def races():
    """Yield all cases with both schedules. Most of those that take long are slow when shuffled."""
    for case in TINY:
        slow = case.startswith("fused_norm") and "small clusters" not in case
        for schedule in ("forward", "shuffled"):
            marks = [pytest.mark.slow] if slow and schedule == "shuffled" else []
            yield pytest.param(case, schedule, marks=marks, id=f"{case}-{schedule}")


@pytest.mark.parametrize(("case", "schedule"), list(races()))
def test_races(case, schedule):
    TINY[case](sanitize="thread", schedule=schedule)
