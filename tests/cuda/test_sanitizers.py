"""The emulated kernels under the sanitizers: out of bounds, misaligned, overflow; and races, at tiny shapes."""

from functools import partial

import pytest
import torch

from tests.cuda import instance_norm_stats_requests as instance_norm_stats
from tests.cuda import weighted_l1_requests as weighted_l1


def check_pairs(dtypes, shapes=weighted_l1.SHAPES, **options):
    weights = [10.0, 0.5, -1.0, 0.0, 3.0, 1.0][: len(shapes)]
    weighted_l1.check(*weighted_l1.make_pairs(dtypes, shapes=shapes), weights, **options)


# Each case runs forward and backward of an op and holds it to float64. A new kernel gets its lines in both tables.
SMALL = {
    "instance_norm_stats nchw": partial(instance_norm_stats.check, (2, 5, 65, 64), torch.bfloat16, "nchw"),
    "instance_norm_stats nchw, two pixels": partial(instance_norm_stats.check, (1, 1, 1, 2), torch.float32, "nchw"),
    "instance_norm_stats channels_last": partial(
        instance_norm_stats.check, (2, 35, 7, 9), torch.float16, "channels_last"
    ),
    "weighted_l1 float32": partial(check_pairs, [torch.float32]),
    "weighted_l1 of 16 bits": partial(check_pairs, [torch.bfloat16, torch.bfloat16, torch.float16]),
    "weighted_l1 mixed": partial(check_pairs, [torch.float32, torch.bfloat16, torch.float64, torch.float16]),
}
TINY = {
    "instance_norm_stats nchw": partial(instance_norm_stats.check, (1, 2, 5, 7), torch.float32, "nchw"),
    "instance_norm_stats channels_last": partial(
        instance_norm_stats.check, (1, 33, 3, 5), torch.float32, "channels_last"
    ),
    "weighted_l1": partial(check_pairs, [torch.float32, torch.bfloat16], [(1, 1, 5, 7), (1, 1, 65, 64)]),
}


@pytest.mark.parametrize("case", SMALL)
def test_addresses_and_arithmetic(case):
    SMALL[case](sanitize="address,undefined")


@pytest.mark.parametrize("schedule", ["forward", "shuffled"])
@pytest.mark.parametrize("case", TINY)
def test_races(case, schedule):
    TINY[case](sanitize="thread", schedule=schedule)
