"""`fastmunit.accelerate` on networks with the structure of the public code (lookalike.py), and on deceptive ones."""

from __future__ import annotations

import copy
import io
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import fastmunit
from fastmunit import functional
from fastmunit.functional.recompute import recompute
from tests.acceleration import lookalike
from tests.acceleration.lookalike import (
    AdaINGen,
    AdaptiveInstanceNorm2d,
    Conv2dBlock,
    LayerNorm,
    MsImageDis,
    MUNIT_Trainer,
    ResBlock,
    VAEGen,
)

GEN = {"dim": 4, "activ": "relu", "pad_type": "reflect", "n_downsample": 2, "n_res": 2, "style_dim": 3, "mlp_dim": 8}
DIS = {"dim": 4, "norm": "none", "activ": "lrelu", "n_layer": 2, "num_scales": 2, "pad_type": "reflect"}
KERNELS = functional.implementation_of("fused_norm", torch.empty(1)) != "reference"


def images(n: int = 2, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    return torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 2 - 1


def run(module: nn.Module, x: Tensor, call: Callable[[nn.Module, Tensor], Any] | None = None) -> dict[str, Tensor]:
    """Return results and the gradients of input and parameters, by name."""
    x = x.clone().requires_grad_()
    torch.manual_seed(5)
    results = (call or (lambda m, x: m(x)))(module, x)
    results = [results] if isinstance(results, Tensor) else list(results)
    loss = sum((y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)).sum() for y in results)
    module.zero_grad()
    loss.backward()
    found = {f"result {index}": y.detach() for index, y in enumerate(results)}
    found.update({name: p.grad for name, p in module.named_parameters() if p.grad is not None})
    return {**found, "input": torch.zeros_like(x) if x.grad is None else x.grad}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-9) -> None:
    assert found.keys() == expected.keys()
    largest = max(float(value.abs().max()) for name, value in expected.items() if not name.startswith("result"))
    for name, value in expected.items():
        scale = float(value.abs().max()) if name.startswith("result") else largest
        assert float((found[name] - value).abs().max()) <= tolerance * scale, name


