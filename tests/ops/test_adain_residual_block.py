"""adain_residual_block: its formula, several styles of one content code, and what it stores for backward."""

import pytest
import torch
import torch.nn.functional as F

from fastmunit import functional
from fastmunit.functional.recompute import recompute
from fastmunit.nn.layers.blocks import AdaINParameters, ResBlock
from fastmunit.ops.availability import unavailable
from fastmunit.testing import make_map, saved_bytes

NO_NATIVE = unavailable("native", "cpu", "fused_norm")
needs_native = pytest.mark.skipif(NO_NATIVE is not None, reason=str(NO_NATIVE))
each_implementation = pytest.mark.parametrize(
    "implementation", [pytest.param("native", marks=needs_native), "reference"]
)
each_pad_mode = pytest.mark.parametrize("pad_mode", ["reflect", "replicate", "zero"])


def random(*shape, seed, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def arguments(k=3, batch=2, dtype=torch.float64):
    convolutions = tuple((random(4, 4, k, k, seed=s, dtype=dtype), random(4, seed=9 + s, dtype=dtype)) for s in (1, 2))
    styles = tuple((random(batch, 4, seed=s, dtype=dtype), random(batch, 4, seed=9 + s, dtype=dtype)) for s in (3, 4))
    return convolutions, styles


def pad_map(x, pad, pad_mode):
    return F.pad(x, (pad,) * 4, mode="constant" if pad_mode == "zero" else pad_mode)


def formula(x, convolutions, styles, pad_mode):
    """x + AdaIN(conv(leaky_relu(AdaIN(conv(x)))))"""
    y = x
    for (kernel, shift), (weight, bias), activation in zip(convolutions, styles, (F.leaky_relu, None), strict=True):
        y = F.conv2d(pad_map(y, kernel.shape[-1] // 2, pad_mode), kernel, shift)
        y = (y - y.mean((2, 3), keepdim=True)) / (y.var((2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
        y = y * weight[..., None, None] + bias[..., None, None]
        y = y if activation is None else activation(y, 0.3)
    return x + y


@each_implementation
@each_pad_mode
@pytest.mark.parametrize("as_pair", [False, True])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_is_the_formula(k, as_pair, pad_mode, implementation):
    x, (convolutions, styles) = make_map((2, 4, 6, 5), torch.float64), arguments(k)
    padded, interior = functional.adain_residual_block(
        (pad_map(x, k // 2, pad_mode), x) if as_pair else x, convolutions, styles, activation="leaky_relu",
        negative_slope=0.3, pad=2, pad_mode=pad_mode, implementation=implementation,
    )  # fmt: skip
    expected = formula(x, convolutions, styles, pad_mode)
    torch.testing.assert_close(interior, expected)
    torch.testing.assert_close(padded, pad_map(expected, 2, pad_mode))


@each_implementation
@each_pad_mode
def test_one_content_code_in_several_styles(pad_mode, implementation):
    x, (convolutions, styles) = make_map((1, 4, 6, 5), torch.float64), arguments(batch=3)
    one, many = (
        functional.adain_residual_block(content, convolutions, styles, pad_mode=pad_mode, implementation=implementation)
        for content in (x, x.expand(3, -1, -1, -1))
    )
    torch.testing.assert_close(one[0], many[0])


def test_styles_of_one_dimension_are_refused():
    x, (convolutions, _) = make_map((2, 4, 6, 5)), arguments(dtype=torch.float32)
    style = (torch.ones(4), torch.zeros(4))
    with pytest.raises(ValueError, match=r"expected styles of shape \(N, C\), got \(4,\)"):
        functional.adain_residual_block(x, convolutions, (style, style))


def output_and_gradients(function, tensors):
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    y = function(*leaves)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), leaves)]


@needs_native
@each_pad_mode
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_has_the_bits_of_the_residual_block_of_the_networks(dtype, pad_mode):
    block = ResBlock(4, norm="adain", activation="relu", pad_mode=pad_mode).to(dtype)
    x, parameters = make_map((2, 4, 6, 5), dtype), random(2, 16, seed=1, dtype=torch.float32)

    def op(x, parameters):
        styles = AdaINParameters(parameters)
        convolutions = tuple((layer.conv.weight, None) for layer in block.model)
        padded = functional.bias_act_pad(x, pad=block.model[0].pad.pixels, pad_mode=pad_mode)[0]
        return functional.adain_residual_block(
            (padded, x), convolutions, (styles.take(4), styles.take(4)), pad_mode=pad_mode
        )[1]

    def layers(x, parameters):
        return block(x, AdaINParameters(parameters))

    for ours, theirs in zip(*(output_and_gradients(f, (x, parameters)) for f in (op, layers)), strict=True):
        assert torch.equal(ours, theirs)


@needs_native
def test_backward_recomputes_the_map_between_the_convolutions():
    x, (convolutions, styles) = make_map((2, 4, 32, 32)), arguments(dtype=torch.float32)

    def block(x):
        return functional.adain_residual_block(x, convolutions, styles)[1]

    stored = []
    results = []
    for enabled in (False, True):
        with recompute(enabled):
            leaf = x.detach().requires_grad_()
            stored.append(saved_bytes(lambda leaf=leaf: block(leaf), exclude=[leaf]))
            results.append(output_and_gradients(block, [x]))
    assert stored[0] - stored[1] == 4 * 2 * 4 * 34 * 34
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
