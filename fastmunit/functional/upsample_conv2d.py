"""The public function `upsample_conv2d`."""

from torch import Tensor

from fastmunit import reference
from fastmunit.functional.checks import check_map
from fastmunit.functional.implementation import Implementation, choose_upsample_conv2d
from fastmunit.functional.phase_kernels import (
    check_reflects,
    check_weight,
    compute_dtype,
    make_kernels,
    pad_and_convolve,
)
from fastmunit.fused_norm_options import PAD_MODES, PadMode, check_choice
from fastmunit.ops.autocast import autocast_dtype
from fastmunit.ops.layout import dense_format


def upsample_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pad_mode: PadMode = "reflect",
    implementation: Implementation = "auto",
    *,
    unshuffled: bool = False,
) -> Tensor:
    """Upsample by 2 (nearest), pad by k // 2 and apply a k x k convolution, computed on the low-resolution map.

    y = conv2d(pad(upsample(x)), weight, bias): the up blocks of MUNIT's decoder (Huang et al., 2018,
    https://arxiv.org/abs/1804.04732, appendix B.2). Each of the four positions of a pixel in the upsampled map reads
    every low-resolution pixel through several taps. The sum of these taps is one tap of a smaller kernel, so a value
    takes (k + 1)² / 4 multiplications instead of k²: 9 instead of 25 for k = 5. The result is mathematically that of
    the plain chain of operations, borders included. Rounding differs, because the taps are summed first.

    Infinities and NaN make the same values of the result and of the gradients non-finite as in the plain chain, but an
    inf may become NaN and vice versa. Two gradients use the summed taps and are coarser near the border, where the
    plain chain omits the pixels that a tap does not reach: an inf or NaN in weight[o, c] makes all of the gradient of
    x[:, c] non-finite, and one in x[:, c] all of the gradient of weight[:, c].

    The op is built from torch's convolutions and needs no kernel, so every implementation except "reference" selects
    it, on the CPU and on CUDA. Other devices run the plain chain. The op can be differentiated once, the reference any
    number of times. The smaller kernels are made anew by each call. `phase_kernels` and `phase_conv2d` are the two
    halves of the function, for a weight that serves several calls.

    Args:
        x: (N, C, H, W) in float32, bfloat16, float16 or float64. NCHW and channels_last are preserved.
        weight: (O, C, k, k) with odd k ≥ 3, in the dtype of x. Under autocast any dtype is accepted, in which the taps
            are summed.
        bias: None or (O,).
        pad_mode: "reflect", "replicate" or "zero".
        implementation: "reference" runs the plain chain.
        unshuffled: Return the result pixel-unshuffled, for `fused_norm(..., pixel_shuffle=True)`, which moves the
            pixels to their places while it writes.

    Returns:
        (N, O, 2 H, 2 W) in the dtype of x, or in autocast's dtype under autocast. With `unshuffled`, (N, 4 O, H, W),
        from which `torch.nn.functional.pixel_shuffle(..., 2)` makes the same map.

    Raises:
        ValueError: If a shape or pad_mode is invalid, or if the upsampled map is too small for reflect padding.
        TypeError: If x has another dtype, or if weight or bias does not have the dtype of x.

    Example:
        >>> x, weight = torch.ones(1, 2, 4, 4), torch.ones(3, 2, 5, 5)
        >>> y = fastmunit.functional.upsample_conv2d(x, weight)
        >>> y.shape, y[0, 0, 0, 0].item()
        (torch.Size([1, 3, 8, 8]), 50.0)
    """
    _check(x, weight, bias, pad_mode)
    if choose_upsample_conv2d(implementation, x) == "reference":
        return reference.upsample_conv2d(x, weight, bias, pad_mode, unshuffled)
    dtype, memory_format = compute_dtype(x), dense_format(x)
    kernels = make_kernels(weight, bias, pad_mode, dtype, memory_format, unshuffled)
    return pad_and_convolve(x, kernels)


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, pad_mode: str) -> None:
    check_map("upsample_conv2d", x)
    check_choice("upsample_conv2d", "pad_mode", pad_mode, PAD_MODES)
    c = x.shape[1]
    if weight.dim() == 4 and 0 in (c, weight.shape[0]) and weight.shape[1] == c:
        raise ValueError(
            "upsample_conv2d: expected a convolution with channels, "
            f"got x {tuple(x.shape)} and weight {tuple(weight.shape)}"
        )
    check_weight("upsample_conv2d", weight, bias, channels=c)
    check_reflects("upsample_conv2d", x.shape[2], x.shape[3], weight.shape[3], pad_mode)
    if autocast_dtype(x.device.type) is None:
        for name, parameter in (("weight", weight), ("bias", bias)):
            if parameter is not None and parameter.dtype != x.dtype:
                raise TypeError(f"upsample_conv2d: expected {name} in {x.dtype}, the dtype of x, got {parameter.dtype}")