def call_generator(generator: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    content, style = generator.encode(x)
    return content, style, generator.decode(content, style.flip(0))


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module, Tensor], Any] | None]] = {
    "generator": (lambda: AdaINGen(3, GEN), call_generator),
    "generator, leaky relu, zero pad": (
        lambda: AdaINGen(3, {**GEN, "activ": "lrelu", "pad_type": "zero"}),
        call_generator,
    ),
    "generator, tanh, replicate pad": (
        lambda: AdaINGen(3, {**GEN, "activ": "tanh", "pad_type": "replicate"}),
        call_generator,
    ),
    "generator, selu": (lambda: AdaINGen(3, {**GEN, "activ": "selu"}), call_generator),
    "variational generator": (lambda: VAEGen(3, GEN), None),
    **{
        f"discriminator, {norm}": (lambda norm=norm: MsImageDis(3, {**DIS, "norm": norm}), None)
        for norm in ("none", "in", "ln", "bn", "sn")
    },
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> tuple[nn.Module, Callable[[nn.Module, Tensor], Any] | None]:
    make, call = MODELS[request.param]
    torch.manual_seed(0)
    return make(), call


ALLOCATIONS = ("empty", "empty_like", "empty_strided", "new_empty", "detach")


class Ops(TorchDispatchMode):
    """A counter of ops by name, without views and allocations."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if not (function.is_view or name in ALLOCATIONS):
            self.counts[name] += 1
        return function(*args, **(kwargs or {}))


def ops_of(module: nn.Module, x: Tensor, call: Callable[[nn.Module, Tensor], Any] | None = None) -> Counter[str]:
    with Ops() as ops:
        run(module, x, call)
    return ops.counts


def test_same_results_and_gradients(model: Any) -> None:
    module, call = model
    module = module.double()
    plain = copy.deepcopy(module)
    report = fastmunit.accelerate(module)
    assert report.replaced
    for n in (1, 3):
        assert_same(run(module, images(n), call), run(plain, images(n), call))
    module.eval(), plain.eval()
    assert_same(run(module, images(2), call), run(plain, images(2), call))
    for (name, buffer), other in zip(module.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(buffer, other, msg=name)


def test_float32_is_as_close_to_float64_as_the_plain_network(model: Any) -> None:
    """A rounding error at a kink of ReLU can change a gradient, so norms are compared, with a minimum tolerance."""
    module, call = model
    plain, exact = copy.deepcopy(module), copy.deepcopy(module).double()
    fastmunit.accelerate(module)
    x = images(2, torch.float32)
    expected = run(exact, x.double(), call)
    ours, theirs = run(module, x, call), run(plain, x, call)
    for name, value in expected.items():
        if name.startswith("result"):
            assert float((ours[name] - value).abs().max()) <= 2e-5 * float(value.abs().max()), name

    def error(found: dict[str, Tensor]) -> float:
        return torch.cat([(found[name] - value).flatten() for name, value in expected.items()]).norm().item()

    assert error(ours) <= 2 * error(theirs) + 1e-3 * torch.cat([v.flatten() for v in expected.values()]).norm()


@pytest.mark.skipif(not KERNELS, reason="no kernels for this CPU were built: the modules' own forward runs")
def test_the_work_goes_through_the_fused_ops() -> None:
    generator = AdaINGen(3, GEN).double()
    before = ops_of(generator, images(1), call_generator)
    fastmunit.accelerate(generator)
    with recompute(False):  # in backward
        after = ops_of(generator, images(1), call_generator)
    assert before["reflection_pad2d"] == 5 + 3 + 4 + 4 + 3 and before["upsample_nearest2d"] == 2
    slow = ("reflection_pad2d", "reflection_pad2d_backward", "native_batch_norm", "std", "upsample_nearest2d")
    assert not [name for name in slow if after[name]]
    assert after["relu_"] == 2  # in the MLP
    # content encoder: pad of the image, 7 norms; style encoder: pad of the image, 5 biases; decoder: pad of the content
    # code, 4 AdaIN, 2 layer norms
    assert after["fused_norm"] == after["fused_norm_backward"] == (1 + 7) + (1 + 5) + (1 + 4 + 2)
    assert sum(after.values()) < 0.75 * sum(before.values())  # most of the others are in convolutions


def test_module_looks_the_same_from_outside() -> None:
    trainer = MUNIT_Trainer({"gen": GEN, "dis": DIS}).eval()
    state = {name: value.clone() for name, value in trainer.state_dict().items()}
    parameters = dict(trainer.named_parameters())
    types = [type(module) for module in trainer.modules()]
    torch.manual_seed(7)
    expected_draw = torch.rand(1)
    torch.manual_seed(7)
    fastmunit.accelerate(trainer)
    assert torch.equal(torch.rand(1), expected_draw), "random numbers were drawn"
    assert list(trainer.state_dict()) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in trainer.state_dict().items())
    assert [*dict(trainer.named_parameters()).values()] == [*parameters.values()] or all(
        p is parameters[name] for name, p in trainer.named_parameters()
    )
    assert [type(module) for module in trainer.modules()] == types
    assert not any(module.training for module in trainer.modules())
    assert all(p.grad is None for p in trainer.parameters())


def test_optimizers_continue() -> None:
    """Losses and translations of two plain and two accelerated iterations equal those of four plain iterations."""
    torch.manual_seed(0)
    plain = MUNIT_Trainer({"gen": GEN, "dis": DIS}).double()
    ours = copy.deepcopy(plain)
    for trainer in (plain, ours):
        trainer.dis_opt = torch.optim.Adam([*trainer.dis_a.parameters(), *trainer.dis_b.parameters()], lr=1e-3)
        trainer.gen_opt = torch.optim.Adam([*trainer.gen_a.parameters(), *trainer.gen_b.parameters()], lr=1e-3)
    losses: dict[MUNIT_Trainer, list[Tensor]] = {plain: [], ours: []}
    for trainer, found in losses.items():
        torch.manual_seed(1)
        for iteration in range(4):
            if trainer is ours and iteration == 2:
                state = torch.get_rng_state()
                assert fastmunit.accelerate(trainer).replaced
                assert torch.equal(torch.get_rng_state(), state)
            x_a, x_b = images(1, seed=iteration), images(1, seed=iteration + 10)
            found += [trainer.dis_update(x_a, x_b), trainer.gen_update(x_a, x_b)]
    torch.testing.assert_close(torch.stack(losses[ours]), torch.stack(losses[plain]), rtol=1e-8, atol=0)
    style = torch.randn(1, 3, 1, 1, dtype=torch.float64)
    translations = [t.gen_b.decode(t.gen_a.encode(images(1))[0], style) for t in (plain, ours)]
    torch.testing.assert_close(*translations, rtol=0, atol=1e-7)
    assert len(ours.gen_opt.state_dict()["state"]) == len(list(ours.gen_a.parameters())) * 2


def test_cancelled_biases_have_gradients_of_zero() -> None:
    generator = AdaINGen(3, GEN).double()
    fastmunit.accelerate(generator)
    run(generator, images(), call_generator)
    zero = {name for name, p in generator.named_parameters() if not p.grad.any()}
    if KERNELS:
        assert zero == {name for name in dict(generator.named_parameters()) if is_cancelled(name)}
    assert all(p.grad is not None for p in generator.parameters())


def is_cancelled(name: str) -> bool:
    return name.endswith("conv.bias") and ("enc_content" in name or "dec.model.0." in name)


def test_adain_parameters_are_read_at_each_call() -> None:
    torch.manual_seed(0)
    generator = AdaINGen(3, GEN).double()
    plain = copy.deepcopy(generator)
    fastmunit.accelerate(generator)
    content, styles = generator.enc_content(images(1)), torch.randn(3, 3, 1, 1, dtype=torch.float64)
    for style in (*styles.split(1), styles):
        expected = plain.decode(content.expand(len(style), -1, -1, -1), style)
        torch.testing.assert_close(generator.decode(content.expand(len(style), -1, -1, -1), style), expected)
    with pytest.raises(RuntimeError):  # from torch's batch norm, as in the plain decoder: these styles are for 3 images
        generator.dec(content)


def test_unassigned_adain_raises_the_modules_own_error() -> None:
    generator = AdaINGen(3, GEN)
    fastmunit.accelerate(generator)
    with pytest.raises(AssertionError, match="assign weight and bias first"):
        generator.dec(torch.zeros(1, 16, 8, 8))


def pickled(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled])
def test_copies_are_accelerated_and_independent(duplicate: Callable[[nn.Module], nn.Module]) -> None:
    torch.manual_seed(0)
    generator = AdaINGen(3, GEN).double()
    fastmunit.accelerate(generator)
    twin = duplicate(generator)
    expected = run(generator, images(), call_generator)
    assert_same(run(twin, images(), call_generator), expected, 0.0)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(1.5)
    changed = run(twin, images(), call_generator)
    assert not torch.equal(changed["result 0"], expected["result 0"])
    assert_same(run(generator, images(), call_generator), expected, 0.0)
    if KERNELS:
        assert ops_of(twin, images(), call_generator)["reflection_pad2d"] == 0
    fastmunit.accelerate(twin).restore()
    assert ops_of(twin, images(), call_generator)["reflection_pad2d"] > 0
    assert_same(run(generator, images(), call_generator), expected, 0.0)


def test_restore_returns_to_the_original_bits() -> None:
    torch.manual_seed(0)
    generator = AdaINGen(3, GEN)
    expected = run(generator, images(2, torch.float32), call_generator)
    report = fastmunit.accelerate(generator)
    report.restore()
    report.restore()
    assert not [module for module in generator.modules() if "forward" in vars(module)]
    assert_same(run(generator, images(2, torch.float32), call_generator), expected, 0.0)


def test_reference_implementation_runs_the_original_forward() -> None:
    torch.manual_seed(0)
    generator = AdaINGen(3, GEN)
    expected = run(generator, images(2, torch.float32), call_generator)
    fastmunit.accelerate(generator)
    with functional.use_implementation("reference"):
        assert_same(run(generator, images(2, torch.float32), call_generator), expected, 0.0)


def test_a_second_call_changes_nothing() -> None:
    generator = AdaINGen(3, GEN)
    first = fastmunit.accelerate(generator)
    forwards = [vars(module).get("forward") for module in generator.modules()]
    second = fastmunit.accelerate(generator)
    assert all(vars(m).get("forward") is f for m, f in zip(generator.modules(), forwards, strict=True))
    assert (second.replaced, second.left) == (first.replaced, first.left)


def test_moving_and_loading_after_acceleration() -> None:
    torch.manual_seed(0)
    generator, other = AdaINGen(3, GEN), AdaINGen(3, GEN)
    fastmunit.accelerate(generator)
    generator.double().to(memory_format=torch.channels_last)
    generator.load_state_dict(other.state_dict())
    x = images().to(memory_format=torch.channels_last)
    assert_same(run(generator, x, call_generator), run(other.double(), images(), call_generator))


def test_autocast() -> None:
    """The plain decoder's batch norm does not run under autocast on the CPU, so only the encoders are compared."""
    torch.manual_seed(0)
    generator = AdaINGen(3, GEN)
    plain = copy.deepcopy(generator)
    fastmunit.accelerate(generator)
    x = images(2, torch.float32)
    with torch.no_grad():
        exact = call_generator(plain, x)
        with torch.autocast("cpu", torch.bfloat16):
            theirs, ours = plain.encode(x), call_generator(generator, x)
    for found, other, value in zip(ours, theirs, exact, strict=False):
        assert found.dtype == torch.bfloat16
        assert (found - value).norm() <= 1.5 * (other - value).norm()
    if KERNELS:
        assert (ours[2] - exact[2]).norm() <= 5e-2 * exact[2].norm()


# Modules that only look like supported ones.


class PlusOneNorm(AdaptiveInstanceNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x * 0.01


class BiasedLayerNorm(LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        std, mean = torch.std_mean(x, dim=(1, 2, 3), correction=0, keepdim=True)
        return (x - mean) / (std + self.eps) * self.gamma.view(1, -1, 1, 1) + self.beta.view(1, -1, 1, 1)


class EpsInside(LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        var, mean = torch.var_mean(x, dim=(1, 2, 3), keepdim=True)
        return (x - mean) * (var + self.eps).rsqrt() * self.gamma.view(1, -1, 1, 1) + self.beta.view(1, -1, 1, 1)


class NormFirst(Conv2dBlock):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.activation(self.conv(self.pad(x))))


class Detached(Conv2dBlock):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.detach())


class InEvalOnly(Conv2dBlock):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.training else self.conv(self.pad(x))


class Remembers(Conv2dBlock):
    def forward(self, x: Tensor) -> Tensor:
        self.last = super().forward(x)
        return self.last


class Scaled(ResBlock):
    def forward(self, x: Tensor) -> Tensor:
        out = self.model(x)
        out += 0.5 * x
        return out


class WithPair(ResBlock):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x), x


def norm_block(norm: nn.Module) -> nn.Module:
    block = Conv2dBlock(4, 4, 3, 1, 1, "in", "relu", "reflect")
    block.norm = norm
    return block


LOOKALIKES: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "AdaIN that adds": (lambda: norm_block(PlusOneNorm(4)), "norm", "another result"),
    "layer norm with the biased std": (lambda: norm_block(BiasedLayerNorm(4)), "norm", "another result"),
    "layer norm with eps inside": (lambda: norm_block(EpsInside(4)), "norm", "another result"),
    "norm after activation": (lambda: NormFirst(4, 4, 3, 1, 1, "in", "lrelu", "reflect"), "", "another result"),
    "detached": (lambda: Detached(4, 4, 3, 1, 1, "in", "relu", "reflect"), "", "another gradient"),
    "other in eval mode": (lambda: InEvalOnly(4, 4, 3, 1, 1, "in", "relu", "reflect"), "", "another result"),
    "sets attributes": (lambda: Remembers(4, 4, 3, 1, 1, "in", "relu", "reflect"), "", r"sets attributes \(last\)"),
    "scaled sum": (lambda: Scaled(4, "in", "relu", "reflect"), "", "another result"),
    "two results": (lambda: WithPair(4, "in", "relu", "reflect"), "", "is a tuple, not a tensor"),
    "running statistics": (
        lambda: norm_block(nn.InstanceNorm2d(4, track_running_stats=True)),
        "norm",
        "keeps running statistics",
    ),
    "group norm": (lambda: norm_block(nn.GroupNorm(2, 4)), "norm", "not a known layer"),
}


