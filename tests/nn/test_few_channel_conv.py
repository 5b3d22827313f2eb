"""Convolutions in other forms, such as blocks of 2x2 pixels, against plain ones."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fastmunit import functional
from fastmunit.nn.fused import few_channel_conv
from fastmunit.nn.fused.averaged_conv import averaged, convolve_and_average
from fastmunit.nn.fused.block_conv import blocks_of, conv2d_few_in, conv2d_few_out
from fastmunit.nn.fused.few_channel_conv import convolve, has_few_inputs, has_few_outputs
from fastmunit.nn.fused.iteration_cache import IterationCache, iteration_cache
from fastmunit.nn.fused.padded_channel_conv import conv2d_padded_channels
from fastmunit.nn.layers.blocks import Conv2dBlock


def gradients(y: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    # Drawn in one dtype: in torch 2.10, a seed gives other numbers in bfloat16 than in float32.
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
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


def test_gradients_are_the_same_under_inductor() -> None:
    """Inductor chooses strides of gradients, which then differ from those that it has traced."""
    torch._dynamo.reset()
    pooled = nn.Conv2d(8, 6, 3, padding=1)

    def forms(image: Tensor, x: Tensor, from_image: Tensor, to_image: Tensor) -> Tensor:
        few = conv2d_few_in(image, from_image, None).square().mean() + conv2d_few_out(x, to_image, None).square().mean()
        return few + convolve_and_average(pooled, x, pooled.bias).square().mean()

    torch.manual_seed(0)
    shapes = ((2, 3, 14, 18), (2, 8, 16, 20), (16, 3, 5, 5), (3, 8, 7, 7))
    inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]
    wrt = [*inputs, pooled.weight]
    expected = torch.autograd.grad(forms(*inputs), wrt)
    plainest = {"compile_threads": 1, "cpp.vec_isa_ok": False}  # compiles much faster, with the same strides
    found = torch.autograd.grad(torch.compile(forms, fullgraph=True, options=plainest)(*inputs), wrt)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


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


@pytest.mark.parametrize("channels", [8, 12, 16])
@pytest.mark.parametrize("to_image", [False, True])
def test_narrow_networks_in_bfloat16(to_image: bool, channels: int) -> None:
    """Libraries have kernels of their own for few channels: their numbers are right as well."""
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, 3, 7) if to_image else nn.Conv2d(3, channels, 7)
    x = torch.randn(1, conv.in_channels, 22, 20, requires_grad=True)
    inputs = [x, *conv.parameters()]
    plain = conv(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = convolve(conv, x, conv.bias)
    for ours, exact in zip([y, *gradients(y, inputs)], [plain, *gradients(plain, inputs)], strict=True):
        scale = float(exact.detach().abs().max())
        torch.testing.assert_close(ours.float(), exact, rtol=0, atol=2e-2 * scale)


@settings(deadline=None, max_examples=30)
@given(
    batch=st.integers(0, 2), into=st.integers(1, 9), out=st.integers(1, 9), height=st.integers(4, 7),
    k=st.sampled_from([1, 3, 4]), stride=st.integers(1, 2), padding=st.integers(0, 2), bias=st.booleans(),
    last=st.booleans(), needs_x=st.booleans(),
)  # fmt: skip
def test_padded_channels_in_float64(
    batch: int, into: int, out: int, height: int, k: int, stride: int, padding: int, bias: bool, last: bool,
    needs_x: bool,
) -> None:  # fmt: skip
    torch.manual_seed(0)
    form = torch.channels_last if last else torch.contiguous_format
    x = torch.randn(batch, into, height, height + 2, dtype=torch.float64).contiguous(memory_format=form)
    weight = torch.randn(out, into, k, k, dtype=torch.float64).contiguous(memory_format=form).requires_grad_()
    b = torch.randn(out, dtype=torch.float64, requires_grad=True) if bias else None
    inputs = [weight] + ([b] if b is not None else []) + ([x.requires_grad_()] if needs_x else [])
    expected = F.conv2d(x, weight, b, stride, padding)
    y = conv2d_padded_channels(x, weight, b, (stride, stride), (padding, padding))
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(gradients(y, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


def test_padded_channels_under_autocast_and_beside_infinities() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 3, 9, 8, requires_grad=True)
    weight = (torch.randn(5, 3, 3, 3) / 5).requires_grad_()
    found = []
    for padded in (True, False):
        with torch.autocast("cpu", torch.bfloat16):
            y = conv2d_padded_channels(x, weight, None, (1, 1), (1, 1)) if padded else F.conv2d(x, weight, padding=1)
        assert y.dtype == torch.bfloat16
        found.append([y, *gradients(y, [x, weight])])
    for ours, theirs in zip(*found, strict=True):
        assert ours.dtype == theirs.dtype
        scale = float(theirs.detach().abs().max())
        torch.testing.assert_close(ours.float(), theirs.float(), rtol=2e-2, atol=1e-2 * scale)
    extreme = torch.full((1, 1, 4, 4), float("inf"))
    ones = torch.ones(1, 1, 3, 3, requires_grad=True)
    y = conv2d_padded_channels(extreme, ones, None, (1, 1), (0, 0))
    assert y.shape == (1, 1, 2, 2) and bool(y.isposinf().all()), "an infinity times a zero of the padding is no product"


def test_a_map_with_enough_channels_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """An iteration cache holds what it returns, so a map that needs no padding must not be a shared value."""
    monkeypatch.setattr(few_channel_conv, "_device_type", lambda tensor: "cuda")
    conv, cache = nn.Conv2d(8, 3, 3), IterationCache()
    x = torch.randn(1, 8, 6, 6, dtype=torch.bfloat16)
    kept = weakref.ref(x)
    with torch.autocast("cpu", torch.bfloat16), iteration_cache(cache), torch.no_grad():
        y = few_channel_conv.convolve(conv, x, conv.bias)
    assert y.shape == (1, 3, 4, 4)
    del x
    assert kept() is None


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_averaged_convolution_in_float64(bias: bool, last: bool) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 5, 3, 1, 1, bias=bias).double()
    x = torch.randn(2, 3, 8, 6, dtype=torch.float64, requires_grad=True)
    if last:
        conv, x = conv.to(memory_format=torch.channels_last), x.detach().contiguous(memory_format=torch.channels_last)
        x.requires_grad_()
    expected = F.avg_pool2d(conv(x), 2)
    y = convolve_and_average(conv, x, conv.bias)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    inputs = [x, *conv.parameters()]
    for ours, theirs in zip(gradients(y, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("form", [averaged, blocks_of])
def test_another_form_of_a_weight_is_shared_and_follows_it(form: Callable[[Tensor], Tensor]) -> None:
    weight = torch.randn(3, 2, 3, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        with iteration_cache(IterationCache()):
            first, second = form(weight), form(weight)
            assert first.dtype == torch.bfloat16 and first.data_ptr() == second.data_ptr()
            with torch.no_grad():
                weight.mul_(2)
            third = form(weight)
            frozen = form(weight.detach())
        alone = form(weight)
    assert torch.equal(third, alone) and torch.equal(third, 2 * first) and not frozen.requires_grad
    (first + second).float().sum().backward()
    twice, weight.grad = weight.grad, None
    alone.float().sum().backward()
    assert twice is not None and weight.grad is not None and torch.equal(twice, 2 * weight.grad)
    torch.testing.assert_close(weight.grad, torch.full_like(weight, weight.grad.mean().item()))
