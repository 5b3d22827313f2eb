"""Tests of spectral norm in the systems: the correct gradient, and with `compat` the public trainer's."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastmunit import functional
from fastmunit.config import Config
from fastmunit.nn.layers.spectral_norm import SpectralNorm
from fastmunit.systems import registry
from fastmunit.systems.base import System
from fastmunit.systems.munit import MUNIT
from fastmunit.systems.parts.hyperparameters import read_weights
from fastmunit.testing.reference_step import reference_step

GOLDEN = Path(__file__).parents[1] / "golden" / "munit_spectral_norm.pt"


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return torch.load(GOLDEN, weights_only=True)


def errors(golden: dict[str, Any], implementation: functional.Implementation, compat: bool) -> dict[str, float]:
    """Return the largest errors of three steps: relative for losses and gradient norms of dis_a, absolute for u.

    "losses" are those of the discriminators' outputs, "reconstructions" the others.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(1234)
    trainer = MUNIT(golden["config"], compat=compat, fused_adam=False)
    found = {"forward": 0.0, "losses": 0.0, "reconstructions": 0.0, "norms": 0.0, "u": 0.0}
    with functional.use_implementation(implementation):
        trainer.eval()  # the recording ran dis_a on x_a in eval mode first, which moved u and v
        with torch.no_grad():
            outputs = trainer.dis_a(golden["x_a"])
        for output, expected in zip(outputs, golden["forward"]["dis_a"], strict=True):
            found["forward"] = max(found["forward"], float((output - expected).abs().max() / expected.abs().max()))
        trainer.train()
        for recorded in golden["steps"]:
            torch.manual_seed(recorded["seed"])
            trainer.update_learning_rate()
            trainer.dis_update(golden["x_a"], golden["x_b"])
            for name, norm in recorded["dis_a_grad_norms"].items():
                gradient = trainer.dis_a.get_parameter(name).grad
                assert gradient is not None
                found["norms"] = max(found["norms"], abs(float(gradient.norm()) / norm - 1))
            trainer.gen_update(golden["x_a"], golden["x_b"])
            for name, loss in recorded["losses"].items():
                error = abs(float(getattr(trainer, name)) - loss) / (loss or 1.0)
                kind = "losses" if "_dis_" in name or "_adv_" in name else "reconstructions"
                found[kind] = max(found[kind], error)
    for network in ("dis_a", "dis_b"):
        for name, value in getattr(trainer, network).state_dict().items():
            if name.endswith("weight_u"):
                found["u"] = max(found["u"], float((value - golden["final"][network][name]).abs().max()))
    torch.set_num_threads(threads)
    return found


@pytest.mark.parametrize("implementation", ["reference", "auto"])
def test_compat_has_the_gradients_of_the_public_trainer(
    golden: dict[str, Any], implementation: functional.Implementation
) -> None:
    found = errors(golden, implementation, compat=True)
    assert found["forward"] <= 2e-6 and found["losses"] <= 2e-6, found
    # Kernels sum in another order, and three steps of Adam amplify that in the weights of the generators.
    assert found["reconstructions"] <= (2e-6 if implementation == "reference" else 2e-5), found
    assert found["norms"] <= 2e-6 and found["u"] <= 1e-6, found


def test_without_compat_the_gradient_differs_from_the_public_one(golden: dict[str, Any]) -> None:
    """Without compat, gradients differ from the recording by the known amount and no more."""
    found = errors(golden, "auto", compat=False)
    assert found["forward"] <= 2e-6 and max(found["losses"], found["reconstructions"]) <= 5e-5, found
    assert 5e-6 <= found["norms"] <= 5e-5 and 1e-5 <= found["u"] <= 3e-4, found


class _PlainDiscriminator:
    """A discriminator with the same weights, written by hand: zero padding, LeakyReLU, nsgan.

    It iterates as the public trainer does, for both images before backward. The gradient of sigma comes from the u and
    v of each call, or from those of the latest call for both.
    """

    def __init__(self, state: dict[str, Tensor], scales: int, layers: int) -> None:
        self.weights = {name: value.double().clone() for name, value in state.items()}
        for name, value in self.weights.items():
            if not name.endswith(("_u", "_v")):
                value.requires_grad_()
        self.scales, self.layers = scales, layers

    def iterate(self, prefix: str) -> tuple[Tensor, Tensor]:
        matrix = self.weights[f"{prefix}.weight_bar"].detach().flatten(1)
        v = F.normalize(matrix.t() @ self.weights[f"{prefix}.weight_u"], dim=0)
        u = F.normalize(matrix @ v, dim=0)
        self.weights[f"{prefix}.weight_u"], self.weights[f"{prefix}.weight_v"] = u, v
        return u, v

    def loss(self, fake: Tensor, real: Tensor, *, latest: bool) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for scale in range(self.scales):
            if scale:
                fake, real = (F.avg_pool2d(x, 3, 2, 1, count_include_pad=False) for x in (fake, real))
            prefixes = [f"cnns.{scale}.{layer}.conv.module" for layer in range(1, self.layers)]
            vectors = [{prefix: self.iterate(prefix) for prefix in prefixes} for _ in range(2)]
            outputs = [
                self.forward(image, scale, vectors[call], vectors[1] if latest else vectors[call])
                for call, image in enumerate((fake, real))
            ]
            total = total + F.softplus(outputs[0]).mean() + F.softplus(-outputs[1]).mean()
        return total

    def forward(
        self,
        x: Tensor,
        scale: int,
        vectors: dict[str, tuple[Tensor, Tensor]],
        for_gradient: dict[str, tuple[Tensor, Tensor]],
    ) -> Tensor:
        first = f"cnns.{scale}.0.conv"
        x = F.leaky_relu(F.conv2d(x, self.weights[f"{first}.weight"], self.weights[f"{first}.bias"], 2, 1), 0.2)
        for prefix, (u, v) in vectors.items():
            bar = self.weights[f"{prefix}.weight_bar"]
            gradient_u, gradient_v = for_gradient[prefix]
            sigma = gradient_u @ bar.flatten(1) @ gradient_v
            sigma = sigma + (u @ bar.flatten(1) @ v - sigma).detach()  # the value of (u, v), the gradient of the others
            x = F.leaky_relu(F.conv2d(x, bar / sigma, self.weights[f"{prefix}.bias"], 2, 1), 0.2)
        last = f"cnns.{scale}.{self.layers}"
        return F.conv2d(x, self.weights[f"{last}.weight"], self.weights[f"{last}.bias"])


