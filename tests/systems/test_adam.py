"""Tests of fused Adam with parameters, gradients and averages in different memory formats."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastmunit.systems.munit import MUNIT
from fastmunit.systems.parts.adam import Adam

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def parameters_of(layout: torch.memory_format) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(8, 4, 3, 3), (8,), (5, 7), (1, 6, 1, 1), (1, 3, 5, 5)]
    values = [torch.randn(shape, generator=generator) for shape in shapes]
    return [nn.Parameter(x.contiguous(memory_format=layout) if x.dim() == 4 else x) for x in values]


def set_gradients(parameters: list[nn.Parameter], layout: torch.memory_format, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        gradient = torch.randn(parameter.shape, generator=generator)
        parameter.grad = gradient.contiguous(memory_format=layout) if gradient.dim() == 4 else gradient


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("of_gradients", LAYOUTS)
@pytest.mark.parametrize("of_parameters", LAYOUTS)
def test_layouts_do_not_matter(
    of_parameters: torch.memory_format, of_gradients: torch.memory_format, amsgrad: bool
) -> None:
    options = {"lr": 1e-2, "betas": (0.5, 0.999), "weight_decay": 1e-2, "amsgrad": amsgrad, "fused": True}
    plain, ours = parameters_of(torch.contiguous_format), parameters_of(of_parameters)
    of_torch, optimizer = torch.optim.Adam(plain, **options), Adam(ours, **options)
    for seed in range(3):
        set_gradients(plain, torch.contiguous_format, seed)
        set_gradients(ours, of_gradients, seed)
        of_torch.step()
        optimizer.step()
    for a, b in zip(plain, ours, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-6, atol=1e-7)
        for name, value in of_torch.state[a].items():
            torch.testing.assert_close(optimizer.state[b][name], value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_equal_layouts_give_the_bits_of_torch(layout: torch.memory_format) -> None:
    theirs, ours = parameters_of(layout), parameters_of(layout)
    optimizers = torch.optim.Adam(theirs, lr=1e-2, fused=True), Adam(ours, lr=1e-2, fused=True)
    for seed in range(3):
        for parameters, optimizer in zip((theirs, ours), optimizers, strict=True):
            set_gradients(parameters, layout, seed)
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(theirs, ours, strict=True))


def test_averages_of_another_layout_are_brought_to_the_parameters() -> None:
    plain, ours = parameters_of(torch.contiguous_format), parameters_of(torch.channels_last)
    of_torch, optimizer = torch.optim.Adam(plain, lr=1e-2, fused=True), Adam(ours, lr=1e-2, fused=True)
    set_gradients(plain, torch.contiguous_format, 0)
    of_torch.step()
    for a, b in zip(plain, ours, strict=True):
        b.data.copy_(a.data)
    optimizer.load_state_dict(copy.deepcopy(of_torch.state_dict()))
    for seed in (1, 2):
        set_gradients(plain, torch.contiguous_format, seed)
        set_gradients(ours, torch.channels_last, seed)
        of_torch.step()
        optimizer.step()
    for a, b in zip(plain, ours, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-6, atol=1e-7)
        assert optimizer.state[b]["exp_avg"].stride() == b.stride()


class Copies(TorchDispatchMode):
    """A mode that counts the values that ops allocate."""

    def __init__(self) -> None:
        super().__init__()
        self.values = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and not function.is_view:
            self.values += result.numel()
        return result


def test_channels_last_copies_nothing() -> None:
    parameters = parameters_of(torch.channels_last)
    optimizer = Adam(parameters, lr=1e-2, fused=True)
    set_gradients(parameters, torch.channels_last, 0)
    optimizer.step()
    handed: list[Tensor] = []
    of_torch = torch._fused_adam_

    def look(*lists: Any, **options: Any) -> None:
        handed.extend(tensor for values in lists[:4] for tensor in values)
        of_torch(*lists, **options)

    with pytest.MonkeyPatch.context() as patch, Copies() as copies:
        patch.setattr(torch, "_fused_adam_", look)
        optimizer.step()
    assert copies.values == 0
    assert len(handed) == 4 * len(parameters) and all(tensor.is_contiguous() for tensor in handed)


def test_a_run_goes_on_in_another_layout(
    hyperparameters: dict[str, Any], images: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    trainer = MUNIT({**hyperparameters, "memory_format": "contiguous"})
    trainer.step(*images)
    trainer.save(tmp_path, 0)
    weights = {}
    for form in ("contiguous", "channels_last"):
        resumed = MUNIT({**hyperparameters, "memory_format": form})
        resumed.resume(tmp_path)
        for parameter in resumed.parameters():
            parameter.grad = torch.ones_like(parameter)
        resumed.gen_opt.step()
        weights[form] = [parameter.detach() for parameter in resumed.gen_a.parameters()]
    for a, b in zip(weights["contiguous"], weights["channels_last"], strict=True):
        torch.testing.assert_close(b, a, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "options", [{"fused": True}, {"foreach": True}, {"foreach": False}, {"fused": True, "amsgrad": True}]
)
def test_a_step_is_counted_as_a_write(options: dict[str, bool]) -> None:
    """Copies of weights and kept codes recognize by the count that they are stale."""
    parameters = parameters_of(torch.channels_last)
    frozen, unused = parameters[0].requires_grad_(False), parameters[1]
    optimizer = Adam(parameters, lr=1e-2, **options)
    for seed in range(2):
        set_gradients(parameters, torch.channels_last, seed)
        frozen.grad = unused.grad = None
        before = [parameter._version for parameter in parameters]
        values = [parameter.detach().clone() for parameter in parameters]
        optimizer.step()
        for parameter, version, value in zip(parameters, before, values, strict=True):
            changed = not torch.equal(parameter, value)
            assert changed == (parameter.grad is not None)
            assert (parameter._version > version) == changed


def test_a_closure_runs_with_gradients_and_its_loss_is_returned() -> None:
    parameter = nn.Parameter(torch.ones(3))
    optimizer = Adam([parameter], lr=1e-2, fused=True)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = parameter.square().sum()
        loss.backward()
        return loss

    version = parameter._version
    assert optimizer.step(closure).item() == 3 and parameter._version > version
    assert parameter.grad is not None and bool((parameter < 1).all())


def test_a_graph_from_before_a_step_is_refused() -> None:
    """Without the count, backward would silently use the new weights."""
    parameter = nn.Parameter(torch.ones(3))
    loss = parameter.square().sum()
    parameter.grad = torch.ones(3)
    Adam([parameter], lr=1e-2, fused=True).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
