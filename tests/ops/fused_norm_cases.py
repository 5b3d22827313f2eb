"""Cases of fused_norm for all its tests, and the comparison of an implementation with the reference."""

import random
from dataclasses import dataclass

import torch

from fastmunit import functional
from fastmunit.fused_norm_options import ACTIVATIONS, PAD_MODES, PADS, STATISTICS, FusedNormOptions
from fastmunit.reference.pad_map import pad_map
from fastmunit.testing import DTYPES, LAYOUTS, assert_as_exact_as, make_map, uninitialized_memory_is_nan

CHANNELS = (1, 3, 64, 255, 256)
SIZES = (1, 2, 3, 7, 63, 64, 65, 256)
MAX_VALUES = 400_000


@dataclass(frozen=True)
class Case:
    """One call of fused_norm with random inputs.

    Attributes:
        shape: (N, C, H, W) of the result before padding.
        dtype: Dtype of x.
        layout: Layout of x.
        statistics: Option of fused_norm, as are activation, pad, pad_mode and pixel_shuffle.
        coefficients: Number of dimensions of weight and of bias, 0 for None.
        residual: Layout of the residual, "interior" for the interior of a padded map, or None.
        gradients: Results that have a gradient: "padded", "interior" or "both".
        gradient_layout: Layout of these gradients.
    """

    shape: tuple[int, int, int, int]
    dtype: torch.dtype = torch.float32
    layout: str = "nchw"
    statistics: str = "instance"
    activation: str = "relu"
    pad: int = 1
    pad_mode: str = "reflect"
    coefficients: tuple[int, int] = (2, 2)
    residual: str | None = None
    gradients: str = "both"
    gradient_layout: str = "nchw"
    pixel_shuffle: bool = False

    def options(self):
        """Return the options as keyword arguments of `functional.fused_norm`."""
        names = ("statistics", "activation", "pad", "pad_mode", "pixel_shuffle")
        return {name: getattr(self, name) for name in names}

    def op_options(self):
        """Return the options as arguments of the op."""
        return FusedNormOptions(**self.options())

    def id(self):
        coefficients = "".join(map(str, self.coefficients))
        parts = [
            "x".join(map(str, self.shape)), str(self.dtype).removeprefix("torch."), self.layout, self.statistics,
            self.activation, f"{self.pad_mode}{self.pad}", f"wb{coefficients}", f"residual_{self.residual}",
            f"{self.gradients}_{self.gradient_layout}",
        ]  # fmt: skip
        return "-".join([*parts, "pixel_shuffle"] if self.pixel_shuffle else parts)


def is_valid(case):
    _, c, h, w = case.shape
    if case.pixel_shuffle and (h % 2 or w % 2):
        return False
    if case.pad_mode == "reflect" and 0 < min(h, w) <= case.pad:
        return False
    values = {"instance": h * w, "layer": c * h * w, "none": 2}[case.statistics]
    return values > 1


def sampled_cases(count, seed, *, batches=4, channels=CHANNELS, sizes=SIZES, dtypes=DTYPES, max_values=MAX_VALUES):
    """Return a random sample of the grid of shapes, dtypes, layouts and options, the same for the same seed."""
    choose = random.Random(seed)
    cases = []
    while len(cases) < count:
        shape = (choose.randint(1, batches), choose.choice(channels), choose.choice(sizes), choose.choice(sizes))
        case = Case(
            shape=shape,
            dtype=choose.choice(dtypes),
            layout=choose.choice(LAYOUTS),
            statistics=choose.choice(STATISTICS),
            activation=choose.choice(ACTIVATIONS),
            pad=choose.choice(PADS),
            pad_mode=choose.choice(PAD_MODES),
            coefficients=(choose.randint(0, 2), choose.randint(0, 2)),
            residual=choose.choice((None, None, "interior", *LAYOUTS)),
            gradients=choose.choice(("padded", "interior", "both")),
            gradient_layout=choose.choice(LAYOUTS),
            pixel_shuffle=choose.random() < 0.3,
        )
        if is_valid(case) and torch.Size(shape).numel() <= max_values:
            cases.append(case)
    return cases


def coefficients(dimensions, shape, dtype, seed):
    """Return a weight or bias: None, (C,) or (N, C). (N, C) has gaps between its values, as columns of an MLP have."""
    if dimensions == 0:
        return None
    n, c = shape[:2]
    values = make_map((n if dimensions == 2 else 1, 2 * c, 1, 1), dtype, mean=1.0, seed=seed).flatten(1)[:, ::2]
    return values if dimensions == 2 else values[0].contiguous()


