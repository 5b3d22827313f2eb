"""The public function `instance_norm_stats`."""

from torch import Tensor

from fastmunit import reference
from fastmunit.functional.checks import check_map
from fastmunit.functional.implementation import Implementation, choose
from fastmunit.ops import instance_norm_stats as op


def instance_norm_stats(x: Tensor, eps: float = 1e-5, implementation: Implementation = "auto") -> tuple[Tensor, Tensor]:
    """Compute the mean and the reciprocal standard deviation of each (sample, channel) plane.

    mean = E[x] and rstd = 1 / sqrt(E[(x - mean)²] + eps), both over H and W, biased variance: the statistics of
    instance norm (Ulyanov et al., 2016, https://arxiv.org/abs/1607.08022, equation 5) and of AdaIN (Huang and
    Belongie, 2017, https://arxiv.org/abs/1703.06868, equations 5 and 6).

    The networks call `fused_norm`, which takes these statistics itself. Use this function for the statistics alone,
    such as the style statistics of an image, or to normalize an image that does not fit in memory as a whole:
    statistics first, then the affine map one part at a time.

    The variance is computed in two passes over blocks, never as E[x²] - E[x]², so it stays accurate if the mean is far
    from zero. The kernels return the same bits for the same input with any number of threads, and can be differentiated
    once. The reference can be differentiated any number of times.

    Args:
        x: (N, C, H, W) in float32, bfloat16, float16 or float64. N may be 0. Tensors in NCHW and channels_last are read
            in place; other strides are copied first.
        eps: Number added to the variance inside the square root.
        implementation: "auto", "native", "triton" or "reference", see `fastmunit.functional`.

    Returns:
        mean and rstd, each (N, C), in float32, or in float64 if x is float64.

    Raises:
        ValueError: If x is not (N, C, H, W) or has no pixel.
        TypeError: If x has another dtype.
        ImplementationError: If the named implementation cannot run here.

    Example:
        >>> x = torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]])
        >>> mean, rstd = fastmunit.functional.instance_norm_stats(x, eps=0.0)
        >>> mean.item(), round(rstd.item(), 4)
        (4.0, 0.4472)
    """
    check_map("instance_norm_stats", x)
    chosen = choose("instance_norm_stats", implementation, x)
    if chosen == "reference":
        return reference.instance_norm_stats(x, eps)
    return op.instance_norm_stats(x, eps, chosen)
