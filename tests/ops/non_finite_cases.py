"""Infinities and NaN in each input of fused_norm, and the comparison of a kernel with the reference.

The docstring of `fastmunit.functional.fused_norm` says what must agree.
"""

import itertools
from dataclasses import replace

import torch

from fastmunit.testing import assert_same_nonfinite
from tests.ops.fused_norm_cases import NAMES, Case, eager, gradients, inputs, run

PLACES = ("x", "weight", "bias", "residual", "padded gradient", "interior gradient")
VALUES = tuple(float(value) for value in ("inf", "-inf", "nan"))
POISONS = list(itertools.product(PLACES, VALUES))
# For slow implementations: one value in each place, and both infinite weights.
FEW_POISONS = [*zip(PLACES, itertools.cycle(VALUES[:2]), strict=False), ("weight", VALUES[0])]


def all_cases(poisons=POISONS):
    """Return a case per statistic, activation and layout, with a sample per poison. Pads and dtypes alternate."""
    modes = (("reflect", 1), ("replicate", 2), ("zero", 1), ("reflect", 0), ("zero", 3))
    dtypes = (torch.float32, torch.float32, torch.float32, torch.bfloat16, torch.float32, torch.float16)
    axes = (("instance", "layer", "none"), ("none", "relu", "leaky_relu"), ("nchw", "channels_last"))
    cases = []
    for k, (statistics, activation, layout) in enumerate(itertools.product(*axes)):
        pad_mode, pad = modes[k % len(modes)]
        case = Case(
            shape=(len(poisons), 2, 6, 5), statistics=statistics, activation=activation, layout=layout, residual=layout,
            gradient_layout=layout, pad=pad, pad_mode=pad_mode, dtype=dtypes[k % len(dtypes)],
        )  # fmt: skip
        cases.append(case)
    return cases


def in_channels(case):
    """Return the case with weight and bias (C,), whose infinities affect all samples."""
    return replace(case, shape=(2, *case.shape[1:]), coefficients=(1, 1))


def _clean(case):
    tensors = list(inputs(case))
    upstream = [None if t is None else t.clone() for t in gradients(case, *tensors[:3])]
    return tensors, upstream


def one_poison(case, place, value):
    """Return inputs and gradients with one value of `place` replaced."""
    tensors, upstream = _clean(case)
    target = dict(zip(PLACES, [*tensors, *upstream], strict=True))[place]
    target[{1: (1,), 2: (0, 1), 4: (0, 1, 2, 3)}[target.dim()]] = value
    return tensors, upstream


def all_poisons(case, poisons=POISONS):
    """Return inputs and gradients with one value replaced per sample. No statistic covers two samples."""
    tensors, upstream = _clean(case)
    named = dict(zip(PLACES, [*tensors, *upstream], strict=True))
    for n, (place, value) in enumerate(poisons):
        target = named[place]
        target[(n, 1) if target.dim() == 2 else (n, 1, 2, 3)] = value
    return tensors, upstream


def check_non_finite(case, poisoned, function):
    """Compare a kernel with the reference on poisoned inputs and gradients."""
    tensors, upstream = poisoned
    ours = run(function, tensors, upstream, case.options())
    expected = run(eager, tensors, upstream, case.options())
    compare(ours, expected, dx_is_exact=case.statistics == "none")


def compare(ours, expected_results, *, dx_is_exact, names=NAMES):
    """Assert the same non-finite kinds and signs, or for dx through statistics only the same positions."""
    for name, actual, expected in zip(names, ours, expected_results, strict=True):
        if name == "dx" and not dx_is_exact:
            wrong = int((actual.isfinite() != expected.isfinite()).sum())
            assert wrong == 0, f"{name}: {wrong} of {actual.numel()} values differ in being finite"
        else:
            assert_same_nonfinite(actual, expected, name)
        finite = expected.isfinite()
        if ours[0].dtype == torch.float32 and finite.any():  # other tests check the accuracy of finite values
            tolerance = 1e-4 * max(float(expected[finite].abs().max()), 1.0)
            torch.testing.assert_close(actual[finite], expected[finite], rtol=0, atol=tolerance, msg=name)
