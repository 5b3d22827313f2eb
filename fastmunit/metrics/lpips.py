"""LPIPS: perceptual distance of two images."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from fastmunit.errors import CheckpointError, FastmunitError
from fastmunit.files import load_tensors
from fastmunit.metrics.checks import check_images, check_pair
from fastmunit.nn.networks import imagenet

Net = Literal["alex", "vgg"]
Version = Literal["0.0", "0.1"]

_BACKBONES: dict[Net, imagenet.Backbone] = {"alex": "alexnet", "vgg": "vgg16"}
# Modules of torchvision's `features` whose results are compared: the last ReLU before each pool or end.
_STAGES: dict[Net, tuple[int, ...]] = {"alex": (1, 4, 7, 9, 11), "vgg": (3, 8, 15, 22, 29)}
_CHANNELS: dict[Net, tuple[int, ...]] = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}
LEAST_SIDE: dict[Net, int] = {"alex": 31, "vgg": 16}
"""Smallest sides of images, in pixels: smaller maps vanish in the pools."""

# Of RGB in [-1, 1]; heads of version 0.0 were trained without this.
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_EPS = 1e-10


class LPIPS(nn.Module):
    """d(x, y) = Σ_l mean_hw Σ_c w_lc (x̂_lchw - ŷ_lchw)², x̂_l the features of stage l over their norm over channels.

    x, y: (N, 3, H, W) in [-1, 1] → (N,) float32; 0 for equal images, larger for more different ones. The values of the
    two networks, and of the two versions of their heads w, differ up to two-fold and are not comparable, so `name` says
    which it is: "LPIPS-alex-v0.1". The MUNIT and BicycleGAN papers use the AlexNet one. The public packages are not
    used for the arithmetic: torchmetrics has version 0.1 alone, both download the backbone when it is constructed, and
    both run it again for every pair. Source: Zhang et al., The Unreasonable Effectiveness of Deep Features as a
    Perceptual Metric, CVPR 2018, equation 1.

    Args:
        net: "alex" or "vgg".
        version: of the linear heads, "0.0" or "0.1".
        weights: folder with the backbone's file, see `imagenet.convolution_weights`.
        backbone: use this instead of ImageNet's (torchvision's `features` layout, no ReLU in place).
        heads: use these instead of the published ones: for each stage a (C,) tensor.

    Raises:
        CheckpointError: the backbone's weights are not there, or the heads are in no installed package.
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        net: Net = "alex",
        version: Version = "0.1",
        *,
        weights: str | os.PathLike[str] | None = None,
        backbone: nn.Sequential | None = None,
        heads: Sequence[Tensor] | None = None,
    ) -> None:
        super().__init__()
        if net not in _BACKBONES or version not in ("0.0", "0.1"):
            raise FastmunitError(f"LPIPS has the nets alex and vgg in versions 0.0 and 0.1, not {net} v{version}.")
        self.net: Net = net
        self.version: Version = version
        self.name = f"LPIPS-{net}-v{version}"
        self.backbone = imagenet.features(_BACKBONES[net], weights) if backbone is None else backbone
        for stage, head in enumerate(heads if heads is not None else published_heads(net, version)):
            self.register_buffer(f"head{stage}", head.detach().float().view(1, -1, 1, 1))
        self.register_buffer("shift", torch.tensor(_SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(_SCALE).view(1, 3, 1, 1))
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances (N,) of the pairs. Raises DataError for other shapes, grey or small images, NaN."""
        for images in (x, y):
            check_images(images, self.name, LEAST_SIDE[self.net])
        check_pair(x, y, self.name)
        # Apart and in the same shape, so that equal images give equal bits and a distance of exactly 0.
        total = x.new_zeros(len(x), dtype=torch.float32)
        for stage, (fx, fy) in enumerate(zip(self._stages(x), self._stages(y), strict=True)):
            weighted = (fx - fy).square_().mul_(self.get_buffer(f"head{stage}"))
            total += weighted.sum(dim=1).mean(dim=(1, 2))
        return total

    def _stages(self, images: Tensor) -> list[Tensor]:
        x = images.float()
        if self.version == "0.1":
            x = (x - self.shift) / self.scale
        found = []
        for index, module in enumerate(self.backbone[: _STAGES[self.net][-1] + 1]):
            x = module(x)
            if index in _STAGES[self.net]:
                norm = x.square().sum(dim=1, keepdim=True).sqrt()
                found.append(x / (norm + _EPS))
        return found


def published_heads(net: Net, version: Version) -> list[Tensor]:
    """The linear heads w_l of the LPIPS authors, from the files of an installed package.

    The package `lpips` has both versions, `torchmetrics` version 0.1. Neither is imported.

    Raises:
        CheckpointError: neither is installed, or the file is not of these heads.
    """
    candidates = [("lpips", f"weights/v{version}/{net}.pth")]
    if version == "0.1":
        candidates.append(("torchmetrics", f"functional/image/lpips_models/{net}.pth"))
    for package, file in candidates:
        spec = importlib.util.find_spec(package)
        for place in spec.submodule_search_locations or [] if spec else []:
            path = Path(place) / file
            if path.is_file():
                return _read_heads(path, net)
    names = " or ".join(package for package, _ in candidates)
    raise CheckpointError(
        f"the linear heads of LPIPS-{net}-v{version} are in the package {names}, which is not installed: "
        'pip install "fastmunit[eval]".'
    )


def _read_heads(path: Path, net: Net) -> list[Tensor]:
    state = load_tensors(path)
    heads = []
    for stage, channels in enumerate(_CHANNELS[net]):
        head = state.get(f"lin{stage}.model.1.weight") if isinstance(state, dict) else None
        if not isinstance(head, Tensor) or head.numel() != channels:
            raise CheckpointError(f"{path} does not hold the heads of LPIPS-{net}: install the package again.")
        heads.append(head.flatten())
    return heads
