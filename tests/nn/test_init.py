"""Weight initialization by name."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fastmunit.nn.layers.blocks import Conv2dBlock
from fastmunit.nn.layers.init import weights_init


@pytest.mark.parametrize(
    ("name", "std"),
    [
        ("gaussian", 0.02),
        ("xavier", math.sqrt(2) * math.sqrt(2 / (64 * 9 + 128 * 9))),
        ("kaiming", math.sqrt(2 / (64 * 9))),
    ],
)
def test_standard_deviations(name: str, std: float) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(64, 128, 3)
    conv.apply(weights_init(name))
    assert float(conv.weight.detach().std()) == pytest.approx(std, rel=0.02)
    assert abs(float(conv.weight.detach().mean())) < 0.03 * std
    assert not conv.bias.detach().any()


def test_orthogonal() -> None:
    linear = nn.Linear(64, 32)
    linear.apply(weights_init("orthogonal"))
    product = linear.weight @ linear.weight.t()
    torch.testing.assert_close(product, 2 * torch.eye(32), rtol=1e-5, atol=1e-5)


def test_default_keeps_weights_and_clears_biases() -> None:
    conv = nn.Conv2d(3, 4, 3)
    weight = conv.weight.detach().clone()
    conv.apply(weights_init("default"))
    assert torch.equal(conv.weight, weight)
    assert not conv.bias.detach().any()


def test_spectral_norm_layers_are_not_initialized() -> None:
    block = Conv2dBlock(3, 4, 3, 1, norm="sn")
    before = {name: value.clone() for name, value in block.state_dict().items()}
    block.apply(weights_init("kaiming"))
    for name, value in block.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match="use one of gaussian"):
        weights_init("he")
