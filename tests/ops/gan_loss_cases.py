"""Maps of discriminator outputs for the tests of gan_loss, and the comparison of results with float64."""

import itertools

import torch

from fastmunit import reference
from fastmunit.testing import assert_as_exact_as, make_map

GAN_TYPES = ("lsgan", "nsgan", "hinge")
TARGETS = ("fake", "real", "generator", "fake_real")
# MUNIT's scales, PatchGAN's, one output, more than a segment of a GPU, and a map with several channels.
SHAPES = [(2, 1, 16, 16), (4, 1, 8, 7), (2, 1, 30, 30), (2, 1, 1, 1), (2, 1, 45, 31), (6, 3, 5, 4)]
WEIGHTS = [1.0, 0.5, -2.0, 0.0, 3.0, 10.0]


def make_maps(dtypes, layouts=("nchw",), shapes=SHAPES, seed=0):
    """Return maps of the given shapes, and a target for each. Dtypes and layouts alternate."""
    dtypes, layouts, targets = map(itertools.cycle, (dtypes, layouts, TARGETS))
    maps = [
        make_map(shape, next(dtypes), next(layouts), std=2.0, seed=seed + k) if len(shape) == 4 else torch.zeros(shape)
        for k, shape in enumerate(shapes)
    ]
    return maps, [next(targets) for _ in maps]


def formula(x, target, gan_type):
    """Return the losses of outputs in float64, by the formulas of the papers."""
    probability = 1 / (1 + (-x).exp())
    fake = target == "fake"
    if gan_type == "lsgan":
        return (x if fake else x - 1).square()
    if gan_type == "nsgan":
        return -(1 - probability if fake else probability).log()
    if target == "generator":
        return -x
    return (1 + x if fake else 1 - x).clamp_min(0)


def expected(maps, targets, weights, gan_type):
    """Return values and total from `formula`."""
    values = []
    for x, target in zip(maps, targets, strict=True):
        parts = [(x, target)]
        if target == "fake_real":
            half = len(x) // 2
            parts = [(x[:half], "fake"), (x[half:], "real")]
        values.append(sum(formula(part.double(), name, gan_type).mean() for part, name in parts))
    return torch.stack(values), sum(w * v for w, v in zip(weights, values, strict=True))


def run(function, maps, targets, weights, gan_type, dvalues, wants=None):
    """Return values, total, and the gradients of the maps for which `wants` is true."""
    wants = wants or [True] * len(maps)
    leaves = [x.detach().requires_grad_(want) for x, want in zip(maps, wants, strict=True)]
    values, total = function(leaves, targets, weights, gan_type)
    loss = (values * dvalues.to(values.dtype)).sum() + 0.75 * total
    return [values.detach(), total.detach(), *torch.autograd.grad(loss, [x for x in leaves if x.requires_grad])]


def check(ours, maps, targets, weights, gan_type, dvalues, wants=None):
    """Compare results of `run` with the reference, in the dtypes of the maps and in float64."""
    arguments = (targets, weights, gan_type, dvalues, wants)
    plain = run(reference.gan_loss, maps, *arguments)
    exact = run(expected, [x.double() for x in maps], *arguments)
    if len({x.dtype for x in maps}) > 1:  # float32 terms in float64 are not more accurate
        for results in (ours, plain):
            results[:2] = [x.float() for x in results[:2]]
    terms = sum(abs(w) * abs(float(v)) for w, v in zip(weights, exact[0], strict=True))
    # The scale of a gradient is that of the two slopes that are added up, times the largest derivative.
    slopes = [
        (abs(w * 0.75) + abs(float(dv))) / max(1, x.numel()) * max(2.0, 2 * float(x.abs().max()) if x.numel() else 0)
        for w, dv, x in zip(weights, dvalues, maps, strict=True)
    ]
    slopes = list(itertools.compress(slopes, wants or [True] * len(maps)))
    for k, (scale, *results) in enumerate(zip((None, terms, *slopes), ours, plain, exact, strict=True)):
        assert_as_exact_as(*results, f"{gan_type} result {k}", scale=scale)