def inputs(case, *, mean=0.5, std=2.0, seed=0):
    """Return x, weight, bias and residual. The coefficients of 16-bit maps are float32 for half of the shapes."""
    n, c, h, w = case.shape
    x_shape = (n, 4 * c, h // 2, w // 2) if case.pixel_shuffle else case.shape
    x = make_map(x_shape, case.dtype, case.layout, mean=mean, std=std, seed=seed)
    wide = torch.float32 if (h + w) % 2 and case.dtype != torch.float64 else case.dtype
    weight, bias = (coefficients(d, case.shape, wide, seed=seed + 1 + i) for i, d in enumerate(case.coefficients))
    if case.residual == "interior":
        residual = make_map((n, c, h + 2, w + 2), case.dtype, "channels_last", seed=seed + 3)[:, :, 1:-1, 1:-1]
    else:
        residual = None if case.residual is None else make_map(case.shape, case.dtype, case.residual, seed=seed + 3)
    return x, weight, bias, residual


def double(tensor):
    return None if tensor is None else tensor.double()


def normalized(case, x, weight, bias):
    """Return y in float64 before the activation."""
    options = {**case.options(), "activation": "none", "pad": 0}
    return eager(double(x), double(weight), double(bias), **options)[0]


def gradients(case, x, weight, bias):
    """Return gradients of padded and interior.

    They are 0 where a value is so close to the kink of the activation that rounding decides on its side.
    """
    n, c, h, w = case.shape
    padded = make_map((n, c, h + 2 * case.pad, w + 2 * case.pad), case.dtype, case.gradient_layout, seed=4)
    interior = make_map(case.shape, case.dtype, case.gradient_layout, seed=5)
    if case.activation != "none" and n > 0:
        z = normalized(case, x, weight, bias)
        near = (z.abs() < 1e-4 * z.nan_to_num(0, 0, 0).abs().max()).double()
        near_padded = pad_map(near, case.pad, case.pad_mode)
        padded = padded.where(near_padded == 0, 0.0) if near.any() else padded
        interior = interior.where(near == 0, 0.0) if near.any() else interior
    return (padded if case.gradients != "interior" else None, interior if case.gradients != "padded" else None)


def run(function, tensors, upstream, options):
    """Return the results, and the gradients of x, weight, bias and residual, or None for absent inputs."""
    leaves = [None if tensor is None else tensor.detach().requires_grad_() for tensor in tensors]
    x, weight, bias, residual = leaves
    results = function(x, weight, bias, residual=residual, **options)
    pairs = [(y, dy.to(y.dtype)) for y, dy in zip(results, upstream, strict=True) if dy is not None]
    outputs, upstream = zip(*pairs, strict=True)
    found = iter(torch.autograd.grad(outputs, [leaf for leaf in leaves if leaf is not None], upstream))
    return [*(y.detach() for y in results), *(None if leaf is None else next(found) for leaf in leaves)]


def eager(*args, **options):
    return functional.fused_norm(*args, **options, implementation="reference")


def native(*args, **options):
    return functional.fused_norm(*args, **options, implementation="native")


def triton(*args, **options):
    return functional.fused_norm(*args, **options, implementation="triton")


def term_scales(case, tensors, upstream):
    """Return the scales of the errors of dx, dweight and dbias: the size of the terms that cancel in them."""
    x, weight, _, _ = map(double, tensors)
    flat = {**case.options(), "statistics": "none", "activation": "none", "pixel_shuffle": False}
    leaf = torch.zeros(case.shape, dtype=torch.float64, requires_grad=True)
    pairs = zip(eager(leaf, **flat), upstream, strict=True)
    outputs, magnitudes = zip(*((y, dy.double().abs()) for y, dy in pairs if dy is not None), strict=True)
    (total,) = torch.autograd.grad(outputs, leaf, magnitudes)
    unscaled = normalized(case, x, None, None)
    gain = torch.ones(case.shape[:2], dtype=torch.float64) if weight is None else weight.abs().expand(case.shape[:2])
    if case.statistics != "none":
        leaf = x.clone().requires_grad_()
        (by_x,) = torch.autograd.grad(normalized(case, leaf, None, None)[:, :, :1, :1].sum(), leaf)
        gain = gain * by_x.abs().max()
    per_plane = [(total * size).nan_to_num(0, 0, 0).sum((2, 3)).max() for size in (unscaled.abs(), 1.0)]
    dx = (gain * total.amax((2, 3))).nan_to_num(0, 0, 0).max()
    return [None, None, *(float(scale) or None for scale in (dx, *per_plane)), None]


NAMES = ("padded", "interior", "dx", "dweight", "dbias", "dresidual")


def check(case, tensors, function=native, *, dx_by_terms=True):
    """Compare a kernel, forward and backward, with the reference in its dtype and in float64.

    Errors of dx are relative to the terms that cancel in it or, more strictly, to its largest value.
    """
    upstream = gradients(case, *tensors[:3])
    with uninitialized_memory_is_nan():
        ours = run(function, tensors, upstream, case.options())
    low = run(eager, tensors, upstream, case.options())
    exact = run(eager, list(map(double, tensors)), list(map(double, upstream)), case.options())
    scales = term_scales(case, tensors, upstream)
    if not dx_by_terms:
        scales[NAMES.index("dx")] = None
    for name, scale, *results in zip(NAMES, scales, ours, low, exact, strict=True):
        if results[0] is not None:
            assert_as_exact_as(*results, name, scale=scale)
    x = tensors[0]
    channels_last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    assert ours[0].is_contiguous(memory_format=memory_format)
    assert ours[1].untyped_storage().data_ptr() == ours[0].untyped_storage().data_ptr()
    return ours
