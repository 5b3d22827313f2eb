"""Domain-invariant perceptual loss: distance between instance-normalized VGG-16 features."""

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
from fastmunit.nn.networks import imagenet
from fastmunit.nn.networks.vgg import Vgg16
from fastmunit.systems.parts.losses import widen


class _Source(NamedTuple):
    state: dict[str, Tensor]
    preprocess: Callable[[Tensor], Tensor]
    origin: str


def preprocess_caffe(images: Tensor) -> Tensor:
    """Convert RGB in [-1, 1] to BGR in [0, 255] minus (103.939, 116.779, 123.680), as vgg16.weight expects."""
    bgr = images.flip(1)
    mean = bgr.new_tensor([103.939, 116.779, 123.680]).view(1, 3, 1, 1)
    return (bgr + 1) * 127.5 - mean


class PerceptualLoss(nn.Module):
    """mean (IN(φ(preprocess(x))) - IN(φ(preprocess(y))))², φ = VGG-16 relu5_3, IN without parameters, eps 1e-5.

    x and y are (N, 3, H, W) in [-1, 1] with at least 16 × 16 pixels. The weights are frozen and not part of a
    checkpoint.
    Source: MUNIT paper, section 5.1, "domain-invariant perceptual loss".

    Args:
        folder: Folder of a public run with models/vgg16.weight. Without that file, the weights are
            $FASTMUNIT_WEIGHTS/vgg16_features*.pth or, if there is none, torchvision's download.

    Raises:
        CheckpointError: If no weights can be found, or the file does not fit VGG-16.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            vgg = Vgg16()
        source = _find_weights(folder)
        try:
            vgg.load_state_dict(source.state)
        except (RuntimeError, TypeError, AttributeError) as error:  # the last two: not a state dict, or other keys
            raise CheckpointError(
                f"{source.origin} does not fit VGG-16 (keys conv1_1.weight … conv5_3.bias): "
                f"{' '.join(str(error).split())}"
            ) from error
        self._preprocess = source.preprocess
        self.vgg = vgg.eval().requires_grad_(False)

    @classmethod
    def without_weights(cls) -> PerceptualLoss:
        """Return a loss whose weights have no meaning, for plans of the memory that it takes."""
        loss = cls.__new__(cls)
        nn.Module.__init__(loss)
        loss._preprocess = imagenet.preprocess_torchvision
        loss.vgg = Vgg16().eval().requires_grad_(False)
        return loss

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(self._features(x), self._features(y))

    def _features(self, images: Tensor) -> Tensor:
        if images.shape[1] != 3:
            raise ValueError(f"the perceptual loss expected 3 channels, got {images.shape[1]}: set vgg_w to 0.")
        features = self.vgg(self._preprocess(widen(images)))
        return F.instance_norm(features, eps=1e-5)


def _find_weights(folder: str | os.PathLike[str] | None) -> _Source:
    if folder is not None:
        path = Path(folder) / "models" / "vgg16.weight"
        if path.is_file():
            return _Source(load_tensors(path), preprocess_caffe, str(path))
    try:
        state = imagenet.convolution_weights("vgg16")
    except imagenet.WeightsNotFoundError as error:
        raise CheckpointError(
            f"vgg_w > 0: {error} Or give the public trainer's models/vgg16.weight through vgg_model_path, or set "
            "vgg_w to 0."
        ) from error
    names = [name for name, _ in Vgg16().named_children()]
    layers = dict(zip(dict.fromkeys(key.split(".")[0] for key in state), names, strict=True))
    renamed = {f"{layers[key.split('.')[0]]}.{key.split('.')[1]}": value for key, value in state.items()}
    return _Source(renamed, imagenet.preprocess_torchvision, "torchvision's VGG-16")
