"""Chains of fused ops against the plain sequence of layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastmunit import functional
from fastmunit.nn.fused.chain import Chain, plan
from fastmunit.nn.fused.iteration_cache import IterationCache, iteration_cache
from fastmunit.nn.fused.layers import (
    Activation,
    AveragePool,
    Convolution,
    Layer,
    Norm,
    Other,
    Pad,
    ResidualEnd,
    ResidualStart,
    Upsample,
)
from fastmunit.nn.fused.steps import AdaINBlock, Call, Convolve, Keep, Write
from fastmunit.nn.layers.blocks import AdaINParameters, Conv2dBlock, ResBlock, ResBlocks, chain_of
from fastmunit.nn.layers.norm import AdaptiveInstanceNorm2d

MODES = {"reflect": "reflect", "replicate": "replicate", "zero": "constant"}
IMPLEMENTATIONS: list[functional.Implementation] = ["reference", "auto"]


def plain(block: Conv2dBlock, x: Tensor) -> Tensor:
    """Run the layers of a block one by one, as the public code does."""
    x = F.pad(x, (block.pad.pixels,) * 4, mode=MODES[block.pad.pad_mode])
    x = block.conv(x)
    if block.norm is not None:
        x = block.norm(x)
    return x if block.activation is None else block.activation(x)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("pad_mode", ["reflect", "replicate", "zero"])
@pytest.mark.parametrize("activation", ["relu", "lrelu", "prelu", "selu", "tanh", "none"])
@pytest.mark.parametrize("norm", ["none", "bn", "in", "ln"])
def test_chain_equals_layers(
    implementation: functional.Implementation, pad_mode: str, activation: str, norm: str
) -> None:
    first = Conv2dBlock(3, 4, 7, 1, 3, norm=norm, activation=activation, pad_mode=pad_mode).double()
    second = Conv2dBlock(4, 5, 4, 2, 1, norm=norm, activation=activation, pad_mode=pad_mode).double()
    x = torch.randn(2, 3, 8, 9, dtype=torch.float64, requires_grad=True)
    unpadded = plain(second, plain(first, x))
    padded = F.pad(unpadded, (2,) * 4, mode="replicate")
    for layers, expected in (([], unpadded), ([Pad(2, "replicate")], padded)):
        upstream = torch.randn_like(expected)
        (expected_gradient,) = torch.autograd.grad(expected, x, upstream, retain_graph=True)
        with functional.use_implementation(implementation):
            result = plan([*first.layers(), *second.layers(), *layers]).run(x)
            (gradient,) = torch.autograd.grad(result, x, upstream)
        torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_one_buffer_between_residual_blocks(implementation: functional.Implementation) -> None:
    blocks = ResBlocks(3, 4, norm="in", activation="relu", pad_mode="reflect").double()
    x = torch.randn(2, 4, 6, 7, dtype=torch.float64)
    expected = x
    for block in blocks.model:
        expected = expected + plain(block.model[1], plain(block.model[0], expected))
    with functional.use_implementation(implementation):
        torch.testing.assert_close(blocks(x), expected, rtol=1e-10, atol=1e-12)


def conv(padding: int = 0, size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(4, 4, size, padding=padding)


INSTANCE = Norm(nn.InstanceNorm2d(4), "instance")
RELU, PAD = Activation(nn.ReLU(True)), Pad(1, "reflect")

PLANS: dict[str, tuple[list[Layer], list[type]]] = {
    "pad of the input": ([PAD, Convolution(conv())], [Write, Convolve]),
    "norm, activation and next pad": ([Convolution(conv()), INSTANCE, RELU, PAD], [Convolve, Write]),
    "activation after a convolution": ([Convolution(conv()), RELU], [Convolve, Write]),
    "in-place activation of a map from elsewhere": ([RELU, PAD], [Call, Write]),
    "activation after an unknown norm": ([Convolution(conv()), Other(nn.BatchNorm2d(4)), RELU], [Convolve, Call, Call]),
    "residual block without padding": (
        [ResidualStart(), Convolution(conv(1)), INSTANCE, ResidualEnd()],
        [Keep, Convolve, Write],
    ),
    "residual that the op before writes": (
        [INSTANCE, ResidualStart(), PAD, Convolution(conv()), ResidualEnd()],
        [Write, Convolve, Write],
    ),
    "residual that a called layer could overwrite": (
        [INSTANCE, ResidualStart(), PAD, RELU, Convolution(conv()), ResidualEnd()],
        [Write, Keep, Write, Call, Convolve, Write],
    ),
    "upsampling convolution": ([Upsample(nn.Upsample(scale_factor=2)), PAD, Convolution(conv())], [Convolve]),
    "upsampling with another pad": (
        [Upsample(nn.Upsample(scale_factor=2)), PAD, Convolution(conv(size=5))],
        [Call, Write, Convolve],
    ),
    "average of a convolution": ([Convolution(conv(1)), AveragePool()], [Convolve]),
}


@pytest.mark.parametrize("case", PLANS)
def test_plan(case: str) -> None:
    layers, kinds = PLANS[case]
    assert [type(step) for step in plan(layers).steps] == kinds


def test_bias_is_left_to_the_next_op() -> None:
    def left_out(*after: Layer) -> str | None:
        return next(plan([Convolution(conv()), *after]).of(Convolve)).left_out

    assert left_out() is left_out(PAD) is left_out(Other(nn.Tanh())) is None
    assert left_out(Norm(None, "layer"), RELU) is None
    assert left_out(RELU) == left_out(RELU, PAD) == "added"
    assert left_out(INSTANCE) == left_out(INSTANCE, RELU) == left_out(Norm(None, "adain")) == "cancelled"


@pytest.mark.parametrize("pad_mode", ["reflect", "replicate", "zero"])
def test_adain_residual_blocks_run_the_public_function(pad_mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Tensor] = []
    original = functional.adain_residual_block

    def counted(x: tuple[Tensor, Tensor], *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        calls.append(x[1])
        return original(x, *args, **options)

    monkeypatch.setattr(functional, "adain_residual_block", counted)
    blocks = ResBlocks(2, 4, norm="adain", activation="lrelu", pad_mode=pad_mode)
    x, parameters = torch.randn(2, 4, 6, 5), torch.randn(2, 32)
    blocks(x, AdaINParameters(parameters))
    assert len(calls) == 2
    blocks.model[0].model[1].conv.register_forward_hook(lambda *_: None)
    blocks(x, AdaINParameters(parameters))
    assert len(calls) == 3, "the block with a hook must run step by step"


def adain_layers(first: nn.Module, activation: list[Layer], pad: Pad, eps: float, after: Pad) -> list[Layer]:
    norms = [AdaptiveInstanceNorm2d(4), AdaptiveInstanceNorm2d(4, eps=eps)]
    first_norm, second_norm = (Norm(norm, "adain", (torch.ones(1, 4), torch.zeros(1, 4))) for norm in norms)
    start: list[Layer] = [ResidualStart(), PAD, Convolution(first), first_norm, *activation]
    return [*start, pad, Convolution(conv()), second_norm, ResidualEnd(), after, Convolution(conv())]


@pytest.mark.parametrize(
    ("change", "merged"),
    [
        ({}, True),
        ({"activation": []}, True),
        ({"after": Pad(0)}, True),
        ({"after": Pad(1, "zero")}, False),
        ({"pad": Pad(1, "zero"), "after": Pad(1, "zero")}, True),
        ({"eps": 1e-3}, False),
        ({"first": nn.Conv2d(4, 4, 3, groups=2)}, False),
        ({"first": nn.Conv2d(4, 4, 3, dilation=2, padding=1)}, False),
        ({"activation": [RELU, Other(nn.Tanh())]}, False),
    ],
    ids=str,
)
def test_only_plain_adain_residual_blocks_are_merged(change: dict[str, Any], merged: bool) -> None:
    layers = adain_layers(**{"first": conv(), "activation": [RELU], "pad": PAD, "eps": 1e-5, "after": PAD, **change})
    assert any(isinstance(step, AdaINBlock) for step in plan(layers).steps) == merged


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("as_pair", [False, True])
def test_adain_residual_block_is_the_layer(implementation: functional.Implementation, as_pair: bool) -> None:
    block = ResBlock(4, norm="adain", activation="relu", pad_mode="reflect").double()
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


@pytest.mark.parametrize("activation", ["prelu", "selu", "tanh"])
def test_unknown_activations_are_called(activation: str) -> None:
    block = Conv2dBlock(3, 4, 3, 1, 1, norm="in", activation=activation, pad_mode="reflect")
    assert [type(step) for step in plan(block.layers()).steps] == [Write, Convolve, Write, Call]


def upsampled(block: Conv2dBlock, x: Tensor) -> Tensor:
    return chain_of([nn.Upsample(scale_factor=2), block]).run(x)


@pytest.mark.parametrize("norm", ["none", "ln"])
@pytest.mark.parametrize(
    "register", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"]
)
def test_hooks_of_a_convolution_are_called(register: str, norm: str) -> None:
    """This includes convolutions whose bias goes into the op, and those that are computed unshuffled."""
    block = Conv2dBlock(3, 4, 5, 1, 2, norm=norm, activation="relu", pad_mode="reflect").double()
    x = torch.randn(1, 3, 6, 7, dtype=torch.float64, requires_grad=True)
    expected = upsampled(block, x), block(x)
    calls: list[int] = []
    getattr(block.conv, register)(lambda *_: calls.append(1))
    results = upsampled(block, x), block(x)
    sum(result.sum() for result in results).backward()
    assert len(calls) == 2
    torch.testing.assert_close(results, expected)


def test_a_subclass_of_the_convolution_is_called() -> None:
    class Doubled(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    block = Conv2dBlock(3, 4, 5, 1, 2, norm="none", activation="relu", pad_mode="reflect")
    x = torch.randn(1, 3, 6, 7)
    expected = [2 * upsampled(block, x), 2 * block(x)]
    block.conv.__class__ = Doubled
    torch.testing.assert_close([upsampled(block, x), block(x)], expected)


class _DoubledAverage(nn.AdaptiveAvgPool2d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def averaging(change: str, calls: list[int]) -> nn.Module:
    """Return an average over all pixels that has to be called, and that notes some of its calls."""
    pool = _DoubledAverage(1) if change == "a subclass" else nn.AdaptiveAvgPool2d((2, 1) if change == "a size" else 1)
    if change == "a hook":
        pool.register_forward_hook(lambda *_: calls.append(1))
    if change == "a forward":
        pool.forward = lambda x: -x  # type: ignore[method-assign]
    return pool


def ops_and_result(pool: nn.Module, x: Tensor) -> tuple[list[str], Tensor]:
    """Return the names of the ops that a chain of one layer dispatches in forward and backward, and its gradient."""
    x = x.detach().requires_grad_()
    with torch.profiler.profile() as profile:
        plan([Other(pool)]).run(x).float().square().sum().backward()
    assert x.grad is not None
    return [event.name for event in profile.events()], x.grad


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1, (1, 1)])
def test_an_average_over_all_pixels_has_the_bits_of_the_module(
    size: int | tuple[int, int], dtype: torch.dtype, memory_format: torch.memory_format
) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 12, 16, 17).to(dtype).contiguous(memory_format=memory_format)
    pool = nn.AdaptiveAvgPool2d(size)
    y = plan([Other(pool)]).run(x)
    assert y.shape == (2, 12, 1, 1) and torch.equal(y, pool(x))
    ops, gradient = ops_and_result(pool, x)
    with functional.use_implementation("reference"):
        called, expected = ops_and_result(pool, x)
    assert torch.equal(gradient, expected)
    name = "aten::adaptive_avg_pool2d"
    assert name not in ops
    assert name in called


@pytest.mark.parametrize("change", ["a hook", "a subclass", "a size", "a forward"])
def test_another_average_is_called(change: str) -> None:
    calls: list[int] = []
    pool = averaging(change, calls)
    x = torch.randn(2, 4, 6, 6)
    assert torch.equal(plan([Other(pool)]).run(x), pool(x))
    assert len(calls) == (2 if change == "a hook" else 0)


def test_a_chain_can_be_planned_once_and_run_often() -> None:
    block = Conv2dBlock(3, 4, 3, 1, 1, norm="in", activation="relu", pad_mode="reflect")
    chain: Chain = plan(block.layers())
    x = torch.randn(1, 3, 6, 7)
    assert torch.equal(chain.run(x), block(x))
    assert torch.equal(chain.run(x), block(x))


def up_blocks(norm: str, pad_mode: str) -> tuple[Chain, Chain]:
    """Return two up blocks after a block with a norm, planned as one chain, and as a chain for each block."""
    first = ResBlock(4, norm="adain", activation="relu", pad_mode=pad_mode) if norm == "adain" else None
    blocks: list[nn.Module] = [first or Conv2dBlock(4, 4, 3, 1, 1, norm=norm, activation="relu", pad_mode=pad_mode)]
    for _ in range(2):
        blocks.append(nn.Upsample(scale_factor=2))
        blocks.append(Conv2dBlock(4, 4, 5, 1, 2, norm="ln", activation="relu", pad_mode=pad_mode))
    blocks = [block.double() for block in blocks]
    styles = torch.randn(2, 16, dtype=torch.float64)

    def chain(part: list[nn.Module]) -> Chain:
        return chain_of(part, AdaINParameters(styles) if part[0] is first else None)

    separate = [chain(part) for part in (blocks[:1], blocks[1:3], blocks[3:])]
    return chain(blocks), Chain([step for part in separate for step in part.steps])


@pytest.mark.parametrize("pad_mode", ["reflect", "replicate", "zero"])
@pytest.mark.parametrize("norm", ["in", "ln", "adain"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_op_before_an_upsampling_convolution_pads_for_it(
    implementation: functional.Implementation, norm: str, pad_mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, separate = up_blocks(norm, pad_mode)
    already: list[bool] = []
    original = functional.phase_conv2d

    def noted(x: Tensor, kernels: functional.PhaseKernels, *, padded: bool = False) -> Tensor:
        already.append(padded)
        return original(x, kernels, padded=padded)

    monkeypatch.setattr(functional, "phase_conv2d", noted)
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    results = []
    with functional.use_implementation(implementation):
        for chain in (whole, separate):
            y = chain.run(x)
            results.append((y.detach(), *torch.autograd.grad(y.sin().sum(), x)))
    assert already == ([] if implementation == "reference" else [True, True, False, False])
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-12)


def test_a_residual_block_between_keeps_the_map_without_padding() -> None:
    """A map that is also the start of a residual block is padded by the convolution itself."""
    layers: list[Layer] = [Convolution(conv(1)), INSTANCE, ResidualStart(), Upsample(nn.Upsample(scale_factor=2))]
    write = next(plan([*layers, PAD, Convolution(conv())]).of(Write))
    assert write.upsampling is None
    following = next(plan([*layers[:2], layers[3], PAD, Convolution(conv())]).of(Write)).upsampling
    assert following is not None and following.upsampled == "reflect"


def test_an_iteration_makes_kernels_of_upsampling_convolutions_once(monkeypatch: pytest.MonkeyPatch) -> None:
    chain, _ = up_blocks("ln", "reflect")
    convs = [step.conv for step in chain.of(Convolve) if step.upsampled is not None]
    weights, parameters = [conv.weight for conv in convs], [p for conv in convs for p in (conv.weight, conv.bias)]
    maps = [torch.randn(1, 4, 5, 6, dtype=torch.float64) for _ in range(2)]
    expected = torch.autograd.grad(sum(chain.run(x).sin().sum() for x in maps), parameters)
    made: list[Tensor] = []
    original = functional.phase_kernels

    def noted(weight: Tensor, *args: Any, **options: Any) -> functional.PhaseKernels:
        if options.get("ready") is None:
            made.append(weight)
        return original(weight, *args, **options)

    monkeypatch.setattr(functional, "phase_kernels", noted)
    with iteration_cache(IterationCache()):
        with torch.no_grad():
            chain.run(maps[0])
        gradients = torch.autograd.grad(sum(chain.run(x).sin().sum() for x in maps), parameters)
        assert [id(weight) for weight in made] == [id(weight) for weight in weights]
        with torch.no_grad():
            for parameter in (convs[0].weight, convs[1].bias):
                parameter.mul_(2)
                shared = chain.run(maps[0])
                with iteration_cache(None):
                    assert torch.equal(shared, chain.run(maps[0]))
        made_again = made[2::3]  # without a cache, both are
        assert [id(weight) for weight in made_again] == [id(weight) for weight in weights]
    torch.testing.assert_close(gradients, expected, rtol=1e-10, atol=1e-12)


def test_a_convolution_whose_bias_is_read_in_two_dtypes() -> None:
    """Once, the next op adds the bias in float32, and once, the convolution does in low precision."""
    module = conv(padding=1)
    chain = plan([Convolution(module), RELU, Convolution(module)])
    assert [step.left_out for step in chain.of(Convolve)] == ["added", None]
    x = torch.randn(1, 4, 6, 6)
    found = []
    for cache in (None, IterationCache()):
        module.zero_grad()
        with torch.autocast("cpu", torch.bfloat16), iteration_cache(cache):
            y = chain.run(x)
        y.float().square().sum().backward()
        found.append((y, module.bias.grad))
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-2, atol=1e-2)
