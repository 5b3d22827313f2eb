"""Noise and style vectors as channels of a map."""

from __future__ import annotations

import torch
from torch import Tensor


def append_latent(x: Tensor, z: Tensor | None, latent_dim: int) -> Tensor:
    """A map x (N, C, H, W) with z (N, latent_dim) at each pixel as further channels; x itself where latent_dim is 0.

    One z (1, latent_dim) goes with any number of maps.

    Raises:
        ValueError: z is absent, not wanted, or of another length.
    """
    wanted = f"(N, {latent_dim}) or (N, {latent_dim}, 1, 1)" if latent_dim else "absent"
    if (z is None) != (latent_dim == 0):
        raise ValueError(f"z is {'absent' if z is None else tuple(z.shape)}, but it should be {wanted}.")
    if z is None:
        return x
    if len(z) not in (1, len(x)) or z.shape[1:2] != (latent_dim,) or z.numel() != len(z) * latent_dim:
        raise ValueError(f"z is {tuple(z.shape)} for a batch of {len(x)}, but it should be {wanted}.")
    planes = z.to(x.dtype).view(len(z), latent_dim, 1, 1).expand(len(x), -1, *x.shape[2:])
    return torch.cat([x, planes], dim=1)