@pytest.mark.parametrize("case", LOOKALIKES)
def test_deceptive_modules_are_left_with_a_reason(case: str) -> None:
    make, path, reason = LOOKALIKES[case]
    torch.manual_seed(0)
    module = nn.Sequential(nn.Identity(), make().double())
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    for norm in module.modules():
        if isinstance(norm, AdaptiveInstanceNorm2d):
            norm.weight, norm.bias = torch.rand(2, 8, dtype=torch.float64) + 1
    plain = copy.deepcopy(module)
    report = fastmunit.accelerate(module)
    entries = [entry for entry in report.left if entry.path == f"1.{path}".rstrip(".")]
    assert len(entries) == 1
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(entries[0].text)
    assert str(entries[0]) in str(report)
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    assert_same(run(module, x), run(plain, x))
    module.eval(), plain.eval()
    assert_same(run(module, x), run(plain, x))


class WithOptions(ResBlock):
    """A block whose forward reads attributes. Their initial values make it a plain block."""

    def __init__(self) -> None:
        super().__init__(4, "in", "relu", "reflect")
        self.scale, self.after = 1.0, [nn.functional.relu6]
        self.is_used = False

    def forward(self, x: Tensor) -> Tensor:
        y = self.scale * self.model(x) + x
        return self.after[0](y) if self.is_used else y


