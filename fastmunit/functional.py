"""The public fused ops: stateless functions with one reference and several fast implementations.

Every function takes `implementation`:

- "auto": the fastest one that can run on the tensors' device (`python -m fastmunit.info` shows which),
- "native": the C++ or CUDA kernel,
- "triton": the Triton kernel,
- "reference": plain PyTorch.

A named implementation that cannot run raises `fastmunit.errors.ImplementationError`; nothing falls back in silence.
`use_implementation` sets what "auto" stands for in a block.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmunit import ops, reference
from fastmunit.errors import ImplementationError
from fastmunit.ops.autocast import autocast_dtype as autocast_dtype
from fastmunit.ops.availability import IMPLEMENTATIONS, automatic, unavailable
from fastmunit.ops.gpu_choice import measured_choice
from fastmunit.ops.weighted_l1 import MAX_PAIRS

__all__ = [
    "Activation",
    "Implementation",
    "PadMode",
    "Statistics",
    "adain",
    "adain_residual_block",
    "bias_act_pad",
    "fused_norm",
    "instance_norm",
    "instance_norm_stats",
    "layer_norm_munit",
    "upsample_conv2d",
    "use_implementation",
    "weighted_l1",
]

Implementation = Literal["auto", "native", "triton", "reference"]
Statistics = Literal["instance", "layer", "none"]
Activation = Literal["none", "relu", "leaky_relu"]
PadMode = Literal["reflect", "replicate", "zero"]

_default: ContextVar[Implementation] = ContextVar("fastmunit_implementation", default="auto")
# torch.compile of torch 2.10 and 2.11 cannot read a ContextVar: what it traces reads the with-block opened last.
_open: dict[object, Implementation] = {}
_open_lock = Lock()
_traced_default: Implementation = "auto"
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@contextmanager
def use_implementation(implementation: Implementation) -> Iterator[None]:
    """Make "auto" stand for `implementation` inside a with-block, in this thread (or asyncio task) alone.

    A function compiled by `torch.compile` is compiled once for each implementation that it is called under; there the
    with-block that was entered last counts, in whichever thread. Backward runs what its forward chose.

    Args:
        implementation: "auto", "native", "triton" or "reference".

    Raises:
        ValueError: `implementation` is none of these.
    """
    _check_name(implementation)
    global _traced_default
    token, key = _default.set(implementation), object()
    with _open_lock:
        _open[key] = _traced_default = implementation
    try:
        yield
    finally:
        _default.reset(token)
        with _open_lock:
            del _open[key]
            _traced_default = next(reversed(_open.values()), "auto")


def _check_name(implementation: str) -> None:
    if implementation != "auto" and implementation not in IMPLEMENTATIONS:
        names = ", ".join(repr(name) for name in ("auto", *IMPLEMENTATIONS))
        raise ValueError(f"implementation must be one of {names}, not {implementation!r}")


def _choose(
    function: str,
    implementation: str,
    x: Tensor,
    op: str | None = None,
    *others: Tensor,
    statistics: str | None = None,
) -> str:
    """The implementation that `function`, by means of `op`, runs on x and others: "native", "triton" or "reference".

    `statistics` are those of `fused_norm`, for whose maps there may be measurements.
    """
    _check_name(implementation)
    if implementation == "auto":
        implementation = default_implementation()
    device_type = x.device.type
    float64 = any(tensor.dtype == torch.float64 for tensor in (x, *others))
    if implementation == "auto":
        measured = None if statistics is None else measured_choice(x, statistics)
        return automatic(device_type, op or function, float64=float64, measured=measured)
    reason = unavailable(implementation, device_type, op or function, float64=float64)
    if reason is not None:
        raise ImplementationError(f"{function}: implementation {implementation!r} cannot run: {reason}")
    return implementation


def _check_map(function: str, x: Tensor) -> None:
    if x.dim() != 4:
        raise ValueError(f"{function}: x must be (N, C, H, W), not of shape {tuple(x.shape)}")
    if x.dtype not in _DTYPES:
        raise TypeError(f"{function}: x must be float32, bfloat16, float16 or float64, not {x.dtype}")
    if x.shape[2] == 0 or x.shape[3] == 0:
        raise ValueError(f"{function}: x needs at least one pixel, but its shape is {tuple(x.shape)}")


def instance_norm_stats(x: Tensor, eps: float = 1e-5, implementation: Implementation = "auto") -> tuple[Tensor, Tensor]:
    """Mean and reciprocal standard deviation of each (sample, channel) plane.

    mean = E[x] and rstd = 1 / sqrt(E[(x - mean)²] + eps), both over H and W, biased variance: the statistics of
    instance normalisation (Ulyanov et al., 2016, https://arxiv.org/abs/1607.08022, equation 5) and of AdaIN (Huang and
    Belongie, 2017, https://arxiv.org/abs/1703.06868, equations 5 and 6).

    The variance is taken in two passes over blocks, never as E[x²] - E[x]², so it holds where the mean is far from
    zero. The kernels give the same bits for the same input, whatever the number of threads, and differentiate once;
    the reference differentiates any number of times.

    Args:
        x: (N, C, H, W) in float32, bfloat16, float16 or float64, N may be 0. NCHW and channels_last are read as they
            lie, other strides are copied first.
        eps: Added to the variance inside the square root.
        implementation: See the module.

    Returns:
        mean and rstd, (N, C) each, in float32; in float64 where x is.

    Raises:
        ValueError: x is not (N, C, H, W), or has no pixel.
        TypeError: x is of another dtype.
        ImplementationError: The named implementation cannot run here.
    """
    _check_map("instance_norm_stats", x)
    chosen = _choose("instance_norm_stats", implementation, x)
    if chosen == "reference":
        return reference.instance_norm_stats(x, eps)
    return ops.instance_norm_stats(x, eps, chosen)


def fused_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    statistics: Statistics,
    activation: Activation = "none",
    negative_slope: float = 0.2,
    residual: Tensor | None = None,
    pad: int = 0,
    pad_mode: PadMode = "reflect",
    eps: float = 1e-5,
    pixel_shuffle: bool = False,
    implementation: Implementation = "auto",
) -> tuple[Tensor, Tensor]:
    """Normalisation, activation, residual and the next convolution's pad, written once.

    y = activation((x - mean) * rstd * weight + bias) + residual, and the first result is y padded, where

    - statistics "instance": mean and rstd = 1 / sqrt(E[(x - mean)²] + eps) of each (sample, channel) plane, biased
      variance: instance norm (Ulyanov et al., 2016, https://arxiv.org/abs/1607.08022, equation 5), and AdaIN (Huang and
      Belongie, 2017, https://arxiv.org/abs/1703.06868, equation 8) with weight and bias of each sample;
    - statistics "layer": of each sample, rstd = 1 / (std + eps) with the unbiased standard deviation: the layer norm of
      the public MUNIT code, not group norm with one group;
    - statistics "none": mean = 0 and rstd = 1; with a bias alone it is bias + activation + pad.

    The kernels compute in float32 (those for the CPU in float64 for float64, which on a GPU is the reference's) and
    round once, read residuals and gradients in place with their strides, give the same bits for the same input whatever
    the number of threads, and differentiate once: the gradients of both results go into one backward op, which saves x,
    the statistics, weight and bias for itself. The reference differentiates any number of times, and its second result
    is a tensor of its own.

    Infinities and NaN in x, weight, bias, residual or incoming gradients give the same in every implementation: the
    results, and the gradients of weight, bias, residual and (statistics "none") x, have NaN, inf and -inf at the same
    places, those of the formula above, term by term: an infinite weight makes ±inf of all values but the mean itself.
    The gradient of x through statistics is finite at the same places, but where it is not, it may be an infinity in one
    and NaN in the other. This supposes that rstd * weight, which kernels multiply first, does not overflow by itself,
    and that no value is so near to its mean that rounding decides on the sign of the difference.

    Args:
        x: (N, C, H, W) in float32, bfloat16, float16 or float64, N may be 0. NCHW and channels_last are read as they
            lie and the results have the same layout; other strides are copied first.
            With pixel_shuffle, (N, 4 C, H/2, W/2). C may be 0 too.
            Gradients of weight and bias (C,) are then zeros: sums of nothing.
        weight: Absent, (C,) or (N, C), of any of these dtypes.
        bias: Absent, (C,) or (N, C), of any of these dtypes.
        statistics: What mean and rstd are taken over.
        activation: "relu", "leaky_relu" or "none".
        negative_slope: Of the leaky relu.
        residual: Absent, or (N, C, H, W) of any strides in the dtype of x, added after the activation.
        pad: Pixels added on each side, 0 to 3.
        pad_mode: What they show: "reflect", "replicate" or "zero".
        eps: Added to the variance (instance) or to the standard deviation (layer).
        pixel_shuffle: Whether x is pixel-unshuffled, with the channels (C, 2, 2) that
            `torch.nn.functional.pixel_shuffle` reads. y is shuffled as it is written.
        implementation: See the module.

    Returns:
        padded (N, C, H + 2 pad, W + 2 pad), and interior (N, C, H, W), the view of it without the pad; the same tensor
        twice where pad is 0. Both in the dtype of x.

    Raises:
        ValueError: A shape or an option is wrong, a tensor is not on the device of x, or a statistic would be that of a
            single value.
        TypeError: x, or the residual, is of another dtype.
        ImplementationError: The named implementation cannot run here.
    """
    return _fused_norm(
        "fused_norm", x, weight, bias, statistics, activation, negative_slope, residual, pad, pad_mode, eps,
        pixel_shuffle, implementation,
    )  # fmt: skip


def _fused_norm(
    function: str,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Statistics,
    activation: Activation,
    negative_slope: float,
    residual: Tensor | None,
    pad: int,
    pad_mode: PadMode,
    eps: float,
    pixel_shuffle: bool,
    implementation: Implementation,
) -> tuple[Tensor, Tensor]:
    """`fused_norm`, called `function` in messages."""
    _check_map(function, x)
    for option, value, choices in (
        ("statistics", statistics, ("instance", "layer", "none")),
        ("activation", activation, ("none", "relu", "leaky_relu")),
        ("pad_mode", pad_mode, ("reflect", "replicate", "zero")),
        ("pad", pad, (0, 1, 2, 3)),
    ):
        if value not in choices:
            raise ValueError(f"{function}: {option} must be one of {', '.join(map(repr, choices))}, not {value!r}")
    n, c, h, w = x.shape
    if pixel_shuffle:
        if c % 4 != 0:
            raise ValueError(
                f"{function}: pixel_shuffle need a multiple of 4 channels, but the shape of x is {tuple(x.shape)}"
            )
        c, h, w = c // 4, 2 * h, 2 * w
    if (statistics == "instance" and h * w == 1) or (statistics == "layer" and c * h * w == 1):
        unit = "pixel" if statistics == "instance" else "value"
        raise ValueError(f"{function}: x is {tuple(x.shape)}, but statistics need more than one {unit}")
    if pad_mode == "reflect" and not (pad == 0 or (pad < h and pad < w)):
        raise ValueError(
            f"{function}: reflect padding should be less than the height and width of the map, but pad is {pad} "
            f"and the map is {h} x {w}"
        )
    for name, parameter in (("weight", weight), ("bias", bias)):
        if parameter is None:
            continue
        if tuple(parameter.shape) not in ((c,), (n, c)):
            raise ValueError(f"{function}: {name} must be ({c},) or ({n}, {c}), not {tuple(parameter.shape)}")
        if parameter.dtype not in _DTYPES:
            raise TypeError(f"{function}: {name} must be float32, bfloat16, float16 or float64, not {parameter.dtype}")
    for name, tensor in (("weight", weight), ("bias", bias), ("residual", residual)):
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"{function}: {name} is on {tensor.device}, but x on {x.device}: move them to one device")
    if residual is not None:
        if tuple(residual.shape) != (n, c, h, w):
            raise ValueError(f"{function}: residual must be {(n, c, h, w)}, not {tuple(residual.shape)}")
        if residual.dtype != x.dtype:
            raise TypeError(f"{function}: residual must be {x.dtype} as x is, not {residual.dtype}")
    chosen = _choose(function, implementation, x, "fused_norm", statistics=statistics)
    if chosen == "reference":
        return reference.fused_norm(
            x, weight, bias, statistics=statistics, activation=activation, negative_slope=negative_slope,
            residual=residual, pad=pad, pad_mode=pad_mode, eps=eps, pixel_shuffle=pixel_shuffle,
        )  # fmt: skip
    return ops.fused_norm(
        x, weight, bias, residual, statistics, activation, negative_slope, pad, pad_mode, eps, pixel_shuffle, chosen
    )


def instance_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    activation: Activation = "none",
    negative_slope: float = 0.2,
    residual: Tensor | None = None,
    pad: int = 0,
    pad_mode: PadMode = "reflect",
    eps: float = 1e-5,
    pixel_shuffle: bool = False,
    implementation: Implementation = "auto",
) -> tuple[Tensor, Tensor]:
    """`fused_norm` with the statistics of each (sample, channel) plane: instance norm.

    y = (x - mean) / sqrt(var + eps) * weight + bias before activation, residual and pad. Arguments, results and errors
    are those of `fused_norm`.
    """
    return _fused_norm(
        "instance_norm", x, weight, bias, "instance", activation, negative_slope, residual, pad, pad_mode, eps,
        pixel_shuffle, implementation,
    )  # fmt: skip


def adain(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    activation: Activation = "none",
    negative_slope: float = 0.2,
    residual: Tensor | None = None,
    pad: int = 0,
    pad_mode: PadMode = "reflect",
    eps: float = 1e-5,
    pixel_shuffle: bool = False,
    implementation: Implementation = "auto",
) -> tuple[Tensor, Tensor]:
    """`fused_norm` as adaptive instance norm: weight (N, C) is the style's standard deviation, bias (N, C) its mean.

    y = (x - mean) / sqrt(var + eps) * weight + bias before activation, residual and pad (Huang and Belongie, 2017,
    https://arxiv.org/abs/1703.06868, equation 8). Arguments, results and errors are those of `fused_norm`.
    """
    return _fused_norm(
        "adain", x, weight, bias, "instance", activation, negative_slope, residual, pad, pad_mode, eps,
        pixel_shuffle, implementation,
    )  # fmt: skip


def layer_norm_munit(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    activation: Activation = "none",
    negative_slope: float = 0.2,
    residual: Tensor | None = None,
    pad: int = 0,
    pad_mode: PadMode = "reflect",
    eps: float = 1e-5,
    pixel_shuffle: bool = False,
    implementation: Implementation = "auto",
) -> tuple[Tensor, Tensor]:
    """`fused_norm` with the layer norm of the public MUNIT code.

    y = (x - mean) / (std + eps) * weight + bias before activation, residual and pad, with mean and the unbiased std of
    each sample. Arguments, results and errors are those of `fused_norm`.
    """
    return _fused_norm(
        "layer_norm_munit", x, weight, bias, "layer", activation, negative_slope, residual, pad, pad_mode, eps,
        pixel_shuffle, implementation,
    )  # fmt: skip


def bias_act_pad(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    activation: Activation = "none",
    negative_slope: float = 0.2,
    residual: Tensor | None = None,
    pad: int = 0,
    pad_mode: PadMode = "reflect",
    pixel_shuffle: bool = False,
    implementation: Implementation = "auto",
) -> tuple[Tensor, Tensor]:
    """`fused_norm` without statistics: y = activation(x + bias) + residual, padded.

    The bias is that of the convolution before. Arguments, results and errors are those of `fused_norm`.
    """
    return _fused_norm(
        "bias_act_pad", x, None, bias, "none", activation, negative_slope, residual, pad, pad_mode, 0.0, pixel_shuffle,
        implementation,
    )  # fmt: skip


def adain_residual_block(
    x: Tensor | tuple[Tensor, Tensor],
    convolutions: tuple[tuple[Tensor, Tensor | None], tuple[Tensor, Tensor | None]],
    styles: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]],
    *,
    activation: Activation = "relu",
    negative_slope: float = 0.2,
    pad: int = 0,
    pad_mode: PadMode = "reflect",
    eps: float = 1e-5,
    implementation: Implementation = "auto",
) -> tuple[Tensor, Tensor]:
    """Residual block of MUNIT's decoder: x + AdaIN(conv(activation(AdaIN(conv(x))))).

    Both convolutions are k x k with stride 1 and keep the size. Each is followed by one `fused_norm`, which writes the
    pad that the next convolution reads; nothing else is written. Source: MUNIT paper, section 3.2 and appendix B.2.

    Args:
        x: (N, C, H, W), padded first; or (padded, interior) as an op before wrote it with k // 2 pixels.
        convolutions: (weight (C, C, k, k) with odd k, bias (C,) or None) of the first and the second convolution.
        styles: (weight (N, C), bias (N, C)) of the first and the second AdaIN.
        activation: Of the first convolution; the second has none.
        negative_slope: Of the leaky relu.
        pad: Pixels around the result for what follows, 0 to 3.
        pad_mode: What pads show, inside the block too.
        eps: Added to the variances.
        implementation: See the module.

    Returns:
        padded (N, C, H + 2 pad, W + 2 pad) and interior (N, C, H, W), as `fused_norm` returns them.

    Raises:
        ValueError: A shape or an option is wrong.
        TypeError: A dtype is wrong.
        ImplementationError: The named implementation cannot run here.
    """
    (weight, bias), second = convolutions
    k = weight.shape[-1]
    if k % 2 == 0 or weight.shape[-2] != k or second[0].shape[-2:] != weight.shape[-2:]:
        raise ValueError(
            "adain_residual_block: both convolutions must have the same odd square kernel, not "
            f"{tuple(weight.shape)} and {tuple(second[0].shape)}"
        )
    if 0 in weight.shape or 0 in second[0].shape:
        raise ValueError(
            "adain_residual_block: a convolution needs channels, but the weights are of shape "
            f"{tuple(weight.shape)} and {tuple(second[0].shape)}"
        )
    if isinstance(x, Tensor):
        x = bias_act_pad(x, pad=k // 2, pad_mode=pad_mode, implementation=implementation)
    padded, interior = x
    padded, _ = adain(
        F.conv2d(padded, weight, bias), *styles[0], activation=activation, negative_slope=negative_slope,
        pad=k // 2, pad_mode=pad_mode, eps=eps, implementation=implementation,
    )  # fmt: skip
    y = F.conv2d(padded, *second)
    return adain(
        y, *styles[1], residual=interior.to(y.dtype), pad=pad, pad_mode=pad_mode, eps=eps, implementation=implementation
    )


def weighted_l1(
    inputs: Sequence[Tensor],
    targets: Sequence[Tensor],
    weights: Sequence[float],
    implementation: Implementation = "auto",
) -> tuple[Tensor, Tensor]:
    """All L1 terms of a step: the mean absolute difference of each pair, and their weighted sum.

    values[k] = mean |inputs[k] - targets[k]| and total = Σ weights[k] · values[k]: the reconstruction losses of MUNIT
    (Huang et al., 2018, https://arxiv.org/abs/1804.04732, equations 1 to 3 and 5). Gradients go to inputs and targets;
    that of a difference of 0 is 0. An empty pair has the value NaN.

    The kernel reads each tensor once and keeps the sign of each difference in a byte, which is all that backward reads.
    It gives the same bits whatever the number of threads and differentiates once, the reference any number of times.

    Args:
        inputs: 1 to 16 tensors of any shapes, in float32, bfloat16, float16 or float64.
        targets: As many tensors, each of the shape of its input; dtype and layout may differ.
        weights: As many numbers.
        implementation: See the module.

    Returns:
        values, (K,), and total, of no dimension, in float32; in float64 where any input or target is.

    Raises:
        ValueError: There are no or too many pairs, the lists differ in length, or a pair's shapes or devices differ.
        TypeError: inputs or targets is one tensor instead of a sequence, or a tensor is of another dtype.
        ImplementationError: The named implementation cannot run here.
    """
    _check_pairs(inputs, targets, weights)
    chosen = _choose("weighted_l1", implementation, inputs[0], None, *inputs, *targets)
    weights = [float(weight) for weight in weights]
    if chosen == "reference":
        return reference.weighted_l1(inputs, targets, weights)
    return ops.weighted_l1(inputs, targets, weights, chosen)


def _check_pairs(inputs: Sequence[Tensor], targets: Sequence[Tensor], weights: Sequence[float]) -> None:
    if isinstance(inputs, Tensor) or isinstance(targets, Tensor):
        raise TypeError("weighted_l1: inputs and targets must be sequences of tensors, not a tensor")
    pairs = len(inputs)
    if len(targets) != pairs or len(weights) != pairs:
        raise ValueError(
            "weighted_l1: inputs, targets and weights must be of one length, "
            f"not {pairs}, {len(targets)} and {len(weights)}"
        )
    if not 1 <= pairs <= MAX_PAIRS:
        raise ValueError(f"weighted_l1: there must be 1 to {MAX_PAIRS} pairs, not {pairs}")
    device = inputs[0].device
    for k, (input, target) in enumerate(zip(inputs, targets, strict=True)):
        if input.shape != target.shape:
            raise ValueError(
                f"weighted_l1: inputs[{k}] is of shape {tuple(input.shape)}, but targets[{k}] of {tuple(target.shape)}"
            )
        for name, x in (("inputs", input), ("targets", target)):
            if x.dtype not in _DTYPES:
                raise TypeError(
                    f"weighted_l1: {name}[{k}] must be float32, bfloat16, float16 or float64, not {x.dtype}"
                )
            if x.device != device:
                raise ValueError(f"weighted_l1: {name}[{k}] is on {x.device}, but inputs[0] on {device}")


def upsample_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pad_mode: PadMode = "reflect",
    implementation: Implementation = "auto",
    *,
    unshuffled: bool = False,
) -> Tensor:
    """Nearest upsampling by 2, padding by k // 2, and a k x k convolution, computed on the low-resolution map.

    y = conv2d(pad(upsample(x)), weight, bias): the up blocks of MUNIT's decoder (Huang et al., 2018,
    https://arxiv.org/abs/1804.04732, appendix B.2). Each of the four positions of a pixel in the upsampled map sees
    every low-resolution pixel through several taps, whose sum is one tap of a kernel of its own: (k + 1)² / 4 instead
    of k² multiplications a value, 9 instead of 25 for k = 5. The mathematics is that of the plain chain, borders
    included; roundings differ, as the taps are summed first.

    Infinities and NaN make the same values of the result and of the gradients infinite or NaN as in the plain chain,
    but may differ in being one or the other. Two gradients go by way of the summed taps and are coarser near the
    border, where the plain chain leaves out what a tap does not reach: an infinity or NaN in weight[o, c] makes all of
    the gradient of x[:, c] infinite or NaN, and one in x[:, c] all of the gradient of weight[:, c].

    It is built from torch's convolutions and needs no kernel, so every implementation but "reference" names it, on the
    CPU and on CUDA; other devices get the plain chain. It differentiates once, the reference any number of times.

    Args:
        x: (N, C, H, W) in float32, bfloat16, float16 or float64. NCHW and channels_last are kept.
        weight: (O, C, k, k), k odd and at least 3, in the dtype of x; of any dtype, and summed in it, under autocast.
        bias: Absent or (O,).
        pad_mode: "reflect", "replicate" or "zero".
        unshuffled: Whether to leave the result pixel-unshuffled, for `fused_norm(..., pixel_shuffle=True)`, which puts
            the pixels in place as it writes.
        implementation: "reference" is the plain chain.

    Returns:
        (N, O, 2 H, 2 W) in the dtype of x; in that of autocast under it. With `unshuffled`, (N, 4 O, H, W), of which
        `torch.nn.functional.pixel_shuffle(..., 2)` makes the same.

    Raises:
        ValueError: A shape or pad_mode is wrong, or the upsampled map is too small for reflect padding.
        TypeError: x is of another dtype, or weight or bias of another one than x.
    """
    _check_upsample_conv2d("upsample_conv2d", x, weight, bias, pad_mode)
    if _is_plain_chain(implementation, x):
        return reference.upsample_conv2d(x, weight, bias, pad_mode, unshuffled)
    return ops.upsample_conv2d(x, weight, bias, pad_mode, unshuffled)


def default_implementation() -> Implementation:
    """What `use_implementation` has chosen here; "auto" outside of it."""
    return _traced_default if torch.compiler.is_compiling() else _default.get()


def exact_order() -> bool:
    """Return whether operations must run in the order of the public code: the reference is the default here."""
    return default_implementation() == "reference"


def implementation_of(function: str, x: Tensor, statistics: Statistics | None = None) -> str:
    """What "auto" stands for in a call of `function` on x: "native", "triton" or "reference".

    `statistics` tell which kernel a call of `fused_norm` runs; whether it runs the reference does not depend on them.
    """
    return _choose(function, "auto", x, statistics=statistics)


def upsamples_unshuffled(x: Tensor) -> bool:
    """Whether "auto" computes `upsample_conv2d` of x unshuffled: only then does `unshuffled=True` save work."""
    return not _is_plain_chain("auto", x)


def _is_plain_chain(implementation: str, x: Tensor) -> bool:
    """The choice of `upsample_conv2d`, which does not depend on what was built."""
    _check_name(implementation)
    if implementation == "auto":
        implementation = default_implementation()
    return implementation == "reference" or x.device.type not in ("cpu", "cuda", "meta")


def _check_upsample_conv2d(function: str, x: Tensor, weight: Tensor, bias: Tensor | None, pad_mode: str) -> None:
    _check_map(function, x)
    if pad_mode not in ("reflect", "replicate", "zero"):
        raise ValueError(f"{function}: pad_mode must be one of 'reflect', 'replicate', 'zero', not {pad_mode!r}")
    _, c, h, w = x.shape
    if weight.dim() != 4 or weight.shape[1] != c or weight.shape[2] != weight.shape[3]:
        raise ValueError(f"{function}: weight must be (O, {c}, k, k), not of shape {tuple(weight.shape)}")
    o, k = len(weight), weight.shape[3]
    if o == 0 or c == 0:
        raise ValueError(
            f"{function}: a convolution needs channels, but x is of shape {tuple(x.shape)} and weight of "
            f"{tuple(weight.shape)}"
        )
    if k < 3 or k % 2 == 0:
        raise ValueError(f"{function}: the kernel size must be odd and at least 3, not {k}")
    if bias is not None and tuple(bias.shape) != (o,):
        raise ValueError(f"{function}: bias must be ({o},), not of shape {tuple(bias.shape)}")
    if pad_mode == "reflect" and not (k // 2 < 2 * h and k // 2 < 2 * w):
        raise ValueError(
            f"{function}: reflect padding should be less than the height and width of the upsampled map, but it is "
            f"{k // 2} and the upsampled map is {2 * h} x {2 * w}"
        )
    if autocast_dtype(x.device.type) is None:
        for name, parameter in (("weight", weight), ("bias", bias)):
            if parameter is not None and parameter.dtype != x.dtype:
                raise TypeError(f"{function}: {name} must be {x.dtype} as x, not {parameter.dtype}")
