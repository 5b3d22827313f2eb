"""The op `instance_norm_stats` and its backward op."""

from typing import Any

import torch
from torch import Tensor

from fastmunit.ops import library
from fastmunit.ops.layout import dense, dense_format

_SCHEMA = "(Tensor x, float eps) -> (Tensor mean, Tensor rstd)"
_BACKWARD_SCHEMA = "(Tensor dmean, Tensor drstd, Tensor x, Tensor mean, Tensor rstd) -> Tensor"


def _empty_statistics(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    shape = (x.shape[0], x.shape[1])
    return x.new_empty(shape, dtype=dtype), x.new_empty(shape, dtype=dtype)


def _empty_gradient(dmean: Tensor, drstd: Tensor, x: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=dense_format(x))


def _triton(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    from fastmunit.kernels.instance_norm_stats import instance_norm_stats

    return instance_norm_stats(dense(x), eps)


def _triton_backward(dmean: Tensor, drstd: Tensor, x: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    from fastmunit.kernels.instance_norm_stats import instance_norm_stats_backward

    return instance_norm_stats_backward(dmean.contiguous(), drstd.contiguous(), dense(x), mean, rstd)


def _register(implementation: str) -> library.Op:
    op, backward_op = library.define_with_backward(
        "instance_norm_stats", implementation, _SCHEMA, _empty_statistics, _BACKWARD_SCHEMA, _empty_gradient
    )

    class InstanceNormStats(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
            with library.below_autograd():
                mean, rstd = op(x, eps)
            ctx.save_for_backward(x, mean, rstd)
            return mean, rstd

        @staticmethod
        def backward(ctx: Any, dmean: Tensor, drstd: Tensor) -> tuple[Tensor, None]:
            return backward_op(dmean, drstd, *ctx.saved_tensors), None

    library.autograd(library.op_name("instance_norm_stats", implementation), InstanceNormStats)
    return op


_OPS = {implementation: _register(implementation) for implementation in ("native", "triton")}
for _device_type in ("cpu", "cuda"):
    library.kernel("instance_norm_stats_triton", _device_type, _triton)
    library.kernel("instance_norm_stats_backward_triton", _device_type, _triton_backward)


def instance_norm_stats(x: Tensor, eps: float, implementation: str) -> tuple[Tensor, Tensor]:
    """Run the op on arguments that `fastmunit.functional.instance_norm_stats` has checked.

    Returns:
        mean and rstd, each (N, C) and contiguous, in float32, or in float64 if x is float64.
    """
    mean, rstd = _OPS[implementation](x, eps)
    return mean, rstd