@pytest.mark.parametrize("inside", [False, True], ids=["itself", "inside"])
@pytest.mark.parametrize(
    "change", [{"scale": 0.3}, {"scale": torch.tensor([0.3, 0.4]).view(2, 1, 1, 1)}, {"is_used": True}]
)
def test_a_new_value_of_an_attribute_has_an_effect(change: dict[str, Any], inside: bool) -> None:
    torch.manual_seed(0)
    block = WithOptions().double()
    chain = nn.Sequential(block) if inside else block
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    before = chain(x)
    report = fastmunit.accelerate(chain)
    assert "" in {entry.path for entry in report.replaced}
    torch.testing.assert_close(chain(x), before)
    for module in (chain, copy.deepcopy(chain)):
        for name, value in change.items():
            setattr(module[0] if inside else module, name, value)  # type: ignore[index]
        found = module(x)
        fastmunit.accelerate(module).restore()
        torch.testing.assert_close(found, module(x))
        assert not torch.allclose(found, before)


def test_a_norm_that_starts_to_track_statistics() -> None:
    norm = nn.InstanceNorm2d(4)
    fastmunit.accelerate(norm)
    norm.register_buffer("running_mean", torch.full((4,), 2.0))
    norm.register_buffer("running_var", torch.ones(4))
    norm.track_running_stats = True
    x = torch.randn(2, 4, 5, 6)
    torch.testing.assert_close(norm.eval()(x), (x - 2) * (1 + norm.eps) ** -0.5)


