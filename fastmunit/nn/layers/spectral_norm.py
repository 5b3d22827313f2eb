"""Spectral normalization with the parameter names of the public trainer's checkpoints."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_EPS = 1e-12


def _l2_normalize(v: Tensor) -> Tensor:
    return v / (v.norm() + _EPS)


class SpectralNorm(nn.Module):
    """A convolution or linear layer whose weight is divided by its largest singular value.

    sigma = uᵀ W v with one power iteration in every forward, in eval mode, too: v = l2(Wᵀ u), u = l2(W v),
    l2(z) = z / (|z| + 1e-12), with W flattened to (out, rest). The gradient flows through W, not through u and v.

    The wrapped `module` has weight_u, weight_v (without gradient) and weight_bar (trained) instead of weight.
    torch's own parametrization is not used, because its state_dict has other keys and it does not iterate in eval mode.
    Source: Miyato et al. 2018, algorithm 1.

    Attributes:
        compat: Compute the gradient of sigma as the public trainer does: with the values of u and v at the time of
            backward, not of forward. The two differ if the layer runs twice before backward, as discriminators do on
            fake and real images. torch.compile cannot express this, so such a layer must not be compiled.
    """

    compat = False

    def __init__(self, module: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        weight = module.weight
        height = weight.shape[0]
        width = weight.numel() // height
        u = _l2_normalize(weight.new_empty(height).normal_(0, 1))
        v = _l2_normalize(weight.new_empty(width).normal_(0, 1))
        del module.weight
        module.register_parameter("weight_u", nn.Parameter(u, requires_grad=False))
        module.register_parameter("weight_v", nn.Parameter(v, requires_grad=False))
        module.register_parameter("weight_bar", nn.Parameter(weight.data))
        self.module = module

    def compute_weight(self) -> Tensor:
        """Run one power iteration, which updates weight_u and weight_v in place, and return weight_bar / sigma."""
        weight_u: Tensor = self.module.get_parameter("weight_u")
        weight_v: Tensor = self.module.get_parameter("weight_v")
        weight_bar = self.module.get_parameter("weight_bar")
        matrix = weight_bar.flatten(1)
        with torch.autocast(weight_bar.device.type, enabled=False):  # u and v are stored, so they stay float32
            # Writes through `data` are not counted, so autograd lets backward read u and v that were overwritten.
            stored_u, stored_v = (weight_u.data, weight_v.data) if self.compat else (weight_u, weight_v)
            with torch.no_grad():
                stored_v.copy_(_l2_normalize(matrix.t() @ weight_u))
                stored_u.copy_(_l2_normalize(matrix @ weight_v))
            if self.compat:
                sigma = weight_u @ (matrix @ weight_v)
            else:  # Clones: the next forward may overwrite u and v before the backward of this one reads them.
                sigma = weight_u.clone() @ (matrix @ weight_v.clone())
            return weight_bar / sigma

    def forward(self, x: Tensor) -> Tensor:
        weight = self.compute_weight()
        if isinstance(self.module, nn.Conv2d):
            return F.conv2d(x, weight, self.module.bias, self.module.stride, self.module.padding)
        return F.linear(x, weight, self.module.bias)