@pytest.mark.parametrize("compat", [False, True])
def test_zero_padding_and_nsgan(hyperparameters: dict[str, Any], images: tuple[Tensor, Tensor], compat: bool) -> None:
    """u, v and every gradient of dis_a agree in float64 with a discriminator written by hand."""
    dis = {**hyperparameters["dis"], "norm": "sn", "pad_type": "zero", "gan_type": "nsgan", "n_layer": 3}
    torch.manual_seed(0)
    trainer = MUNIT({**hyperparameters, "dis": dis}, compat=compat).double()
    x_a, x_b = (x.double() for x in images)
    plain = _PlainDiscriminator(trainer.dis_a.state_dict(), dis["num_scales"], dis["n_layer"])
    styles = trainer.draw(x_a, x_b)
    with torch.no_grad():
        fake = trainer.gen_a.decode(trainer.gen_b.enc_content(x_b), styles[0])
    trainer.run_halves({"dis": (x_a, x_b, *styles)}, read_weights(trainer.weight_keys, None, trainer.config))
    loss = plain.loss(fake, x_a, latest=compat)
    loss.backward()
    assert float(trainer.loss_dis_a) == pytest.approx(float(loss.detach()), rel=1e-10)
    for name, value in plain.weights.items():
        parameter = trainer.dis_a.get_parameter(name)
        if name.endswith(("_u", "_v")):
            torch.testing.assert_close(parameter.data, value, rtol=0, atol=1e-10)
        else:
            assert parameter.grad is not None and value.grad is not None
            error = (parameter.grad - value.grad).abs().max() / value.grad.abs().max()
            assert error <= 1e-9, name


def with_spectral_norm(name: str, compat: bool, *overrides: str) -> System:
    system = registry.system_named(name)
    small = ["gen.dim=4", "gen.mlp_dim=8", "gen.n_res=1", "dis.dim=4", "dis.norm=sn", "batch_size=2", "display_size=2"]
    torch.manual_seed(0)
    return system(Config.load(system.demo_recipe, [*small, "ema_decay=0", *overrides]), compat=compat)


def layers(trainer: System) -> list[SpectralNorm]:
    return [module for module in trainer.modules() if isinstance(module, SpectralNorm)]


@pytest.mark.parametrize("name", registry.names())
def test_every_system_passes_compat_to_its_spectral_norms(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """compat changes the gradients of the discriminators' first step, but not the loss."""
    generator = torch.Generator().manual_seed(0)
    x_a, x_b = (torch.rand(2, 3, 64, 64, generator=generator) * 2 - 1 for _ in range(2))
    trainers = [with_spectral_norm(name, compat) for compat in (False, True)]
    for trainer in trainers:
        assert layers(trainer) and all(layer.compat == trainer.compat for layer in layers(trainer))
        torch.manual_seed(1)
        trainer.step(x_a, x_b)
    plain, public = (layers(trainer) for trainer in trainers)
    bars = [[layer.module.get_parameter("weight_bar").grad for layer in found] for found in (plain, public)]
    relative = [float((a - b).abs().max() / a.abs().max()) for a, b in zip(*bars, strict=True)]  # type: ignore[operator]
    assert 0 < max(relative) < 0.1
    assert trainers[0].losses()["loss_dis_total"] == trainers[1].losses()["loss_dis_total"]
    assert all(layer.compat for layer in layers(copy.deepcopy(trainers[1])))

    monkeypatch.setattr(System, "device", torch.device("cuda"))  # only `replays` reads it
    assert [trainer.replays for trainer in trainers] == [True, False]
    assert with_spectral_norm(name, True, "cuda_graph=true").replays


def test_reference_step_and_step_agree_with_compat() -> None:
    generator = torch.Generator().manual_seed(0)
    x_a, x_b = (torch.rand(2, 3, 64, 64, generator=generator, dtype=torch.float64) * 2 - 1 for _ in range(2))
    steps = [lambda trainer: trainer.step(x_a, x_b), lambda trainer: reference_step(trainer, x_a, x_b)]
    trainers = [with_spectral_norm("munit", True).double() for _ in steps]
    for trainer, step in zip(trainers, steps, strict=True):
        torch.manual_seed(1)
        step(trainer)
    for one, other in zip(*map(layers, trainers), strict=True):
        for name, value in one.module.named_parameters():
            torch.testing.assert_close(value, other.module.get_parameter(name), rtol=0, atol=1e-10)


@pytest.mark.parametrize("compat", [False, True])
def test_compat_leaves_networks_with_spectral_norm_uncompiled(compat: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda network, **_: compiled.append(network))
    trainer = with_spectral_norm("munit", compat, "compile=true")
    left_out = [*trainer.discriminators().values()] if compat else []
    expected = [network for network in trainer.compiled_networks() if network not in left_out]
    assert compiled == expected