@pytest.mark.parametrize("registered", [True, False], ids=["buffer", "attribute"])
def test_a_tensor_attribute_equal_to_one_is_detected(registered: bool) -> None:
    """It may change later, so a forward that uses it is not supported. The user's tensor is not modified."""

    class Gated(ResBlock):
        def forward(self, x: Tensor) -> Tensor:
            return self.gate * self.model(x) + x

    block = Gated(4, "in", "relu", "reflect").double()
    gate = torch.ones(1, dtype=torch.float64)
    if registered:
        block.register_buffer("gate", gate)
    else:
        block.gate = gate
    report = fastmunit.accelerate(block)
    assert [entry.path for entry in report.left] == [""] and "another result" in report.left[0].text
    assert gate.item() == 1


def test_a_shared_module_is_verified_first() -> None:
    norm = norm_block(PlusOneNorm(4)).norm
    norm.weight, norm.bias = torch.rand(2, 8)
    chain = nn.Sequential(nn.Sequential(norm), nn.Sequential(norm, nn.ReflectionPad2d(1), nn.Conv2d(4, 4, 3)))
    report = fastmunit.accelerate(chain)
    assert [entry.path for entry in report.left] == ["0.0"]
    assert {entry.path for entry in report.replaced} == {"", "1"}  # pads are fused, the norm is called
    x = torch.randn(2, 4, 9, 8)
    found = chain(x)
    report.restore()
    torch.testing.assert_close(found, chain(x))


def test_a_forward_set_on_the_module_is_not_replaced() -> None:
    norm = nn.InstanceNorm2d(4)
    norm.forward = lambda x: x + 1  # type: ignore[method-assign]
    block = norm_block(norm)
    report = fastmunit.accelerate(block)
    assert [entry.path for entry in report.left] == ["norm"] and "set on the module" in report.left[0].text
    x = torch.randn(2, 4, 9, 8)
    torch.testing.assert_close(block(x), torch.relu(block.conv(block.pad(x)) + 1))


