"""Infinities and NaN in each input of fused_norm, and the comparison of a kernel with the reference.

What is compared is what `fastmunit.functional.fused_norm` promises of them.
"""

import itertools
from dataclasses import replace

import torch

from fastmunit.testing import assert_same_nonfinite
from tests.ops.fused_norm_cases import NAMES, Case, eager, gradients, inputs, run

PLACES = ("x", "weight", "bias", "residual", "padded gradient", "interior gradient")
VALUES = tuple(float(value) for value in ("inf", "-inf", "nan"))
POISONS = list(itertools.product(PLACES, VALUES))
# For implementations that run slowly: one value in each place, and both infinite weights.
FEW_POISONS = [*zip(PLACES, itertools.cycle(VALUES[:2]), strict=False), ("weight", VALUES[0])]
_PLAIN = Case(
    shape=(len(POISONS), 2, 6, 5),
    dtype=torch.float32,
    layout="nchw",
    statistics="none",
    activation="none",
    pad=1,
    pad_mode="reflect",
    coefficients=(2, 2),
    residual="nchw",
    gradients="both",
    gradient_layout="nchw",
    pixel_shuffle=False,
)


def all_cases(poisons=POISONS):
    """A case for each statistic, activation and layout, with a sample for each poison; pads and dtypes take turns."""
    plain = replace(_PLAIN, shape=(len(poisons), *_PLAIN.shape[1:]))
    modes = (("reflect", 1), ("replicate", 2), ("zero", 1), ("reflect", 0), ("zero", 3))
    dtypes = (torch.float32, torch.float32, torch.float32, torch.bfloat16, torch.float32, torch.float16)
    axes = (("instance", "layer", "none"), ("none", "relu", "leaky_relu"), ("nchw", "channels_last"))
    cases = []
    for k, (statistics, activation, layout) in enumerate(itertools.product(*axes)):
        pad_mode, pad = modes[k % len(modes)]
        case = replace(
            plain, statistics=statistics, activation=activation, layout=layout, residual=layout, gradient_layout=layout,
            pad=pad, pad_mode=pad_mode, dtype=dtypes[k % len(dtypes)],
        )  # fmt: skip
        cases.append(case)
    return cases


def in_channels(case):
    """The case with a weight and a bias of each channel, whose infinities reach all samples."""
    return replace(case, shape=(2, *case.shape[1:]), coefficients=(1, 1))


def _clean(case):
    tensors = list(inputs(case))
    upstream = [None if t is None else t.clone() for t in gradients(case, *tensors[:3])]
    return tensors, upstream


def one_poison(case, place, value):
    """Inputs and gradients with one value of `place` replaced."""
    tensors, upstream = _clean(case)
    target = dict(zip(PLACES, [*tensors, *upstream], strict=True))[place]
    target[{1: (1,), 2: (0, 1), 4: (0, 1, 2, 3)}[target.dim()]] = value
    return tensors, upstream


def all_poisons(case, poisons=POISONS):
    """Inputs and gradients with one value replaced in each sample; a statistic is never that of two samples."""
    tensors, upstream = _clean(case)
    named = dict(zip(PLACES, [*tensors, *upstream], strict=True))
    for n, (place, value) in enumerate(poisons):
        target = named[place]
        target[(n, 1) if target.dim() == 2 else (n, 1, 2, 3)] = value
    return tensors, upstream


def check_non_finite(case, poisoned, function):
    """Hold a kernel to the reference; `poisoned` are inputs and gradients."""
    tensors, upstream = poisoned
    ours = run(function, tensors, upstream, case.options())
    expected = run(eager, tensors, upstream, case.options())
    compare(ours, expected, dx_is_exact=case.statistics == "none")


def compare(ours, plain, *, dx_is_exact, names=NAMES):
    """Kinds and signs are the same; of dx, where statistics spread them, only where they are."""
    for name, actual, expected in zip(names, ours, plain, strict=True):
        if name == "dx" and not dx_is_exact:
            wrong = int((actual.isfinite() != expected.isfinite()).sum())
            assert wrong == 0, f"{name}: {wrong} of {actual.numel()} values differ in being finite"
        else:
            assert_same_nonfinite(actual, expected, name)
        finite = expected.isfinite()
        if ours[0].dtype == torch.float32 and finite.any():  # how exact finite values are is for other tests
            tolerance = 1e-4 * max(float(expected[finite].abs().max()), 1.0)
            torch.testing.assert_close(actual[finite], expected[finite], rtol=0, atol=tolerance, msg=name)
