"""The public fused ops: stateless functions with one reference and several fast implementations.

Every function takes `implementation`:

- "auto": the fastest one that can run on the tensors' device (`python -m fastmunit.info` shows which),
- "native": the C++ or CUDA kernel,
- "triton": the Triton kernel,
- "reference": plain PyTorch.

A named implementation that cannot run raises `fastmunit.errors.ImplementationError`; nothing falls back in silence.
`use_implementation` sets what "auto" stands for in a block.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

import torch
from torch import Tensor

from fastmunit import ops, reference
from fastmunit.errors import ImplementationError
from fastmunit.ops.availability import IMPLEMENTATIONS, automatic, unavailable

__all__ = ["Implementation", "instance_norm", "instance_norm_stats", "layer_norm_munit", "use_implementation"]

Implementation = Literal["auto", "native", "triton", "reference"]

_default: ContextVar[str] = ContextVar("fastmunit_implementation", default="auto")
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@contextmanager
def use_implementation(implementation: Implementation) -> Iterator[None]:
    """Make "auto" stand for `implementation` inside a with-block, in this thread (or asyncio task) alone.

    A function compiled by `torch.compile` is compiled once for each implementation that it is called under. Backward
    runs what its forward chose.

    Args:
        implementation: "auto", "native", "triton" or "reference".

    Raises:
        ValueError: `implementation` is none of these.
    """
    _check_name(implementation)
    token = _default.set(implementation)
    try:
        yield
    finally:
        _default.reset(token)


def _check_name(implementation: str) -> None:
    if implementation != "auto" and implementation not in IMPLEMENTATIONS:
        names = ", ".join(repr(name) for name in ("auto", *IMPLEMENTATIONS))
        raise ValueError(f"implementation must be one of {names}, not {implementation!r}")


def _choose(function: str, implementation: str, x: Tensor) -> str:
    """The implementation that `function` runs on x: "native", "triton" or "reference"."""
    _check_name(implementation)
    if implementation == "auto":
        implementation = _default.get()
    device_type = x.device.type
    if implementation == "auto":
        return automatic(device_type)
    reason = unavailable(implementation, device_type)
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


def instance_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    implementation: Implementation = "auto",
) -> Tensor:
    """Instance norm, or AdaIN when weight and bias differ from sample to sample.

    y = (x - mean) * rstd * weight + bias with the statistics of `instance_norm_stats`. AdaIN (Huang and Belongie, 2017,
    equation 8) passes the style's standard deviation as weight and its mean as bias.

    Args:
        x: (N, C, H, W) in float32, bfloat16, float16 or float64, more than one pixel.
        weight: Absent, (C,) or (N, C).
        bias: Absent, (C,) or (N, C).
        eps: Added to the variance inside the square root.
        implementation: See the module.

    Returns:
        (N, C, H, W) in the dtype of x.

    Raises:
        ValueError: x is not (N, C, H, W), has a single pixel, or weight or bias has another shape.
        TypeError: x is of another dtype.
        ImplementationError: The named implementation cannot run here.
    """
    _check_map("instance_norm", x)
    n, c, h, w = x.shape
    if h * w == 1:
        raise ValueError(f"instance_norm: x is {tuple(x.shape)}, but statistics need more than one pixel")
    for name, parameter in (("weight", weight), ("bias", bias)):
        if parameter is not None and tuple(parameter.shape) not in ((c,), (n, c)):
            raise ValueError(f"instance_norm: {name} must be ({c},) or ({n}, {c}), not {tuple(parameter.shape)}")
    chosen = _choose("instance_norm", implementation, x)
    if chosen == "reference":
        return reference.instance_norm(x, weight, bias, eps)
    mean, rstd = ops.instance_norm_stats(x, eps, chosen)
    scale = rstd if weight is None else rstd * weight
    y = (x - mean[:, :, None, None]) * scale[:, :, None, None]
    if bias is not None:
        y = y + bias.expand(n, c)[:, :, None, None]
    return y.to(x.dtype)


def layer_norm_munit(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """MUNIT's layer norm: y = (x - mean) / (std + eps) * weight + bias, over all of a sample.

    std is the unbiased one and eps is added to it, not to the variance.

    Args:
        x: (N, C, ...) in float32, bfloat16, float16 or float64, more than one value a sample.
        weight: (C,).
        bias: (C,).
        eps: Added to the standard deviation.

    Returns:
        The shape and dtype of x.
    """
    return reference.layer_norm_munit(x, weight, bias, eps)