def test_hooks_run_and_are_reported() -> None:
    seen: list[str] = []
    block = Conv2dBlock(4, 4, 3, 1, 1, "in", "relu", "reflect")
    block.norm.register_forward_hook(lambda *_: seen.append("norm"))
    chain = nn.Sequential(block, nn.ReLU())
    report = fastmunit.accelerate(chain)
    assert seen == []
    assert [(entry.path, entry.text.partition(",")[0]) for entry in report.left] == [("0.norm", "it has hooks")]
    chain(torch.randn(2, 4, 9, 8))
    assert seen == ["norm"]
    block.activation.register_forward_hook(lambda *_: seen.append("activation"))
    block.conv.register_forward_pre_hook(lambda *_: seen.append("conv"))
    block.register_forward_hook(lambda *_: seen.append("block"))
    chain(torch.randn(2, 4, 9, 8))
    assert seen == ["norm", "conv", "norm", "activation", "block"]


CHANGES: dict[str, Callable[[nn.Sequential], None]] = {
    "another layer": lambda chain: chain.__setitem__(3, nn.Tanh()),
    "one more": lambda chain: chain.append(nn.Tanh()),
    "another pad": lambda chain: setattr(chain[0], "padding", (2, 2, 2, 2)),
    "another slope": lambda chain: setattr(chain[3], "negative_slope", 0.7),
    "another eps": lambda chain: setattr(chain[2], "eps", 0.5),
    "another stride": lambda chain: setattr(chain[1], "stride", (2, 2)),
    "other weights": lambda chain: setattr(chain[1], "weight", nn.Parameter(torch.rand(4, 4, 3, 3).double())),
    "no bias": lambda chain: setattr(chain[1], "bias", None),
    "weight norm": lambda chain: torch.nn.utils.parametrizations.weight_norm(chain[1]),
    "forward": lambda chain: setattr(chain[2], "forward", torch.tanh),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_after_acceleration_have_an_effect(change: str) -> None:
    torch.manual_seed(0)
    chain = nn.Sequential(
        nn.ReflectionPad2d(1), nn.Conv2d(4, 4, 3), nn.InstanceNorm2d(4), nn.LeakyReLU(0.1), nn.ReflectionPad2d(1)
    ).double()
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    before = chain(x)
    report = fastmunit.accelerate(chain)
    torch.testing.assert_close(chain(x), before)
    torch.manual_seed(1)
    CHANGES[change](chain)
    found = chain(x)
    report.restore()
    if change == "forward":
        chain[2].forward = torch.tanh  # type: ignore[method-assign]
    torch.testing.assert_close(found, chain(x))
    assert change in ("no bias", "weight norm") or found.shape != before.shape or not torch.allclose(found, before)


def test_results_may_be_written_in_place() -> None:
    """The public residual block adds in place to the results of its blocks."""
    torch.manual_seed(0)
    block = Scaled(4, "in", "relu", "reflect").double()
    plain = copy.deepcopy(block)
    report = fastmunit.accelerate(block)
    assert {entry.path for entry in report.replaced} >= {"model", "model.1"}
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    assert_same(run(block, x), run(plain, x))


def test_an_input_is_modified_only_if_the_network_does_so() -> None:
    torch.manual_seed(0)
    chain = nn.Sequential(nn.ReLU(inplace=True), nn.ReflectionPad2d(1), nn.ReLU(inplace=True), nn.InstanceNorm2d(4))
    plain = copy.deepcopy(chain)
    fastmunit.accelerate(chain)
    x = torch.randn(2, 4, 9, 8)
    ours, theirs = x.clone(), x.clone()
    torch.testing.assert_close(chain(ours), plain(theirs))
    assert torch.equal(ours, theirs) and not torch.equal(ours, x)

    class ResnetBlock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv_block = nn.Sequential(nn.ReflectionPad2d(1), nn.LeakyReLU(0.2, inplace=True), nn.Conv2d(4, 4, 3))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.conv_block(x)

    chain = nn.Sequential(nn.InstanceNorm2d(4), ResnetBlock(), ResnetBlock()).double()
    plain = copy.deepcopy(chain)
    assert "" in {entry.path for entry in fastmunit.accelerate(chain).replaced}
    assert_same(run(chain, x.double()), run(plain, x.double()))


class ResnetBlock(nn.Module):
    """CycleGAN's residual block."""

    def __init__(self, dim: int, dropout: bool) -> None:
        super().__init__()
        half = [nn.ReflectionPad2d(1), nn.Conv2d(dim, dim, 3), nn.InstanceNorm2d(dim)]
        layers = [*half, nn.ReLU(True), *([nn.Dropout(0.5)] if dropout else []), *copy.deepcopy(half)]
        self.conv_block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


def cycle_gan_generator(dim: int = 4, dropout: bool = False, affine: bool = False) -> nn.Sequential:
    return nn.Sequential(
        nn.ReflectionPad2d(3), nn.Conv2d(3, dim, 7), nn.InstanceNorm2d(dim, affine=affine), nn.ReLU(True),
        nn.Conv2d(dim, 2 * dim, 3, 2, 1), nn.InstanceNorm2d(2 * dim, affine=affine), nn.ReLU(True),
        ResnetBlock(2 * dim, dropout), ResnetBlock(2 * dim, dropout),
        nn.ConvTranspose2d(2 * dim, dim, 3, 2, 1, 1), nn.InstanceNorm2d(dim, affine=affine), nn.ReLU(True),
        nn.ReflectionPad2d(3), nn.Conv2d(dim, 3, 7), nn.Tanh(),
    )  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"dropout": True}, {"affine": True}], ids=str)
