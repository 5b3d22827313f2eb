"""Content: does the output show what the input showed?"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmunit.errors import DataError
from fastmunit.metrics.checks import check_images

_LUMA = (0.299, 0.587, 0.114)
_SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))
# Standard deviation of the blur, as a part of the shorter side: edges this far apart still agree.
_TOLERANCE = 1 / 64


def edge_agreement(x: Tensor, y: Tensor) -> Tensor:
    """Pearson correlation over pixels of blurred edge strengths g(x) and g(y), (N,), in [-1, 1]; 1 for equal edges.

    g = blur(√(s_h² + s_v²)), s the Sobel derivatives of the luminance; the blur is Gaussian with a standard deviation
    of 1/64 of the shorter side, so that the two flanks of a drawn line agree with the one edge of a photo. Images
    without any edge get 0. The measure is fastmunit's own: the papers report none for content. Compare a value with
    that of the same images in another order, and of real pairs where there are some.

    Args:
        x: images (N, 3, H, W) in [-1, 1].
        y: images (N, 3, H, W), what became of them.

    Raises:
        DataError: other shapes, grey or tiny images, NaN.
    """
    for images in (x, y):
        check_images(images, "edge agreement", 8)
    if x.shape != y.shape:
        raise DataError(f"edge agreement compares images of one size, got {tuple(x.shape)} and {tuple(y.shape)}.")
    g, h = (_edges(images).flatten(1) for images in (x, y))
    g, h = g - g.mean(dim=1, keepdim=True), h - h.mean(dim=1, keepdim=True)
    norms = g.norm(dim=1) * h.norm(dim=1)
    return torch.where(norms > 1e-9, (g * h).sum(dim=1) / norms.clamp_min(1e-9), torch.zeros_like(norms))


def content_code_distance(code: Tensor, code_of_output: Tensor) -> Tensor:
    """mean|c' - c| / mean|c| for each image, (N,): 0 when the output has the input's content code.

    c is the content code of the input by the source encoder, c' that of the output by the target encoder; the numerator
    is the content reconstruction loss of the MUNIT paper, section 3.2, and the ratio makes models comparable whose
    codes have different scales.

    Args:
        code: (N, C, H, W).
        code_of_output: the same shape.

    Raises:
        DataError: the shapes differ.
    """
    if code.shape != code_of_output.shape:
        raise DataError(
            f"content codes have shapes {tuple(code.shape)} and {tuple(code_of_output.shape)}: this system has no "
            "content code that both domains share."
        )
    difference = (code_of_output.double() - code.double()).abs().flatten(1).mean(dim=1)
    return difference / code.double().abs().flatten(1).mean(dim=1).clamp_min(1e-12)


def _edges(images: Tensor) -> Tensor:
    luminance = (images.float() * images.new_tensor(_LUMA).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    horizontal = images.new_tensor(_SOBEL).view(1, 1, 3, 3)
    padded = F.pad(luminance, (1, 1, 1, 1), mode="replicate")
    strength = (
        F.conv2d(padded, horizontal).square() + F.conv2d(padded, horizontal.transpose(2, 3)).square()
    ).sqrt()  # fmt: skip
    return _blur(strength, min(images.shape[-2:]) * _TOLERANCE)


def _blur(x: Tensor, deviation: float) -> Tensor:
    radius = max(1, min(round(3 * deviation), min(x.shape[-2:]) - 1))
    offsets = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-0.5 * (offsets / deviation).square())
    kernel = kernel / kernel.sum()
    x = F.conv2d(F.pad(x, (radius, radius, 0, 0), mode="reflect"), kernel.view(1, 1, 1, -1))
    return F.conv2d(F.pad(x, (0, 0, radius, radius), mode="reflect"), kernel.view(1, 1, -1, 1))
