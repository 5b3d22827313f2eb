"""Reconstruction: what is left of an image after a way there and back."""

from __future__ import annotations

import torch
from torch import Tensor

from fastmunit.errors import DataError


def reconstruction_l1(x: Tensor, reconstruction: Tensor) -> Tensor:
    """Mean |x' - x| over channels and pixels of each image, (N,), for images (N, C, H, W) in [-1, 1].

    Within a domain, x' = G(E_c(x), E_s(x)): the image reconstruction of the MUNIT paper, section 3.2. Over a cycle, x'
    is x translated there with a random style and back with its own: its style-augmented cycle consistency.

    Raises:
        DataError: other shapes, or NaN.
    """
    if x.shape != reconstruction.shape or x.ndim != 4:
        raise DataError(
            f"reconstruction L1 compares images of one size, got {tuple(x.shape)} and {tuple(reconstruction.shape)}."
        )
    if not bool(torch.isfinite(reconstruction).all()):
        raise DataError("the reconstruction holds NaN: the network that made it has diverged.")
    return (reconstruction.double() - x.double()).abs().flatten(1).mean(dim=1)
