"""Blocks that hand on padded maps, against the plain chain of layers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastmunit import functional
from fastmunit.nn.fused.norm_act_pad import Pad, PaddedMap, fused_form
from fastmunit.nn.layers.blocks import AdaINParameters, Conv2dBlock, ResBlock, ResBlocks, run_blocks

MODES = {"reflect": "reflect", "replicate": "replicate", "zero": "constant"}
IMPLEMENTATIONS: list[functional.Implementation] = ["reference", "auto"]


def plain(block: Conv2dBlock, x: Tensor) -> Tensor:
    """The layers of a block one by one, as the public code runs them."""
    x = F.pad(x, (block.pad.pixels,) * 4, mode=MODES[block.pad.mode])
    x = block.conv(x)
    if block.norm is not None:
        x = block.norm(x)
    return x if block.activation is None else block.activation(x)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("pad_type", ["reflect", "replicate", "zero"])
@pytest.mark.parametrize("activation", ["relu", "lrelu", "prelu", "selu", "tanh", "none"])
@pytest.mark.parametrize("norm", ["none", "bn", "in", "ln"])
def test_chain_equals_layers(
    implementation: functional.Implementation, pad_type: str, activation: str, norm: str
) -> None:
    first = Conv2dBlock(3, 4, 7, 1, 3, norm=norm, activation=activation, pad_type=pad_type).double()
    second = Conv2dBlock(4, 5, 4, 2, 1, norm=norm, activation=activation, pad_type=pad_type).double()
    x = torch.randn(2, 3, 8, 9, dtype=torch.float64, requires_grad=True)
    expected = plain(second, plain(first, x))
    upstream = torch.randn_like(expected)
    (expected_gradient,) = torch.autograd.grad(expected, x, upstream)
    with functional.use_implementation(implementation):
        result = run_blocks([first, second], x, pad=Pad(2, "replicate"))
        (gradient,) = torch.autograd.grad(result.interior, x, upstream)
    torch.testing.assert_close(result.interior, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(result.padded, F.pad(expected, (2,) * 4, mode="replicate"), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_one_buffer_between_residual_blocks(implementation: functional.Implementation) -> None:
    blocks = ResBlocks(3, 4, norm="in", activation="relu", pad_type="reflect").double()
    x = torch.randn(2, 4, 6, 7, dtype=torch.float64)
    expected = x
    for block in blocks.model:
        expected = expected + plain(block.model[1], plain(block.model[0], expected))
    with functional.use_implementation(implementation):
        torch.testing.assert_close(blocks(x), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("as_pair", [False, True])
def test_adain_residual_block_is_the_layer(implementation: functional.Implementation, as_pair: bool) -> None:
    block = ResBlock(4, norm="adain", activation="relu", pad_type="reflect").double()
    x = torch.randn(2, 4, 6, 5, dtype=torch.float64)
    parameters = torch.randn(2, 16, dtype=torch.float64)
    expected = block(x, AdaINParameters(parameters))
    bias_first, weight_first, bias_second, weight_second = parameters.chunk(4, dim=1)
    convolutions = tuple((layer.conv.weight, layer.conv.bias) for layer in block.model)
    padded, interior = functional.adain_residual_block(
        (F.pad(x, (1,) * 4, mode="reflect"), x) if as_pair else x,
        convolutions,  # type: ignore[arg-type]
        ((weight_first, bias_first), (weight_second, bias_second)),
        pad=1,
        implementation=implementation,
    )
    torch.testing.assert_close(interior, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(padded, F.pad(expected, (1,) * 4, mode="reflect"), rtol=1e-10, atol=1e-12)


def test_adain_residual_block_refuses_even_kernels() -> None:
    weight = torch.rand(2, 2, 4, 4)
    style = (torch.rand(1, 2), torch.rand(1, 2))
    with pytest.raises(ValueError, match="odd square kernel"):
        functional.adain_residual_block(torch.rand(1, 2, 8, 8), ((weight, None), (weight, None)), (style, style))


@pytest.mark.parametrize("activation", [nn.PReLU(), nn.SELU(), nn.Tanh()])
def test_layers_that_the_kernels_do_not_know_run_apart(activation: nn.Module) -> None:
    assert fused_form(None, activation) is None
    assert fused_form(nn.BatchNorm2d(3), None) is None
    assert fused_form(None, nn.ReLU()) is not None


@pytest.mark.parametrize("norm", ["none", "ln"])
@pytest.mark.parametrize(
    "register", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"]
)
def test_hooks_of_a_convolution_are_called(register: str, norm: str) -> None:
    """Also where the bias goes into the op, and where the convolution is computed unshuffled."""
    block = Conv2dBlock(3, 4, 5, 1, 2, norm=norm, activation="relu", pad_type="reflect").double()
    x = torch.randn(1, 3, 6, 7, dtype=torch.float64, requires_grad=True)
    expected = block.run_upsampled(PaddedMap(x, x)).interior, block(x)
    calls: list[int] = []
    getattr(block.conv, register)(lambda *_: calls.append(1))
    results = block.run_upsampled(PaddedMap(x, x)).interior, block(x)
    sum(result.sum() for result in results).backward()
    assert len(calls) == 2
    torch.testing.assert_close(results, expected)


def test_a_subclass_of_the_convolution_is_called() -> None:
    class Doubled(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    block = Conv2dBlock(3, 4, 5, 1, 2, norm="none", activation="relu", pad_type="reflect")
    x = torch.randn(1, 3, 6, 7)
    expected = [2 * block.run_upsampled(PaddedMap(x, x)).interior, 2 * block(x)]
    block.conv.__class__ = Doubled
    torch.testing.assert_close([block.run_upsampled(PaddedMap(x, x)).interior, block(x)], expected)
