"""The Triton kernels of gan_loss in Triton's interpreter. tests/kernels/test_interpreter.py runs this file."""

import pytest
import torch

from fastmunit import functional, reference
from fastmunit.testing import LAYOUTS, uninitialized_memory_is_nan
from tests.ops.gan_loss_cases import GAN_TYPES, TARGETS, check, make_maps, run

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# More than one segment, in which the halves meet; exactly one segment; part of a segment; one value.
SHAPES = [(4, 1, 21, 23), (2, 4, 16, 16), (2, 3, 5, 7), (2, 1, 1, 1)]
WEIGHTS = [10.0, 0.5, -1.0, 0.0]
each_type = pytest.mark.parametrize("gan_type", GAN_TYPES)


def triton(outputs, targets, weights, gan_type):
    return functional.gan_loss(outputs, targets, weights, gan_type, "triton")


@each_type
def test_matches_float64(gan_type):
    dvalues = torch.tensor([0.5, -1.0, 2.0, 1.0], dtype=torch.float64)
    for shift, wants in enumerate([[True, False, True, False], None, None, None]):
        maps, targets = make_maps(DTYPES, [*LAYOUTS[shift:], *LAYOUTS[:shift]], SHAPES)
        targets = [*targets[shift:], *targets[:shift]]
        with uninitialized_memory_is_nan():
            ours = run(triton, maps, targets, WEIGHTS, gan_type, dvalues, wants)
        check(ours, maps, targets, WEIGHTS, gan_type, dvalues, wants)


@pytest.mark.parametrize("upstream", [1.0, float("inf")])
@each_type
def test_nonfinite_and_kinks(gan_type, upstream):
    for value in (0.0, 1.0, -1.0, float("inf"), float("-inf"), float("nan")):
        maps, weights = [torch.full((2,), value)] * 4, [1.0, 2.0, 3.0, 4.0]
        arguments = (maps, TARGETS, weights, gan_type, torch.full((4,), upstream))
        ours, plain = (run(function, *arguments) for function in (triton, reference.gan_loss))
        if upstream == 1.0 or gan_type != "nsgan":
            torch.testing.assert_close(ours, plain, equal_nan=True)
        else:
            assert not any(gradient.isfinite().any() for gradient in ours[2:])


def test_empty_maps_are_nan():
    values, total = triton([torch.zeros(0, 3), torch.ones(2)], ["fake_real", "fake"], [1.0, 1.0], "lsgan")
    assert values.isnan().tolist() == [True, False] and total.isnan()
    assert triton([torch.zeros(0)], ["real"], [1.0], "hinge")[1].isnan()
