"""Feature vectors of images, for distances between sets of images."""

from __future__ import annotations

import os
from typing import Literal

import torch
from torch import Tensor, nn

from fastmunit.errors import FastmunitError
from fastmunit.metrics.images import check_images
from fastmunit.nn.networks import imagenet

FeatureName = Literal["AlexNet", "VGG16"]

_BACKBONES: dict[FeatureName, imagenet.Backbone] = {"AlexNet": "alexnet", "VGG16": "vgg16"}
# Number of modules of torchvision's `features` up to the last ReLU, its channels, and the smallest side of an image.
_DEPTHS: dict[FeatureName, int] = {"AlexNet": 12, "VGG16": 30}
_CHANNELS: dict[FeatureName, int] = {"AlexNet": 256, "VGG16": 512}
_MIN_SIDE: dict[FeatureName, int] = {"AlexNet": 31, "VGG16": 16}


class FeatureNet(nn.Module):
    """A network from images (N, 3, H, W) in [-1, 1] to features (N, d): the last ReLU, averaged over the image.

    Images keep their size. d is 256 for AlexNet (conv5) and 512 for VGG16 (conv5_3). The names of distances in these
    features include the name of the network: they are not comparable with FID and KID, which use Inception-v3.

    Args:
        name: "AlexNet" or "VGG16".
        weights: Folder with the weights; see `imagenet.convolution_weights`.
        backbone: Network instead of ImageNet's, in the layout of torchvision's `features`.

    Raises:
        CheckpointError: If the weights are missing.
    """

    def __init__(
        self,
        name: FeatureName = "AlexNet",
        weights: str | os.PathLike[str] | None = None,
        backbone: nn.Sequential | None = None,
    ) -> None:
        super().__init__()
        if name not in _BACKBONES:
            raise FastmunitError(f"expected a feature network {' or '.join(_BACKBONES)}, got {name}.")
        self.name: FeatureName = name
        self.num_features = _CHANNELS[name]
        whole = imagenet.features(_BACKBONES[name], weights) if backbone is None else backbone
        self.layers = whole[: _DEPTHS[name]]
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the features. Raise DataError for images that are gray or small, or contain NaN."""
        check_images(images, f"the feature network {self.name}", _MIN_SIDE[self.name])
        maps: Tensor = self.layers(imagenet.preprocess_torchvision(images.float()))
        return maps.mean(dim=(2, 3))


@torch.inference_mode()
def features_of(network: nn.Module, images: Tensor, batch_size: int = 32) -> Tensor:
    """Return features (N, d) of images (N, 3, H, W), computed in batches, on the CPU."""
    return torch.cat([network(batch).cpu() for batch in images.split(batch_size)])
