"""Domain-invariant perceptual loss: distance of instance-normalised VGG-16 features."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastmunit.errors import CheckpointError
from fastmunit.files import load_tensors
from fastmunit.models.losses import widen
from fastmunit.nn.vgg import Vgg16

WEIGHTS_VARIABLE = "FASTMUNIT_WEIGHTS"
"""Environment variable naming a folder with vgg16_features*.pth in torchvision's layout."""

_TORCHVISION_LAYERS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)


class _Source(NamedTuple):
    state: dict[str, Tensor]
    preprocess: Callable[[Tensor], Tensor]
    origin: str


def preprocess_caffe(images: Tensor) -> Tensor:
    """RGB in [-1, 1] to BGR in [0, 255] minus (103.939, 116.779, 123.680): for the public trainer's vgg16.weight."""
    bgr = images.flip(1)
    mean = bgr.new_tensor([103.939, 116.779, 123.680]).view(1, 3, 1, 1)
    return (bgr + 1) * 127.5 - mean


def preprocess_torchvision(images: Tensor) -> Tensor:
    """RGB in [-1, 1] to ImageNet-normalised RGB: for torchvision's weights."""
    mean = images.new_tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = images.new_tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    return ((images + 1) / 2 - mean) / std


class PerceptualLoss(nn.Module):
    """mean (IN(φ(preprocess(x))) - IN(φ(preprocess(y))))², φ = VGG-16 relu5_3, IN without parameters, eps 1e-5.

    x, y: (N, 3, H, W) in [-1, 1], sides of at least 16 pixels. The weights are frozen and not part of a checkpoint.
    Source: MUNIT paper, section 5.1, "domain-invariant perceptual loss".

    Args:
        folder: a run folder of the public trainer, whose models/vgg16.weight is used when it is there. Otherwise
            $FASTMUNIT_WEIGHTS/vgg16_features*.pth, otherwise torchvision's download.

    Raises:
        CheckpointError: no weights can be found, or the file found does not fit VGG-16.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            vgg = Vgg16()
        source = _find_weights(folder)
        try:
            vgg.load_state_dict(source.state)
        except RuntimeError as error:
            raise CheckpointError(
                f"{source.origin} does not fit VGG-16 (keys conv1_1.weight … conv5_3.bias): "
                f"{' '.join(str(error).split())}"
            ) from error
        self._preprocess = source.preprocess
        self.vgg = vgg.eval().requires_grad_(False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(self._features(x), self._features(y))

    def _features(self, images: Tensor) -> Tensor:
        if images.shape[1] != 3:
            raise ValueError(f"the perceptual loss needs 3 channels, got {images.shape[1]}: set vgg_w to 0.")
        features = self.vgg(self._preprocess(widen(images)))
        return F.instance_norm(features, eps=1e-5)


def _find_weights(folder: str | os.PathLike[str] | None) -> _Source:
    if folder is not None:
        path = Path(folder) / "models" / "vgg16.weight"
        if path.is_file():
            return _Source(load_tensors(path), preprocess_caffe, str(path))
    weights_folder = os.environ.get(WEIGHTS_VARIABLE)
    if weights_folder:
        found = sorted(Path(weights_folder).glob("vgg16_features*.pth"))
        if found:
            return _Source(_from_torchvision(load_tensors(found[0]), found[0]), preprocess_torchvision, str(found[0]))
    from torchvision.models import VGG16_Weights

    weights = VGG16_Weights.IMAGENET1K_V1
    try:
        state = weights.get_state_dict(progress=True, check_hash=True)
    except OSError as error:
        raise CheckpointError(
            "vgg_w > 0 needs VGG-16 weights, and torchvision's could not be downloaded. Put torchvision's VGG-16 "
            f"features as vgg16_features.pth into a folder and set {WEIGHTS_VARIABLE} to it, or give the public "
            "trainer's models/vgg16.weight through vgg_model_path, or set vgg_w to 0."
        ) from error
    return _Source(_from_torchvision(state, Path(weights.url)), preprocess_torchvision, weights.url)


def _from_torchvision(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    names = [name for name, _ in Vgg16().named_children()]
    renamed = {}
    for name, layer in zip(names, _TORCHVISION_LAYERS, strict=True):
        for kind in ("weight", "bias"):
            candidates = [key for key in (f"features.{layer}.{kind}", f"{layer}.{kind}") if key in state]
            if not candidates:
                raise CheckpointError(f"{path} has no features.{layer}.{kind}: it is not torchvision's VGG-16.")
            renamed[f"{name}.{kind}"] = state[candidates[0]].float()
    return renamed
