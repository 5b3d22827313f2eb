"""Biases that a norm cancels: they are left out of the convolution and get gradients of zero."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fastmunit import functional
from fastmunit.config import Config
from fastmunit.nn.fused.dead_bias import with_zero_gradients
from fastmunit.nn.layers.blocks import AdaINParameters, Conv2dBlock, ResBlock
from fastmunit.systems.munit import MUNIT

KERNELS = functional.implementation_of("fused_norm", torch.empty(1)) != "reference"
needs_kernels = pytest.mark.skipif(not KERNELS, reason="no kernels for this CPU were built: biases are not left out")


def run(block: nn.Module, adain: bool = False, value: float = 3.0) -> Tensor:
    """Run forward and backward with biases of `value`. The loss is the sum of the results with random weights."""
    torch.manual_seed(0)
    x = torch.randn(2, 4, 7, 6, dtype=torch.float64)
    with torch.no_grad():
        for name, parameter in block.named_parameters():
            parameter.copy_(torch.randn_like(parameter))
            if name.endswith("conv.bias"):
                parameter.fill_(value)
    style = AdaINParameters(torch.randn(2, 16, dtype=torch.float64)) if adain else None
    y: Tensor = block(x, style)
    block.zero_grad()
    (y * torch.randn_like(y)).sum().backward()
    return y.detach()


def block_of(norm: str) -> Conv2dBlock:
    return Conv2dBlock(4, 4, 3, 1, 1, norm=norm, activation="lrelu", pad_mode="reflect").double()


@pytest.mark.parametrize("norm", ["in", "adain"])
def test_cancelled_bias_has_a_gradient_of_exact_zeros(norm: str) -> None:
    block = block_of(norm)
    plain, other = run(block, norm == "adain"), run(block, norm == "adain", value=-50.0)
    torch.testing.assert_close(plain, other, rtol=0, atol=1e-11)
    if KERNELS:
        assert torch.equal(plain, other)
    bias = block.conv.bias
    assert bias.grad is not None and bias.grad.shape == bias.shape and bias.grad.dtype == bias.dtype
    assert not bias.grad.any() if KERNELS else float(bias.grad.abs().max()) < 1e-9


@pytest.mark.parametrize("norm", ["ln", "none", "bn"])
def test_other_norms_keep_the_bias(norm: str) -> None:
    """Layer norm over C, H, W subtracts one mean of all channels, so the biases of channels have an effect."""
    block = block_of(norm)
    plain = run(block)
    assert block.conv.bias.grad.any()
    if norm == "bn":
        return  # cancelled in exact arithmetic, too, but running_mean contains it
    with torch.no_grad():
        block.conv.bias += torch.linspace(0, 1, 4, dtype=torch.float64)
    torch.manual_seed(0)
    changed = block(torch.randn(2, 4, 7, 6, dtype=torch.float64))
    assert not torch.allclose(changed, plain, atol=1e-3)
    assert block.conv.bias.grad.abs().max() > 1e-3


def test_gradients_equal_those_of_the_reference() -> None:
    block = ResBlock(4, norm="adain", pad_mode="reflect").double()
    with functional.use_implementation("reference"):
        expected = run(block, adain=True), [p.grad for p in block.parameters()]
    actual = run(block, adain=True), [p.grad for p in block.parameters()]
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@needs_kernels
def test_hooked_frozen_and_subclassed_convolutions() -> None:
    block = block_of("in")
    called: list[Tensor] = []
    block.conv.register_forward_hook(lambda module, args, y: called.append(y.detach()))
    run(block, value=5.0)
    assert len(called) == 1 and called[0].mean() > 3, "the hook must see the bias"

    block = block_of("in")
    block.conv.bias.requires_grad_(False)
    run(block)
    assert block.conv.bias.grad is None

    class Halved(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) / 2

    block = block_of("in")
    block.conv = Halved(4, 4, 3).double()
    run(block)
    assert block.conv.bias.grad.abs().max() > 0  # rounding errors: it was part of the graph


def test_with_zero_gradients() -> None:
    x = torch.ones(2, requires_grad=True)
    biases = [torch.zeros(n, requires_grad=True) for n in (3, 1)]
    y = with_zero_gradients(x * 1, biases)
    y += 1  # like the sum of a residual block, which is computed in place
    (y * 2).sum().backward()
    assert x.grad.tolist() == [2, 2]
    assert [bias.grad.tolist() for bias in biases] == [[0, 0, 0], [0]]
    with torch.no_grad():
        assert with_zero_gradients(x, biases) is x
    assert with_zero_gradients(x, [bias.detach() for bias in biases]) is x
    assert with_zero_gradients(x, []) is x


def trainer_of(weight_decay: float) -> MUNIT:
    overrides = ["gen.dim=4", "gen.mlp_dim=8", "gen.n_res=1", "dis.dim=4", "dis.n_layer=2", "dis.num_scales=2"]
    torch.manual_seed(0)
    return MUNIT(Config.load("demo", [*overrides, "precision=float32", f"weight_decay={weight_decay}"]))


def cancelled(trainer: MUNIT) -> dict[str, nn.Parameter]:
    return {
        name: parameter
        for name, parameter in trainer.named_parameters()
        if name.endswith("conv.bias") and ("enc_content" in name or "dec.model.0." in name)
    }


def test_optimizer_file_has_all_entries_of_the_public_one(tmp_path: Path) -> None:
    trainer = trainer_of(1e-4)
    images = [torch.rand(1, 3, 32, 32) * 2 - 1 for _ in range(2)]
    trainer.step(*images)
    trainer.save(tmp_path, 0)
    state = torch.load(tmp_path / "optimizer.pt", weights_only=True)
    parameters = [*trainer.gen_a.parameters(), *trainer.gen_b.parameters()]
    assert sorted(state["gen"]["state"]) == list(range(len(parameters)))
    for index, parameter in enumerate(parameters):
        assert state["gen"]["state"][index]["exp_avg"].shape == parameter.shape


@needs_kernels
def test_only_weight_decay_moves_cancelled_biases() -> None:
    """Adam's weight decay is a coupled L2 term: with a gradient of weight_decay · bias, a step has the size of lr."""
    images = [torch.rand(1, 3, 32, 32) * 2 - 1 for _ in range(2)]
    for weight_decay in (0.0, 1e-4):
        trainer = trainer_of(weight_decay)
        assert len(cancelled(trainer)) == 2 * (3 + 2 + 2)
        assert not any(parameter.any() for parameter in cancelled(trainer).values())
        trainer.step(*images)
        assert not any(parameter.any() for parameter in cancelled(trainer).values()), "zeros stay zeros"
        with torch.no_grad():
            for parameter in cancelled(trainer).values():
                parameter.fill_(0.1)
        trainer.step(*images)
        lr = trainer.gen_opt.param_groups[0]["lr"]
        for parameter in cancelled(trainer).values():
            moved = 0.1 - parameter.detach()
            assert bool(((0.9 * lr < moved) & (moved < 1.01 * lr)).all()) if weight_decay else not moved.any()
