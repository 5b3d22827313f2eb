"""The Triton kernels of weighted_l1 in Triton's interpreter. tests/kernels/test_interpreter.py runs this file."""

import itertools

import pytest
import torch
from torch.library import opcheck

from fastmunit import functional, reference
from fastmunit.testing import LAYOUTS, assert_as_exact_as, make_map, uninitialized_memory_is_nan

FORWARD = torch.ops.fastmunit.weighted_l1_triton.default
BACKWARD = torch.ops.fastmunit.weighted_l1_backward_triton.default
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# More than one segment, exactly one segment, part of a segment, one value.
SHAPES = [(1, 3, 45, 64), (1, 4, 32, 32), (2, 3, 5, 7), (1, 1, 1, 1)]
WEIGHTS = [10.0, 0.5, -1.0, 0.0]


def triton(inputs, targets, weights):
    return functional.weighted_l1(inputs, targets, weights, "triton")


def make_pairs(dtypes, layouts, shapes=SHAPES):
    dtypes, layouts = itertools.cycle(dtypes), itertools.cycle(layouts)
    return tuple(
        [make_map(shape, next(dtypes), next(layouts), seed=seed + k) for k, shape in enumerate(shapes)]
        for seed in (0, 100)
    )


def run(function, inputs, targets, weights, dvalues, wants):
    tensors = [x.detach().requires_grad_(want) for x, want in zip((*inputs, *targets), wants, strict=True)]
    values, total = function(tensors[: len(inputs)], tensors[len(inputs) :], weights)
    loss = (values * dvalues.to(values.dtype)).sum() + 0.75 * total
    return [values.detach(), total.detach(), *torch.autograd.grad(loss, [x for x in tensors if x.requires_grad])]


@pytest.mark.parametrize(
    "layouts", [["nchw"], ["channels_last"], LAYOUTS, ["channels_last", "nchw", "sliced"]], ids="-".join
)
@pytest.mark.parametrize("dtypes", [*([dtype] for dtype in DTYPES), DTYPES], ids=str)
def test_matches_float64(dtypes, layouts):
    inputs, targets = make_pairs(dtypes, layouts)
    dvalues = torch.tensor([0.5, -1.0, 2.0, 1.0], dtype=torch.float64)
    wants = [True, True, False, True, False, True, True, False]
    arguments = (WEIGHTS, dvalues, wants)
    with uninitialized_memory_is_nan():
        ours = run(triton, inputs, targets, *arguments)
    plain = run(reference.weighted_l1, inputs, targets, *arguments)
    exact = run(reference.weighted_l1, [x.double() for x in inputs], [x.double() for x in targets], *arguments)
    terms = sum(abs(weight) * float(value) for weight, value in zip(WEIGHTS, exact[0], strict=True))
    for k, (a, b, e) in enumerate(zip(ours, plain, exact, strict=True)):
        assert a.stride() == b.stride() or k > 1
        assert_as_exact_as(a, b, e, f"result {k}", scale=terms if k == 1 else None)


def test_sixteen_pairs():
    inputs, targets = make_pairs(DTYPES, ["nchw"], [(1, 1, k + 1, 3) for k in range(16)])
    weights = [float(k) for k in range(16)]
    arguments = (weights, torch.ones(16), [True] * 32)
    ours, plain = (run(function, inputs, targets, *arguments) for function in (triton, reference.weighted_l1))
    torch.testing.assert_close(ours, plain, rtol=1.6e-2, atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_signs_of_nonfinite_and_equal_values(dtype):
    special = torch.tensor([0.0, -0.0, 1.0, -2.0, float("inf"), float("-inf"), float("nan")], dtype=dtype)
    input, target = (x.reshape(-1) for x in torch.meshgrid(special, special, indexing="ij"))
    for selected in (torch.ones_like(input, dtype=torch.bool), (input - target).isfinite()):
        arguments = ([input[selected]], [target[selected]], [2.0], torch.ones(1), [True, True])
        torch.testing.assert_close(run(triton, *arguments), run(reference.weighted_l1, *arguments), equal_nan=True)


def test_empty_pairs_are_nan():
    values, total = triton([torch.zeros(0, 3), torch.ones(2)], [torch.zeros(0, 3), torch.zeros(2)], [1.0, 1.0])
    assert values.isnan().tolist() == [True, False] and total.isnan()
    assert triton([torch.zeros(0)], [torch.zeros(0)], [1.0])[1].isnan()


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_opcheck(layout):
    inputs, targets = make_pairs([torch.bfloat16, torch.float32], [layout], [(2, 3, 4, 5), (1, 8, 1, 1)])
    signs = torch.ones(sum(x.numel() for x in inputs), dtype=torch.int8)
    opcheck(BACKWARD, (torch.ones(2), torch.ones(()), signs, inputs, targets, [1.0, 2.0], [True, True, True, False]))
    for x in (*inputs, targets[0]):
        x.requires_grad_()
    opcheck(FORWARD, (inputs, targets, [1.0, 2.0], True))
