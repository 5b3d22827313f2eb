"""Cases of fused_norm for the emulated kernels: those of tests/ops, with a GPU and a schedule."""

import random
from dataclasses import dataclass, replace

import torch

from fastmunit.testing import assert_as_exact_as
from tests.cuda.emulated import SCHEDULES
from tests.cuda.fused_norm_requests import Device, backward, forward
from tests.ops.fused_norm_cases import NAMES, Case, double, eager, gradients, inputs, run, sampled_cases, term_scales

# Real GPUs, and ones so small that the maps of tests use the code paths of large maps on real ones.
DEVICES = {
    "H100": Device(132, 227 * 1024, 16),
    "A100": Device(108, 163 * 1024, 1),
    "RTX 4090": Device(128, 99 * 1024, 1),
    "small clusters": Device(40, 6 * 1024, 16, 1),
    "small tiles": Device(8, 6 * 1024, 1, 1),
    "no tiles": Device(2, 1024, 1, 2),
    "few multiprocessors": Device(2, cluster=1),
}


@dataclass(frozen=True)
class EmulatedCase(Case):
    """A call of fused_norm on an emulated GPU.

    `residual` and `gradient_layout` may also be "strided": in the layout of x with gaps between rows and samples.
    """

    device: str = "H100"
    schedule: str = "forward"

    def id(self):
        return f"{super().id()}-{self.device}-{self.schedule}"


def plain_case(shape=(2, 8, 9, 7), layout="nchw", **changes):
    """Return a small case with a weight and a bias per channel and both gradients, with some changes."""
    case = EmulatedCase(
        shape=shape,
        dtype=torch.float32,
        layout=layout,
        statistics="instance",
        activation="none",
        pad=1,
        pad_mode="reflect",
        coefficients=(1, 1),
        residual=None,
        gradients="both",
        gradient_layout=layout,
        pixel_shuffle=False,
    )
    return replace(case, **changes)


def sample(count, seed):
    """Return a sample of the grid of shapes, options, GPUs and schedules; the same for the same seed."""
    choose = random.Random(seed)
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    channels, sizes = (1, 3, 8, 16, 35), (1, 2, 3, 7, 16, 32, 33, 64)
    cases = sampled_cases(
        count, seed, batches=3, channels=channels, sizes=sizes, dtypes=dtypes, max_values=20_000
    )  # fmt: skip
    found = []
    for case in cases:
        layout = choose.choice(("nchw", "channels_last"))
        places = {
            "layout": layout,
            "residual": choose.choice((None, layout, "strided")),
            "gradient_layout": choose.choice((layout, layout, "strided")),
        }
        run_on = {"device": choose.choice(tuple(DEVICES)), "schedule": choose.choice(SCHEDULES)}
        found.append(EmulatedCase(**{**vars(case), **places, **run_on}))
    return found


def _strided(tensor, layout):
    """Return a copy in `layout` inside a larger map: only its inner dimension is dense."""
    n, c, h, w = tensor.shape
    memory_format = torch.contiguous_format if layout == "nchw" else torch.channels_last
    larger = torch.empty(n + 1, c + 8, h + 1, w + 8, dtype=tensor.dtype).contiguous(memory_format=memory_format)
    return larger[1:, 8:, 1:, 8:].copy_(tensor)


def inputs_of(case, **distribution):
    """Return x, weight, bias and residual; None where absent."""
    if case.residual != "strided":
        return inputs(case, **distribution)
    *others, residual = inputs(replace(case, residual=case.layout), **distribution)
    return [*others, _strided(residual, case.layout)]


def gradients_of(case, x, weight, bias):
    """Return the gradients of padded and interior; None where absent."""
    if case.gradient_layout != "strided":
        return gradients(case, x, weight, bias)
    found = gradients(replace(case, gradient_layout=case.layout), x, weight, bias)
    return [None if gradient is None else _strided(gradient, case.layout) for gradient in found]


def emulated(case, tensors, upstream, **options):
    """Return the results of the emulated launchers, in the order of `NAMES`."""
    x, weight, bias, residual = tensors
    call, device = case.options(), DEVICES[case.device]
    options = {"schedule": case.schedule, **options}
    padded, mean, rstd, _ = forward(*tensors, call, device, **options)
    *found, _ = backward(*upstream, x, mean, rstd, weight, bias, residual is not None, call, device, **options)
    pad = case.pad
    return [padded, padded[:, :, pad:-pad, pad:-pad] if pad else padded, *found]


def exact_results(case, tensors, upstream):
    """Return the results of the reference in float64, in the order of `NAMES`."""
    return run(eager, list(map(double, tensors)), list(map(double, upstream)), case.options())


def check(case, **options):
    """Compare the emulated launchers, forward and backward, with the reference in its dtype and in float64."""
    tensors = inputs_of(case)
    upstream = gradients_of(case, *tensors[:3])
    ours = emulated(case, tensors, upstream, **options)
    plain = run(eager, tensors, upstream, case.options())
    exact = exact_results(case, tensors, upstream)
    for name, scale, *results in zip(NAMES, term_scales(case, tensors, upstream), ours, plain, exact, strict=True):
        if results[0] is not None:
            assert_as_exact_as(*results, name, scale=scale)
