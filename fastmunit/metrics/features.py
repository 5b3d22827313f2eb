"""Feature vectors of images, for distances between sets of images."""

from __future__ import annotations

import os
from typing import Literal

import torch
from torch import Tensor, nn

from fastmunit.errors import FastmunitError
from fastmunit.metrics.checks import check_images
from fastmunit.nn.networks import imagenet

FeatureName = Literal["AlexNet", "VGG16"]

_BACKBONES: dict[FeatureName, imagenet.Backbone] = {"AlexNet": "alexnet", "VGG16": "vgg16"}
# Modules of torchvision's `features` up to the last ReLU, its channels, and the smallest side of an image.
_DEPTHS: dict[FeatureName, int] = {"AlexNet": 12, "VGG16": 30}
_CHANNELS: dict[FeatureName, int] = {"AlexNet": 256, "VGG16": 512}
_LEAST: dict[FeatureName, int] = {"AlexNet": 31, "VGG16": 16}


class FeatureNet(nn.Module):
    """Images (N, 3, H, W) in [-1, 1] to (N, d): the last ReLU's features, averaged over the image, at its own size.

    d = 256 for AlexNet (conv5), 512 for VGG16 (conv5_3). Distances measured in it carry its name: they are not
    comparable with FID and KID, which use Inception-v3.

    Args:
        name: "AlexNet" or "VGG16".
        weights: folder with the network's file, see `imagenet.convolution_weights`.
        backbone: use this instead of ImageNet's (torchvision's `features` layout).

    Raises:
        CheckpointError: the weights are not there.
    """

    def __init__(
        self,
        name: FeatureName = "AlexNet",
        weights: str | os.PathLike[str] | None = None,
        backbone: nn.Sequential | None = None,
    ) -> None:
        super().__init__()
        if name not in _BACKBONES:
            raise FastmunitError(f"feature networks are {' and '.join(_BACKBONES)}, not {name}.")
        self.name: FeatureName = name
        self.num_features = _CHANNELS[name]
        whole = imagenet.features(_BACKBONES[name], weights) if backbone is None else backbone
        self.layers = whole[: _DEPTHS[name]]
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Features. Raises DataError for grey or small images and NaN."""
        check_images(images, f"the feature network {self.name}", _LEAST[self.name])
        found: Tensor = self.layers(imagenet.preprocess_torchvision(images.float()))
        return found.mean(dim=(2, 3))


@torch.inference_mode()
def features_of(network: nn.Module, images: Tensor, batch_size: int = 32) -> Tensor:
    """Features (N, d) of images (N, 3, H, W), in batches, on the CPU."""
    return torch.cat([network(batch).cpu() for batch in images.split(batch_size)])