def test_cycle_gan(options: dict[str, bool]) -> None:
    torch.manual_seed(0)
    generator = cycle_gan_generator(**options).double()
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    plain = copy.deepcopy(generator)
    report = fastmunit.accelerate(generator)
    assert report.replaced[0].path == "" and report.left == []
    assert_same(run(generator, images()), run(plain, images()))
    if KERNELS:
        assert ops_of(generator, images())["reflection_pad2d"] == 0


def test_a_single_norm() -> None:
    norm = nn.InstanceNorm2d(4)
    report = fastmunit.accelerate(norm)
    assert str(report) == "replaced:\n  (itself) (InstanceNorm2d): 1 fused op for 1 norm\nleft unchanged:\n  nothing"
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(norm(x), nn.functional.instance_norm(x))
    torch.testing.assert_close(norm(x[0]), nn.InstanceNorm2d(4)(x[0]))  # no batch dimension: torch's own forward
    with pytest.raises(ValueError, match=r"more than 1 spatial element|more than one pixel"):
        norm(x[:, :, :1, :1])


def test_a_network_that_needs_larger_maps_is_left_unchanged() -> None:
    chain = nn.Sequential(nn.InstanceNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64 * 64, 2))
    report = fastmunit.accelerate(chain)
    assert [entry.path for entry in report.replaced] == ["0"]
    assert [entry.path for entry in report.left] == [""]
    assert report.left[0].text.startswith("it cannot be verified on a small random map: RuntimeError: ")
    assert chain(torch.randn(1, 4, 64, 64)).shape == (1, 2)


def test_a_trainer_that_is_not_a_module() -> None:
    class Trainer:
        def __init__(self) -> None:
            self.gen, self.steps = AdaINGen(3, GEN), 0

    trainer = Trainer()
    report = fastmunit.accelerate(trainer)
    assert {"gen.enc_content", "gen.dec", "gen.enc_style"} <= {entry.path for entry in report.replaced}


@pytest.mark.parametrize("wrong", [3, "gen.pt", None, {"gen": nn.ReLU()}, object()])
def test_an_object_without_modules_is_an_error(wrong: object) -> None:
    with pytest.raises(TypeError, match="accelerate: expected a module or an object with modules as attributes"):
        fastmunit.accelerate(wrong)


def test_nothing_to_accelerate() -> None:
    report = fastmunit.accelerate(nn.Sequential(nn.Linear(2, 3), nn.ReLU()))
    assert (report.replaced, report.left) == ([], [])
    assert str(report) == "replaced:\n  nothing\nleft unchanged:\n  nothing"


def test_meta_tensors_and_our_own_networks_are_left_unchanged() -> None:
    with torch.device("meta"):
        block = Conv2dBlock(4, 4, 3, 1, 1, "in", "relu", "reflect")
    assert {entry.text for entry in fastmunit.accelerate(block).left} == {
        "it is on the meta device, where it cannot be verified"
    }
    from fastmunit.nn.layers.blocks import ResBlock as OurResBlock

    report = fastmunit.accelerate(OurResBlock(4))
    assert report.replaced == [] and {entry.text for entry in report.left} == {"it is fastmunit's own"}


@pytest.mark.filterwarnings("ignore")
def test_compiles_in_one_graph() -> None:
    torch.manual_seed(0)
    block = lookalike.ResBlocks(1, 4, "in", "relu", "reflect").double()
    fastmunit.accelerate(block)
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    expected = run(block, x)
    assert_same(run(block, x, lambda _, x: compiled(x)), expected)
