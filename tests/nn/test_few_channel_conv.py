"""Convolutions in 2x2 blocks of pixels against plain ones."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fastmunit import functional
from fastmunit.nn.fused.few_channel_conv import conv2d_few_in, conv2d_few_out, has_few_inputs, has_few_outputs
from fastmunit.nn.layers.blocks import Conv2dBlock


def gradients(y: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    dy = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(1))
    return list(torch.autograd.grad(y, inputs, dy))


@settings(deadline=None, max_examples=30)
@given(
    batch=st.integers(1, 2), channels=st.integers(1, 5), few=st.integers(1, 4), half=st.integers(1, 4),
    width=st.integers(1, 5), k=st.sampled_from([1, 3, 5, 7]), bias=st.booleans(), last=st.booleans(),
)  # fmt: skip
def test_both_directions_in_float64(
    batch: int, channels: int, few: int, half: int, width: int, k: int, bias: bool, last: bool
) -> None:
    torch.manual_seed(0)
    form = torch.channels_last if last else torch.contiguous_format
    for out, into, function in ((few, channels, conv2d_few_out), (channels, few, conv2d_few_in)):
        grow = k - 1 if function is conv2d_few_out else 0
        size = (2 * half + grow, 2 * width + grow) if grow else (2 * (half + k), 2 * (width + k))
        x = torch.randn(batch, into, *size, dtype=torch.float64).contiguous(memory_format=form).requires_grad_()
        weight = torch.randn(out, into, k, k, dtype=torch.float64, requires_grad=True)
        b = torch.randn(out, dtype=torch.float64, requires_grad=True) if bias else None
        inputs = [x, weight] + ([b] if b is not None else [])
        expected = F.conv2d(x, weight, b)
        y = function(x, weight, b)
        torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
        for ours, theirs in zip(gradients(y, inputs), gradients(expected, inputs), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("into", "out"), [(64, 3), (3, 8)])
def test_a_block_uses_them_and_agrees_with_the_reference(into: int, out: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    block = Conv2dBlock(into, out, 7, 1, 3, norm="none", activation="tanh", pad_mode="reflect").double()
    x = torch.randn(2, into, 12, 14, dtype=torch.float64, requires_grad=True)
    results = []
    for implementation in ("reference", "auto"):
        with functional.use_implementation(implementation):  # type: ignore[arg-type]
            y = block(x)
        results.append([y, *gradients(y, [x, *block.parameters()])])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


def test_supported_convolutions() -> None:
    image = nn.Conv2d(8, 3, 7)
    assert has_few_outputs(image, torch.zeros(1, 8, 18, 20))
    assert not has_few_outputs(image, torch.zeros(1, 8, 19, 20)), "odd height"
    assert not has_few_outputs(nn.Conv2d(8, 3, 3), torch.zeros(1, 8, 18, 20)), "small kernel"
    assert not has_few_outputs(nn.Conv2d(8, 3, 7, stride=2), torch.zeros(1, 8, 18, 20))
    assert not has_few_outputs(nn.Conv2d(8, 5, 7), torch.zeros(1, 8, 18, 20))
    assert not has_few_outputs(image, torch.zeros(1, 8, 18, 20, device="meta"))
    first = nn.Conv2d(3, 8, 7)
    assert has_few_inputs(first, torch.zeros(1, 3, 18, 20, requires_grad=True))
    assert not has_few_inputs(first, torch.zeros(1, 3, 18, 20)), "an image needs no gradient"


def test_under_autocast_it_is_the_plain_convolution_rounded() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 3, 32, 32, requires_grad=True)
    weight = (torch.randn(16, 3, 7, 7) / 12).requires_grad_()
    found = []
    for function in (conv2d_few_in, F.conv2d):
        with torch.autocast("cpu", torch.bfloat16):
            y = function(x, weight, None)
        assert y.dtype == torch.bfloat16
        found.append([y, *gradients(y, [x, weight])])
    for ours, theirs in zip(*found, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(
            ours.float(), theirs.float(), rtol=2e-2, atol=2e-2 * float(theirs.detach().abs().max())
        )
