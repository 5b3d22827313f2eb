"""Norm layers and spectral norm against independent float64 formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fastmunit import functional
from fastmunit.nn.layers.norm import AdaptiveInstanceNorm2d, InstanceNorm2d, LayerNorm
from fastmunit.nn.layers.spectral_norm import SpectralNorm

IMPLEMENTATIONS: list[functional.Implementation] = ["reference", "auto"]
SHAPES = [(1, 1, 1, 2), (2, 3, 7, 5), (3, 64, 8, 8), (1, 255, 3, 3)]


def numpy_instance_norm(x: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    mean = x.mean(axis=(2, 3), keepdims=True)
    return (x - mean) / np.sqrt(((x - mean) ** 2).mean(axis=(2, 3), keepdims=True) + eps)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_instance_norm(shape: tuple[int, ...], implementation: functional.Implementation) -> None:
    x = torch.randn(shape, dtype=torch.float64) * 3 + 5
    with functional.use_implementation(implementation):
        y = InstanceNorm2d(shape[1])(x)
    np.testing.assert_allclose(y.numpy(), numpy_instance_norm(x.numpy()), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_adain(shape: tuple[int, ...], implementation: functional.Implementation) -> None:
    x = torch.randn(shape, dtype=torch.float64) - 2
    weight, bias = torch.randn(2, *shape[:2], dtype=torch.float64)
    with functional.use_implementation(implementation):
        y = AdaptiveInstanceNorm2d(shape[1]).double()(x, weight, bias)
    expected = numpy_instance_norm(x.numpy()) * weight.numpy()[:, :, None, None] + bias.numpy()[:, :, None, None]
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_adain_gradients(implementation: functional.Implementation) -> None:
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    weight, bias = (torch.randn(2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    with functional.use_implementation(implementation):
        assert torch.autograd.gradcheck(lambda *inputs: functional.adain(*inputs)[0], (x, weight, bias))


@pytest.mark.parametrize("shape", [(2, 3, 7, 5), (1, 4, 6, 6), (3, 8), (2, 1, 1, 2)])
def test_layer_norm_uses_the_unbiased_std_plus_eps(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64) * 2 + 1
    layer = LayerNorm(shape[1]).double()
    nn.init.normal_(layer.beta)
    values = x.numpy()
    axes = tuple(range(1, len(shape)))
    mean, std = values.mean(axes, keepdims=True), values.std(axes, ddof=1, keepdims=True)
    channel = [1, -1] + [1] * (len(shape) - 2)
    gamma, beta = (p.detach().numpy().reshape(channel) for p in (layer.gamma, layer.beta))
    np.testing.assert_allclose(
        layer(x).detach().numpy(), (values - mean) / (std + 1e-5) * gamma + beta, rtol=1e-10, atol=1e-12
    )


def test_layer_norm_is_initialized_uniformly() -> None:
    layer = LayerNorm(4096)
    assert layer.gamma.min() >= 0 and layer.gamma.max() < 1
    assert 0.45 < layer.gamma.mean() < 0.55
    assert not layer.beta.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_low_precision_in_and_out(dtype: torch.dtype, implementation: functional.Implementation) -> None:
    x = (torch.randn(2, 4, 9, 9) * 2 + 30).to(dtype)
    with functional.use_implementation(implementation):
        for layer in (InstanceNorm2d(4), LayerNorm(4)):
            y = layer(x)
            assert y.dtype == dtype
            exact = layer.double()(x.double())
            unit = torch.finfo(dtype).eps
            assert (y.double() - exact).abs().max() <= unit * exact.abs().max()


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_spectral_norm(kind: str) -> None:
    inner = nn.Conv2d(3, 8, 4, 2) if kind == "conv" else nn.Linear(12, 7)
    weight = inner.weight.detach().clone()
    wrapped = SpectralNorm(inner).eval()
    names = ["bias", "weight_u", "weight_v", "weight_bar"]
    assert list(wrapped.state_dict()) == [f"module.{name}" for name in names]
    assert [name for name, p in wrapped.named_parameters() if p.requires_grad] == ["module.bias", "module.weight_bar"]
    assert not hasattr(inner, "weight")
    x = torch.randn(2, 3, 9, 9) if kind == "conv" else torch.randn(2, 12)
    before = inner.weight_u.clone()
    wrapped(x)
    assert not torch.equal(before, inner.weight_u), "eval mode iterates, too"
    for _ in range(200):
        wrapped(x)
    sigma = torch.linalg.matrix_norm(weight.flatten(1), 2)
    torch.testing.assert_close(wrapped.compute_weight(), weight / sigma, rtol=1e-4, atol=1e-5)


def test_spectral_norm_iterates_in_float32_under_autocast() -> None:
    wrapped = SpectralNorm(nn.Linear(32, 16))
    with torch.autocast("cpu", torch.bfloat16):
        wrapped(torch.randn(2, 32))
    u = wrapped.module.get_parameter("weight_u").detach()
    assert float(u.double().norm()) == pytest.approx(1, abs=1e-6)


def test_spectral_norm_survives_two_forwards_before_backward() -> None:
    wrapped = SpectralNorm(nn.Linear(5, 4)).double()
    x = torch.randn(3, 5, dtype=torch.float64)
    (wrapped(x).sum() + wrapped(x).square().sum()).backward()
    gradient = wrapped.module.get_parameter("weight_bar").grad
    assert gradient is not None and gradient.isfinite().all()


def test_spectral_norm_gradient_flows_through_the_weight_only() -> None:
    """The gradient is that of W / (uᵀ W v) with constant u and v, computed by hand in float64."""
    wrapped = SpectralNorm(nn.Linear(5, 4)).double()
    module = wrapped.module
    normalized = wrapped.compute_weight()
    weight, u, v = (module.get_parameter(name).detach() for name in ("weight_bar", "weight_u", "weight_v"))
    upstream = torch.randn(4, 5, dtype=torch.float64)
    normalized.backward(upstream)
    sigma = u @ weight @ v
    expected = upstream / sigma - (upstream * weight).sum() / sigma**2 * torch.outer(u, v)
    torch.testing.assert_close(module.get_parameter("weight_bar").grad, expected)
