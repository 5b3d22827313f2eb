"""The CUDA launchers of instance_norm_stats on the emulator, compared with float64."""

import pytest
import torch

from fastmunit.testing import DTYPES
from tests.cuda.emulated import SCHEDULES
from tests.cuda.instance_norm_stats_requests import check


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [*(((2, 3, 7, 9), dtype) for dtype in DTYPES), ((1, 2, 91, 92), torch.float32), ((1, 35, 9, 16), torch.float32)],
    ids=str,
)
def test_matches_float64(shape, dtype, layout):
    check(shape, dtype, layout)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_threads_may_run_in_any_order(layout, schedule):
    check((1, 35, 17, 19), torch.bfloat16, layout, schedule=schedule)
