"""Tests of the R1 penalty against finite differences of a discriminator's outputs in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from fastmunit import functional
from fastmunit.config import DiscriminatorConfig
from fastmunit.nn.networks.discriminators import MsImageDis, MultiScale, PatchDiscriminator
from fastmunit.systems.parts.r1_penalty import r1_penalty


def network(kind: type[MultiScale], norm: str, channels: int = 1, seed: int = 0) -> MultiScale:
    torch.manual_seed(seed)
    small = kind is MsImageDis and norm == "in"  # whose smallest map must have two pixels
    sizes = {"dim": 2, "n_layer": 2 if kind is MsImageDis else 1, "num_scales": 1 if small else 2}
    config = DiscriminatorConfig.model_validate({**sizes, "norm": norm, "activ": "lrelu", "pad_type": "reflect"})
    dis = kind(channels, config).double()  # type: ignore[call-arg, arg-type]
    for parameter in dis.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, 0, 0.5)
    if norm == "sn":  # until u and v are singular vectors, whose change no longer changes sigma
        for _ in range(300):
            outputs(dis, torch.zeros(1, channels, 12, 12, dtype=torch.float64), keep=True)
    return dis


@torch.no_grad()
def outputs(dis: MultiScale, x: Tensor, keep: bool = False) -> list[Tensor]:
    """Return the mean of the map of each scale, (N,), and leave the state of spectral norm alone."""
    run = dis if keep or dis._norm != "sn" else copy.deepcopy(dis)
    with functional.use_implementation("reference"):
        return [output.mean((1, 2, 3)) for output in run(x)]


def penalty_by_differences(dis: MultiScale, x: Tensor, channels: range, step: float = 1e-5) -> float:
    total = 0.0
    for channel in channels:
        for row in range(x.shape[2]):
            for column in range(x.shape[3]):
                change = torch.zeros_like(x)
                change[:, channel, row, column] = step
                for up, down in zip(outputs(dis, x + change), outputs(dis, x - change), strict=True):
                    total += float((((up - down) / (2 * step)) ** 2).mean())
    return total


CASES = [(MsImageDis, norm) for norm in ("none", "in", "ln", "sn")] + [(PatchDiscriminator, "in")]


@pytest.mark.parametrize(("kind", "norm"), CASES)
def test_penalty_and_its_gradient_are_those_of_finite_differences(kind: type[MultiScale], norm: str) -> None:
    dis = network(kind, norm)
    size = 12 if kind is PatchDiscriminator else 10
    x = torch.rand(2, 1, size, size - 1 if kind is MsImageDis else size, dtype=torch.float64) * 2 - 1
    before = copy.deepcopy(dis)
    penalty = r1_penalty(dis, [x])
    assert float(penalty.detach()) == pytest.approx(penalty_by_differences(before, x, range(1)), rel=1e-5)
    penalty.backward()
    trained = {name: p for name, p in before.named_parameters() if p.requires_grad}
    direction = {name: torch.randn_like(p) for name, p in trained.items()}
    values = []
    for step in (1e-5, -1e-5):
        moved = copy.deepcopy(before)
        with torch.no_grad():
            for name, change in direction.items():
                moved.get_parameter(name).add_(step * change)
        values.append(float(r1_penalty(moved, [x]).detach()))
    slope = sum(
        float((direction[name] * gradient).sum())
        for name in trained
        if (gradient := dis.get_parameter(name).grad) is not None
    )
    assert slope == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4)
    assert not x.requires_grad and x.grad is None


def test_a_conditional_discriminator_is_penalized_for_the_image_alone() -> None:
    dis = network(MsImageDis, "none", channels=3)
    source, x = (torch.rand(2, count, 8, 8, dtype=torch.float64) for count in (2, 1))
    expected = penalty_by_differences(dis, torch.cat([source, x], 1), range(2, 3))
    assert float(r1_penalty(dis, [source, x]).detach()) == pytest.approx(expected, rel=1e-5)


def test_a_map_that_is_linear_has_its_kernel_as_gradient() -> None:
    """One 4x4 convolution of a 4x4 image, without padding or activation: the gradient is the kernel."""
    dis = network(MsImageDis, "none")
    kernel = torch.randn(1, 1, 4, 4, dtype=torch.float64)
    linear = torch.nn.Conv2d(1, 1, 4).double()
    with torch.no_grad():
        linear.weight.copy_(kernel)
    dis.forward = lambda x: [linear(x), 2 * linear(x)]  # type: ignore[method-assign]
    x = torch.rand(5, 1, 4, 4, dtype=torch.float64)
    assert float(r1_penalty(dis, [x]).detach()) == pytest.approx(5 * float(kernel.square().sum()), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_penalty_is_computed_in_float32(dtype: torch.dtype) -> None:
    dis = network(MsImageDis, "ln")
    x = (torch.rand(2, 1, 12, 12) * 2 - 1).to(dtype)
    expected = float(r1_penalty(dis, [x.double()]).detach())
    dis = dis.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        penalty = r1_penalty(dis, [x])
    assert penalty.dtype == torch.float32
    assert float(penalty.detach()) == pytest.approx(expected, rel=1e-4)


def test_a_compiled_network_is_differentiated_twice() -> None:
    dis = network(MsImageDis, "in")
    x = torch.rand(2, 1, 12, 12, dtype=torch.float64)
    expected = float(r1_penalty(dis, [x]).detach())
    dis.compile(backend="aot_eager", fullgraph=True)
    penalty = r1_penalty(dis, [x])
    penalty.backward()
    assert float(penalty.detach()) == expected
