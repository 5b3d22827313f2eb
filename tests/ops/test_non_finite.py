"""Infinities, NaN and empty tensors in every public op: each implementation gives what the reference gives."""

import pytest

from tests.ops.fused_norm_cases import Case, native
from tests.ops.non_finite_cases import (
    POISONS,
    all_cases,
    all_poisons,
    check_non_finite,
    in_channels,
    one_poison,
)


@pytest.mark.parametrize("case", all_cases(), ids=Case.id)
def test_fused_norm(case):
    check_non_finite(case, all_poisons(case), native)
    for place, value in POISONS:
        narrow = in_channels(case)
        check_non_finite(narrow, one_poison(narrow, place, value), native)
