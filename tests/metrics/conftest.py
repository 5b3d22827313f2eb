"""Test images, backbones with random weights, and ImageNet weights if a folder with them is named."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fastmunit.config import Config
from fastmunit.nn.networks import imagenet


@pytest.fixture(scope="session")
def weights() -> Path:
    """Return the folder that FASTMUNIT_WEIGHTS names."""
    folder = os.environ.get(imagenet.WEIGHTS_VARIABLE)
    if not folder:
        pytest.skip(f"needs ImageNet weights in a folder named by {imagenet.WEIGHTS_VARIABLE}")
    return Path(folder)


def random_backbone(name: imagenet.Backbone) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = imagenet.untrained_features(name)
        generator = torch.Generator().manual_seed(0)
        for module in network:
            if isinstance(module, nn.Conv2d):
                # The features of every layer have the scale of trained ones.
                fan_in = module.weight[0].numel()
                with torch.no_grad():
                    module.weight.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
                    module.bias.normal_(0, 0.1, generator=generator)
    return network


@pytest.fixture(scope="session")
def alexnet() -> nn.Sequential:
    return random_backbone("alexnet")


@pytest.fixture(scope="session")
def vgg16() -> nn.Sequential:
    return random_backbone("vgg16")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write squares on white, in pairs, 12 per folder."""
    root = tmp_path_factory.mktemp("squares")
    random = np.random.default_rng(0)
    for part in ("trainA", "trainB", "testA", "testB"):
        (root / part).mkdir()
        for k in range(12):
            pixels = np.full((40, 40, 3), 255, np.uint8)
            top, left = random.integers(2, 20, 2)
            pixels[top : top + 16, left : left + 16] = random.integers(0, 200, 3)
            Image.fromarray(pixels).save(root / part / f"{k:02d}.png")
    return root


@pytest.fixture
def config(folder: Path) -> Config:
    return Config.from_dict({"data_root": str(folder), "new_size": 40, "crop_image_height": 40, "crop_image_width": 40})
