"""Backbones with shared random weights, and ImageNet's where a folder with them is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from fastmunit.nn.networks import imagenet


@pytest.fixture(scope="session")
def weights() -> Path:
    """The folder that FASTMUNIT_WEIGHTS names."""
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
                # Features of the size of trained ones, at every depth.
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
