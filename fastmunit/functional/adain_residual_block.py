"""The public function `adain_residual_block`."""

from torch import Tensor

from fastmunit.functional.checks import check_map
from fastmunit.functional.conv2d import conv2d
from fastmunit.functional.fused_norm import adain, bias_act_pad
from fastmunit.functional.implementation import Implementation, choose
from fastmunit.functional.recompute import recomputable_fused_norm, replace_saved
from fastmunit.fused_norm_options import Activation, PadMode

Convolution = tuple[Tensor, Tensor | None]
Style = tuple[Tensor, Tensor]


def adain_residual_block(
    x: Tensor | tuple[Tensor, Tensor],
    convolutions: tuple[Convolution, Convolution],
    styles: tuple[Style, Style],
    *,
    activation: Activation = "relu",
    negative_slope: float = 0.2,
    pad: int = 0,
    pad_mode: PadMode = "reflect",
    result_pad_mode: PadMode | None = None,
    eps: float = 1e-5,
    implementation: Implementation = "auto",
) -> tuple[Tensor, Tensor]:
    """Apply a residual block of MUNIT's decoder: x + AdaIN(conv(activation(AdaIN(conv(x))))).

    Both convolutions are k x k with stride 1 and preserve the size. Each is followed by one `fused_norm`, which also
    writes the padding that the next convolution reads. With pad_mode "zero", the convolutions pad by themselves.
    Source: MUNIT paper (Huang et al., 2018, https://arxiv.org/abs/1804.04732), section 3.2 and appendix B.2.

    Backward recomputes the padded map between the two convolutions from the result of the first, unless this is
    switched off (`fastmunit.functional.recompute`). The reference stores it.

    Args:
        x: (N, C, H, W), which is padded first, or (padded, interior), the results of a `fused_norm` with pad=k // 2.
            A batch of 1 with N styles is one content code in N styles.
        convolutions: (weight (C, C, k, k) with odd k, bias (C,) or None) of the first and the second convolution. AdaIN
            cancels the biases: without them the result is the same up to rounding, and takes less time.
        styles: (weight (N, C), bias (N, C)) of the first and the second AdaIN.
        activation: Activation after the first AdaIN. There is none after the second.
        negative_slope: Slope of LeakyReLU for negative inputs.
        pad: Number of pixels added around the result for the next layer, 0 to 3.
        pad_mode: Values of all padding, inside the block and around the result.
        result_pad_mode: Values of the padding around the result, if they differ.
        eps: Number added to the variances.
        implementation: "auto", "native", "triton" or "reference", see `fastmunit.functional`.

    Returns:
        padded (N, C, H + 2 pad, W + 2 pad) and interior (N, C, H, W), as `fused_norm` returns them.

    Raises:
        ValueError: If a shape or an option is invalid.
        TypeError: If a dtype is invalid.
        ImplementationError: If the named implementation cannot run here.
    """
    (weight, bias), (second_weight, second_bias) = convolutions
    check_map("adain_residual_block", x if isinstance(x, Tensor) else x[1])
    _check(weight, second_weight, styles)
    chosen = choose("fused_norm", implementation, x if isinstance(x, Tensor) else x[1], statistics="instance")
    half = weight.shape[-1] // 2
    inner_pad = 0 if pad_mode == "zero" else half
    if isinstance(x, Tensor):
        x = bias_act_pad(x, pad=inner_pad, pad_mode=pad_mode, implementation=chosen) if inner_pad else (x, x)
    padded, interior = x
    conv_pad = 0 if padded.shape[-1] > interior.shape[-1] else half - inner_pad
    y = _for_each_style(conv2d(padded, weight, bias, padding=(conv_pad, conv_pad)), styles[0])
    hidden = recomputable_fused_norm(
        y, *styles[0], statistics="instance", activation=activation, negative_slope=negative_slope, pad=inner_pad,
        pad_mode=pad_mode, eps=eps, implementation=chosen,
    )  # fmt: skip
    with replace_saved(hidden.padded, with_=hidden.recompute):
        y = conv2d(hidden.padded, second_weight, second_bias, padding=(half - inner_pad,) * 2)
    y = _for_each_style(y, styles[1])
    residual = _for_each_style(interior.to(y.dtype), styles[1])
    return adain(
        y,
        *styles[1],
        residual=residual,
        pad=pad,
        pad_mode=result_pad_mode or pad_mode,
        eps=eps,
        implementation=chosen,
    )


def _for_each_style(y: Tensor, style: Style) -> Tensor:
    """Repeat the map of a single content code for every style."""
    count = style[0].shape[0]
    return y.expand(count, -1, -1, -1) if y.shape[0] == 1 < count else y


def _check(weight: Tensor, second_weight: Tensor, styles: tuple[Style, Style]) -> None:
    k = weight.shape[-1]
    if k % 2 == 0 or weight.shape[-2] != k or second_weight.shape[-2:] != weight.shape[-2:]:
        raise ValueError(
            "adain_residual_block: expected two convolutions with the same odd square kernel, got weights of shape "
            f"{tuple(weight.shape)} and {tuple(second_weight.shape)}"
        )
    if 0 in weight.shape or 0 in second_weight.shape:
        raise ValueError(
            "adain_residual_block: expected convolutions with channels, got weights of shape "
            f"{tuple(weight.shape)} and {tuple(second_weight.shape)}"
        )
    for tensor in (*styles[0], *styles[1]):
        if tensor.dim() != 2:
            raise ValueError(f"adain_residual_block: expected styles of shape (N, C), got {tuple(tensor.shape)}")
