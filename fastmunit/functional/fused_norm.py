"""The public function `fused_norm` and its four special cases."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import torch
from torch import Tensor

from fastmunit import reference
from fastmunit.functional.checks import check_dtype, check_map
from fastmunit.functional.implementation import Implementation, choose
from fastmunit.fused_norm_options import Activation, FusedNormOptions, PadMode, Statistics
from fastmunit.ops import fused_norm as op

if TYPE_CHECKING:
    from typing_extensions import Unpack


def fused_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    statistics: Statistics,
    mean: Tensor | None = None,
    rstd: Tensor | None = None,
    activation: Activation = "none",
    negative_slope: float = 0.2,
    residual: Tensor | None = None,
    pad: int = 0,
    pad_mode: PadMode = "reflect",
    eps: float = 1e-5,
    pixel_shuffle: bool = False,
    implementation: Implementation = "auto",
) -> tuple[Tensor, Tensor]:
    """Apply norm, activation, residual add and the padding of the next convolution in one kernel.

    y = activation((x - mean) * rstd * weight + bias) + residual. The first result is y padded. The statistics are:

    - "instance": mean and rstd = 1 / sqrt(E[(x - mean)²] + eps) of each (sample, channel) plane, with the biased
      variance. This is instance norm (Ulyanov et al., 2016, https://arxiv.org/abs/1607.08022, equation 5), or AdaIN
      (Huang and Belongie, 2017, https://arxiv.org/abs/1703.06868, equation 8) if weight and bias are (N, C).
    - "layer": mean and rstd = 1 / (std + eps) of each sample, with the unbiased standard deviation. This is the layer
      norm of the public MUNIT code, which differs from group norm with one group.
    - "none": mean = 0 and rstd = 1. With a bias alone this is bias + activation + pad.

    With `mean` and `rstd`, these are used instead of the statistics of x, as for a part of an image that is normalized
    by the statistics of the whole image. The values of such a part have the same bits as in a call on the whole image
    whose statistics, in float64, are given. Only the native CUDA kernel rounds differently if it holds the planes (or,
    for "layer", samples) of the whole image in registers, which it does up to about 130,000 values. Given statistics
    are constants: they have no gradient, and the gradient of x is dy * activation' * rstd * weight. The kernels with
    given statistics have no derivative. If a gradient is required, "auto" runs the reference, and "native" and "triton"
    raise an ImplementationError.

    The kernels compute in float32 and round once. On a CPU, float64 is computed in float64; on a GPU, float64 runs the
    reference. The kernels read residuals and gradients in place with their strides, return the same bits for the same
    input with any number of threads, and can be differentiated once. Backward is one op, which takes the gradients of
    both results. It saves x, the statistics, weight and bias only. The reference can be differentiated any number of
    times, and its second result is a separate tensor.

    Infinities and NaN in x, weight, bias, residual or incoming gradients have the same effect in every implementation:
    the results, and the gradients of weight, bias, residual and (statistics "none") x, have NaN, inf and -inf at the
    same positions, namely where the formula above gives them term by term. For example, an infinite weight gives ±inf
    for all values except the mean itself. The gradient of x through statistics is finite at the same positions; where
    it is not, one implementation may return inf and another NaN. This assumes that rstd * weight, which the kernels
    multiply first, does not overflow by itself, and that no value is so close to its mean that rounding decides the
    sign of the difference. It holds for a given rstd, too, and for a given mean that is finite or NaN.

    Args:
        x: (N, C, H, W) in float32, bfloat16, float16 or float64, or (N, 4 C, H/2, W/2) with `pixel_shuffle`. N and C
            may be 0; gradients of weight and bias (C,) are then zeros. Tensors in NCHW and channels_last are read in
            place and the results have the same layout; other strides are copied first.
        weight: None, (C,) or (N, C), in any of these dtypes.
        bias: None, (C,) or (N, C), in any of these dtypes.
        statistics: Set of values over which mean and rstd are taken: "instance", "layer" or "none".
        mean: None, or the mean to use instead of that of x, in float64 or float32: (N, C) for "instance", (N,) for
            "layer". x may then have a single pixel.
        rstd: None, or the reciprocal standard deviation that belongs to `mean`, in the same shape. It includes the
            effect of eps, which is not used.
        activation: "relu", "leaky_relu" or "none".
        negative_slope: Slope of LeakyReLU for negative inputs.
        residual: None, or (N, C, H, W) with any strides in the dtype of x. It is added after the activation.
        pad: Number of pixels added on each side, 0 to 3.
        pad_mode: Values of the added pixels: "reflect", "replicate" or "zero".
        eps: Number added to the variance ("instance") or to the standard deviation ("layer").
        pixel_shuffle: Set it if x is pixel-unshuffled, with channels (C, 2, 2) as
            `torch.nn.functional.pixel_shuffle` reads them. y is shuffled while it is written.
        implementation: "auto", "native", "triton" or "reference", see `fastmunit.functional`.

    Returns:
        padded (N, C, H + 2 pad, W + 2 pad) and interior (N, C, H, W), both in the dtype of x. interior is the view of
        padded without the pad, or the same tensor if pad is 0.

    Raises:
        ValueError: If a shape or an option is invalid, if a tensor is not on the device of x, if a statistic would be
            computed over a single value, or if only one of mean and rstd is given.
        TypeError: If x, weight, bias, mean or rstd has another dtype, or if residual does not have the dtype of x.
        ImplementationError: If the named implementation cannot run here.
    """
    options = FusedNormOptions(statistics, activation, negative_slope, pad, pad_mode, eps, pixel_shuffle)
    given = _given_statistics(statistics, mean, rstd)
    _check(x, weight, bias, residual, options, given)
    if given is None:
        chosen = choose("fused_norm", implementation, x, statistics=statistics)
        if chosen == "reference":
            return reference.fused_norm(x, weight, bias, residual, options)
        return op.fused_norm(x, weight, bias, residual, options, chosen)
    # x is read once, as without statistics.
    no_kernel = _why_no_kernel(x, weight, bias, residual)
    chosen = choose("fused_norm", implementation, x, statistics="none", no_kernel=no_kernel)
    if chosen == "reference":
        return reference.fused_norm(x, weight, bias, residual, options, given)
    return op.fused_norm_with_statistics(x, *given, weight, bias, residual, options, chosen)


class FusedNormKeywords(TypedDict, total=False):
    """The keyword arguments of `fused_norm` without `statistics`."""

    mean: Tensor | None
    rstd: Tensor | None
    activation: Activation
    negative_slope: float
    residual: Tensor | None
    pad: int
    pad_mode: PadMode
    eps: float
    pixel_shuffle: bool
    implementation: Implementation


def instance_norm(
    x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, **options: Unpack[FusedNormKeywords]
) -> tuple[Tensor, Tensor]:
    """Call `fused_norm` with the statistics of each (sample, channel) plane: instance norm.

    y = (x - mean) / sqrt(var + eps) * weight + bias, before activation, residual and pad.
    """
    return fused_norm(x, weight, bias, statistics="instance", **options)


def adain(x: Tensor, weight: Tensor, bias: Tensor, **options: Unpack[FusedNormKeywords]) -> tuple[Tensor, Tensor]:
    """Call `fused_norm` as adaptive instance norm, with the style's standard deviation and mean as weight and bias.

    y = (x - mean) / sqrt(var + eps) * weight + bias, before activation, residual and pad. weight and bias are (N, C)
    (Huang and Belongie, 2017, https://arxiv.org/abs/1703.06868, equation 8).
    """
    return fused_norm(x, weight, bias, statistics="instance", **options)


def layer_norm_munit(
    x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, **options: Unpack[FusedNormKeywords]
) -> tuple[Tensor, Tensor]:
    """Call `fused_norm` with the layer norm of the public MUNIT code.

    y = (x - mean) / (std + eps) * weight + bias, before activation, residual and pad, with the mean and the unbiased
    standard deviation of each sample.
    """
    return fused_norm(x, weight, bias, statistics="layer", **options)


def bias_act_pad(x: Tensor, bias: Tensor | None = None, **options: Unpack[FusedNormKeywords]) -> tuple[Tensor, Tensor]:
    """Call `fused_norm` without statistics: y = activation(x + bias) + residual, padded.

    `bias` is usually the bias of the preceding convolution. There is no `mean`, `rstd` or `eps`.
    """
    for name in ("mean", "rstd", "eps"):
        if name in options:
            raise TypeError(f"bias_act_pad() got an unexpected keyword argument {name!r}")
    return fused_norm(x, None, bias, statistics="none", **options)


def _given_statistics(statistics: Statistics, mean: Tensor | None, rstd: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """Return mean and rstd as constants, or None if none are given."""
    if mean is None and rstd is None:
        return None
    if mean is None or rstd is None:
        missing = "mean" if mean is None else "rstd"
        raise ValueError(f"fused_norm: expected mean and rstd together, got no {missing}")
    if statistics == "none":
        raise ValueError('fused_norm: expected statistics "instance" or "layer" with mean and rstd, got "none"')
    return mean.detach(), rstd.detach()


def _why_no_kernel(*tensors: Tensor | None) -> str | None:
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors):
        return (
            "its kernel with given statistics has no derivative: call it under torch.no_grad(), or use "
            'implementation="reference" (or "auto") for gradients'
        )
    return None


def _check(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    options: FusedNormOptions,
    given: tuple[Tensor, Tensor] | None,
) -> None:
    check_map("fused_norm", x)
    options.check()
    if options.pixel_shuffle and x.shape[1] % 4 != 0:
        raise ValueError(f"fused_norm: expected a multiple of 4 channels for pixel_shuffle, got x {tuple(x.shape)}")
    n, c, h, w = shape = options.result_shape(x.shape)
    group = {"instance": h * w, "layer": c * h * w, "none": None}[options.statistics]
    if group == 1 and given is None:
        unit = "pixel" if options.statistics == "instance" else "value"
        raise ValueError(f"fused_norm: expected more than one {unit} to take statistics of, got x {tuple(x.shape)}")
    if options.pad_mode == "reflect" and not (options.pad == 0 or (options.pad < h and options.pad < w)):
        raise ValueError(
            "fused_norm: expected a reflect pad smaller than the height and width of the map, "
            f"got pad {options.pad} for a map of {h} x {w}"
        )
    for name, parameter in (("weight", weight), ("bias", bias)):
        if parameter is None:
            continue
        if tuple(parameter.shape) != ((c,) if parameter.dim() == 1 else (n, c)):
            raise ValueError(f"fused_norm: expected {name} of shape ({c},) or ({n}, {c}), got {tuple(parameter.shape)}")
        check_dtype("fused_norm", name, parameter)
    mean, rstd = given or (None, None)
    for name, statistic in (("mean", mean), ("rstd", rstd)):
        if statistic is None:
            continue
        expected = (n, c) if options.statistics == "instance" else (n,)
        if tuple(statistic.shape) != expected:
            raise ValueError(
                f"fused_norm: expected {name} of shape {expected} for statistics {options.statistics!r}, "
                f"got {tuple(statistic.shape)}"
            )
        if statistic.dtype not in (torch.float64, torch.float32):
            raise TypeError(f"fused_norm: expected {name} in float64 or float32, got {statistic.dtype}")
    named = (("weight", weight), ("bias", bias), ("residual", residual), ("mean", mean), ("rstd", rstd))
    for name, tensor in named:
        if tensor is not None and tensor.device != x.device:
            raise ValueError(
                f"fused_norm: {name} is on {tensor.device} and x on {x.device}: move them to the same device"
            )
    if residual is not None:
        if tuple(residual.shape) != shape:
            raise ValueError(f"fused_norm: expected residual of shape {shape}, got {tuple(residual.shape)}")
        if residual.dtype != x.dtype:
            raise TypeError(f"fused_norm: expected residual in {x.dtype}, the dtype of x, got {residual.dtype}")
