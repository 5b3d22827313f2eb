"""Recomputing maps in backward: gradients have the same bits, and fewer bytes are stored."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn

from fastmunit import functional
from fastmunit.config import Config
from fastmunit.functional.recompute import RecomputableMap, recomputable_fused_norm, recompute, replace_saved
from fastmunit.nn.fused.chain import plan
from fastmunit.nn.fused.steps import State, mode_of
from fastmunit.nn.layers.blocks import Conv2dBlock, chain_of
from fastmunit.nn.networks.autoencoders import AdaINGen
from fastmunit.ops.availability import unavailable
from fastmunit.testing import make_map, saved_bytes

needs_native = pytest.mark.skipif(unavailable("native", "cpu") is not None, reason=str(unavailable("native", "cpu")))


def small_generator() -> AdaINGen:
    config = Config.load("demo", ["gen.dim=8", "gen.mlp_dim=16", "gen.n_res=2"])
    return AdaINGen(3, config.gen)


def gradients(net: AdaINGen, x: torch.Tensor) -> list[torch.Tensor]:
    content, style = net.encode(x)
    loss = net.decode(content, style).square().mean() + content.abs().mean()
    return list(torch.autograd.grad(loss, list(net.parameters())))


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_have_the_same_bits(autocast: bool, layout: str) -> None:
    net = small_generator()
    x = make_map((2, 3, 24, 32), layout=layout)
    results = []
    for enabled in (True, False):
        with recompute(enabled), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            results.append(gradients(net, x))
    for recomputed, stored in zip(*results, strict=True):
        assert torch.equal(recomputed, stored)


def chain() -> tuple[list[Conv2dBlock], torch.Tensor]:
    blocks = [Conv2dBlock(8, 8, 3, 1, 1, norm="in", activation="relu", pad_mode="reflect") for _ in range(4)]
    return blocks, make_map((1, 8, 32, 32)).requires_grad_()


@needs_native
@pytest.mark.parametrize("enabled", [True, False])
def test_a_recomputed_map_is_freed_after_the_forward_pass(enabled: bool) -> None:
    """autograd keeps the hooks of what it saves, so nothing that they refer to is freed."""
    x, weight = make_map((1, 8, 16, 16)).requires_grad_(), make_map((8, 8, 3, 3)).requires_grad_()
    with recompute(enabled):
        found = recomputable_fused_norm(
            x, None, None, statistics="instance", activation="relu", pad=1, pad_mode="reflect"
        )
    memory = weakref.ref(found.padded.untyped_storage())
    with replace_saved(found.padded, with_=found.recompute):
        y = torch.nn.functional.conv2d(found.padded, weight)
    del found
    assert (memory() is None) == enabled
    y.sum().backward()
    assert x.grad is not None


@needs_native
def test_a_layer_stores_only_the_result_of_its_convolution() -> None:
    """Four layers store four of these and the first padded input; without recomputation, three more padded maps."""
    blocks, x = chain()
    parameters = [p for block in blocks for p in block.parameters()]
    map_bytes, padded_bytes, statistics = 8 * 32 * 32 * 4, 8 * 34 * 34 * 4, 2 * 8 * 8
    stored = {}
    for enabled in (True, False):
        with recompute(enabled):
            stored[enabled] = saved_bytes(lambda: chain_of(blocks).run(x), exclude=[*parameters, x])
    assert stored[True] == 4 * (map_bytes + statistics) + padded_bytes
    assert stored[False] == stored[True] + 3 * padded_bytes


@needs_native
def test_backward_uses_the_implementation_of_forward() -> None:
    blocks, x = chain()
    with functional.use_implementation("native"):
        y = chain_of(blocks).run(x).sum()
    with functional.use_implementation("reference"):
        (late,) = torch.autograd.grad(y, x)
    with functional.use_implementation("native"):
        (expected,) = torch.autograd.grad(chain_of(blocks).run(x).sum(), x)
    assert torch.equal(late, expected)


@needs_native
def test_changing_the_result_of_a_convolution_before_backward_is_an_error() -> None:
    first, second = chain()[0][:2]
    x = make_map((1, 8, 8, 8)).requires_grad_()
    results = []
    first.conv.register_forward_hook(lambda module, inputs, output: results.append(output))
    y = chain_of([first, second]).run(x).sum()
    with torch.no_grad():
        results[0].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


def test_only_the_named_tensor_is_replaced() -> None:
    x = make_map((1, 2, 4, 4)).requires_grad_()
    convolution = nn.Conv2d(2, 2, 1)
    calls: list[int] = []

    def recompute_x() -> torch.Tensor:
        calls.append(1)
        return x.detach().clone()

    with replace_saved(x, with_=recompute_x):
        convolution(x).sum().backward()
    assert calls == [1]
    with replace_saved(torch.zeros(1, 2, 4, 4), with_=recompute_x):
        convolution(x).sum().backward()
    assert calls == [1]


@needs_native
def test_hooks_of_the_caller_see_what_is_not_replaced() -> None:
    blocks, x = chain()
    seen = []
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: seen.append(saved.shape) or saved, lambda saved: saved):
        chain_of(blocks).run(x).sum().backward()
    assert seen.count(blocks[0].conv.weight.shape) == 4
    assert seen.count(torch.Size((1, 8, 34, 34))) == 1


@needs_native
@pytest.mark.parametrize("implementation", ["native", "reference"])
def test_only_kernels_are_run_again(implementation: functional.Implementation) -> None:
    """The reference stores what torch stores."""
    blocks, x = chain()
    with functional.use_implementation(implementation):
        state = State(RecomputableMap(x, x, None), mode_of(x))
        plan(blocks[0].layers()).advance(state)
    assert (state.map.recompute is None) == (implementation == "reference")
