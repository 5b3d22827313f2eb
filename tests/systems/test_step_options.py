"""Tests of options that change how an iteration is computed: the result is the same, or differs as documented."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastmunit import functional
from fastmunit.config import Config
from fastmunit.errors import ConfigError
from fastmunit.systems.munit import MUNIT
from fastmunit.systems.parts.cuda_graph import CapturedIteration, _settings, make_capturable
from fastmunit.systems.parts.hyperparameters import read_weights
from fastmunit.testing import saved_bytes

OVERRIDES = [
    "gen.dim=4", "gen.mlp_dim=8", "gen.n_res=1", "dis.dim=4", "dis.n_layer=2", "dis.num_scales=2", "display_size=2",
]  # fmt: skip


def trainer_of(*overrides: str, **options: bool) -> MUNIT:
    torch.manual_seed(0)
    return MUNIT(Config.load("demo", [*OVERRIDES, *overrides]), **options)


def images(batch: int = 2, seed: int = 1, size: int = 32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.rand(batch, 3, size, size, generator=generator) * 2 - 1 for _ in range(2))
    return a, b


def run(trainer: MUNIT, steps: int = 2, batch: int = 2, dtype: torch.dtype = torch.float32) -> MUNIT:
    torch.manual_seed(3)
    for index in range(steps):
        trainer.step(*(x.to(dtype) for x in images(batch, index)))
    return trainer


def both_halves(trainer: MUNIT, x_a: Tensor, x_b: Tensor, styles: tuple[Tensor, Tensor]) -> None:
    """Run an iteration with the same given styles in both halves."""
    weights = read_weights(trainer.weight_keys, None, trainer.config)
    trainer.run_halves({"dis": (x_a, x_b, *styles), "gen": (x_a, x_b, *styles)}, weights)


def largest_difference(ours: nn.Module, theirs: nn.Module) -> float:
    """Return the largest difference of weights, relative to the largest weight of each tensor."""
    expected = dict(theirs.named_parameters())
    return max(
        float((p.detach() - expected[name].detach()).abs().max() / expected[name].detach().abs().max().clamp_min(1e-6))
        for name, p in ours.named_parameters()
    )


def test_micro_batches_are_the_whole_batch() -> None:
    whole, parts = trainer_of().double(), trainer_of("micro_batches=2").double()
    x_a, x_b = (x.double() for x in images(4))
    for trainer in (whole, parts):
        torch.manual_seed(3)
        trainer.step(x_a, x_b)
    for name, loss in whole.losses().items():
        assert float(parts.losses()[name]) == pytest.approx(float(loss), rel=1e-12), name
    assert_scales_add_up(parts)
    for name, scales in whole.scale_losses().items():
        assert [float(loss) for loss in parts.scale_losses()[name]] == pytest.approx([*map(float, scales)], rel=1e-12)
    for ours, theirs in zip(parts.parameters(), whole.parameters(), strict=True):
        if theirs.grad is not None and ours.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12)


def assert_scales_add_up(trainer: MUNIT) -> None:
    losses, scales = trainer.losses(), trainer.scale_losses()
    assert [*scales] == ["loss_dis_a", "loss_dis_b", "loss_gen_adv_a", "loss_gen_adv_b"]
    for name, parts in scales.items():
        assert len(parts) == trainer.config.dis.num_scales
        assert sum(map(float, parts)) == pytest.approx(float(losses[name]), rel=1e-6)
        assert not any(part.requires_grad for part in parts)


def test_adversarial_losses_of_a_half_are_one_op() -> None:
    class Ops(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if "gan_loss" in str(func):
                called.append(
                    f"{func.overloadpacket.__name__} of {len(args[2 if 'backward' in str(func) else 0])} maps"
                )
            return func(*args, **(kwargs or {}))

    called: list[str] = []
    trainer = trainer_of()
    assert trainer.scale_losses() == {}
    with Ops():
        trainer.step(*images())
    maps = 2 * trainer.config.dis.num_scales  # both domains; each map holds fake and real outputs, or those of fakes
    assert called == [f"gan_loss of {maps} maps", f"gan_loss_backward of {maps} maps"] * 2
    assert_scales_add_up(trainer)
    with functional.use_implementation("reference"):
        trainer.step(*images())
    assert len(called) == 4
    assert_scales_add_up(trainer)


def test_micro_batches_must_divide_the_batch() -> None:
    with pytest.raises(ValueError, match="a batch of 3 does not split into micro_batches = 2"):
        trainer_of("micro_batches=2").dis_update(*images(3))


@pytest.mark.parametrize("implementation", ["reference", "auto"])
def test_checkpointing_changes_no_bit_and_keeps_less(implementation: functional.Implementation) -> None:
    plain, frugal = trainer_of(), trainer_of("checkpointing=true")
    with functional.use_implementation(implementation):
        assert largest_difference(run(frugal), run(plain)) == 0.0
        kept = [
            saved_bytes(lambda t=t: t.gen_update(*images()), [*t.parameters()])  # type: ignore[misc]
            for t in (frugal, plain)
        ]
    assert kept[0] < 0.5 * kept[1]


def calls_of(trainer: MUNIT, name: str, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    original: Callable[..., object] = getattr(trainer, name)

    def counted(*args: object) -> object:
        calls.append(1)
        return original(*args)

    monkeypatch.setattr(trainer, name, counted)
    return calls


@pytest.mark.parametrize("implementation", ["reference", "auto"])
@pytest.mark.parametrize("together", [True, False])
def test_share_fakes_is_one_draw_and_one_decoding(
    implementation: functional.Implementation, together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, separate = trainer_of("share_fakes=true").double(), trainer_of().double()
    x_a, x_b = (x.double() for x in images())
    draws = calls_of(shared, "draw", monkeypatch)
    generated = calls_of(shared, "_generate", monkeypatch)
    torch.manual_seed(3)
    styles = separate.draw(x_a, x_b)
    with functional.use_implementation(implementation):
        both_halves(separate, x_a, x_b, styles)
        torch.manual_seed(3)
        if together:
            shared.update(x_a, x_b)
        else:
            shared.dis_update(x_a, x_b)
            shared.gen_update(x_a.clone(), x_b)  # another tensor, so translations are computed again
    assert (len(draws), len(generated)) == (1, 1 if together else 2)
    for name, loss in separate.losses().items():
        assert float(shared.losses()[name]) == pytest.approx(float(loss), rel=1e-9), name
    for ours, theirs in zip(shared.parameters(), separate.parameters(), strict=True):
        if theirs.grad is not None and ours.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_low_precision_stays_close(precision: str) -> None:
    exact, rounded = run(trainer_of(), steps=1), run(trainer_of(f"precision={precision}"), steps=1)
    for name, loss in exact.losses().items():
        assert float(rounded.losses()[name]) == pytest.approx(float(loss), rel=0.05, abs=1e-3), name
    assert all(p.dtype == torch.float32 for p in rounded.parameters())
    assert all(torch.isfinite(p).all() for p in rounded.parameters())


def test_float16_scales_its_losses_and_skips_what_overflows() -> None:
    trainer = run(trainer_of("precision=float16"), steps=4)
    scales = trainer.resume_state()["scalers"]
    assert all(2**8 <= state["scale"] <= 2**16 for state in scales.values())
    assert largest_difference(trainer, trainer_of()) > 1e-4
    before = {name: p.detach().clone() for name, p in trainer.gen_a.named_parameters()}
    trainer.stepper.scalers["gen"].load_state_dict({**scales["gen"], "scale": 1e38})
    trainer.step(*images())
    assert trainer.resume_state()["scalers"]["gen"]["scale"] == pytest.approx(5e37, rel=1e-3)
    assert all(torch.equal(p, before[name]) for name, p in trainer.gen_a.named_parameters())
    other = trainer_of("precision=float16")
    other.load_resume_state(trainer.resume_state())
    assert other.resume_state()["scalers"] == trainer.resume_state()["scalers"]


def test_channels_last_is_the_same_training() -> None:
    plain, last = trainer_of().double(), trainer_of("memory_format=channels_last").double()
    assert last.gen_a.enc_content.model[0].conv.weight.is_contiguous(memory_format=torch.channels_last)
    for trainer in (plain, last):
        run(trainer, steps=1, dtype=torch.float64)
    for name, loss in plain.losses().items():
        assert float(last.losses()[name]) == pytest.approx(float(loss), rel=1e-9), name


def compiled(trainer: MUNIT, backend: str) -> MUNIT:
    for network in trainer.compiled_networks():
        network.compile(fullgraph=True, dynamic=False, backend=backend)
    return trainer


@pytest.mark.parametrize(
    ("backend", "precision"),
    [
        ("aot_eager", "float32"),
        pytest.param("aot_eager", "bfloat16", marks=pytest.mark.slow),
        pytest.param("inductor", "float32", marks=pytest.mark.slow),
        pytest.param("inductor", "bfloat16", marks=pytest.mark.slow),
    ],
)
def test_compiled_networks_have_no_breaks_and_no_recompiles(backend: str, precision: str) -> None:
    torch._dynamo.reset()
    plain, fast = trainer_of(f"precision={precision}"), compiled(trainer_of(f"precision={precision}"), backend)
    run(plain)
    run(fast)
    with torch._dynamo.config.patch(error_on_recompile=True):
        run(plain)
        run(fast)
    for name, loss in plain.losses().items():
        tolerance = 1e-3 if precision == "float32" else 0.05
        assert float(fast.losses()[name]) == pytest.approx(float(loss), rel=tolerance, abs=1e-4), name
    assert fast.state_dict().keys() == plain.state_dict().keys()


def test_a_recompile_would_be_noticed() -> None:
    torch._dynamo.reset()
    trainer = run(compiled(trainer_of(), "aot_eager"), steps=1)
    with torch._dynamo.config.patch(error_on_recompile=True), pytest.raises(torch._dynamo.exc.RecompileError):
        trainer.step(*images(size=40))


def test_compile_compiles_every_network(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, object]] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: calls.append({"net": self, **options}))
    trainer = trainer_of("compile=true")
    assert [call["net"] for call in calls] == trainer.compiled_networks()
    assert all(call["fullgraph"] for call in calls)
    reached = {id(p) for net in trainer.compiled_networks() for p in net.parameters()}
    assert {n for n, p in trainer.named_parameters() if id(p) not in reached} == {
        f"gen_{domain}.mlp.model.{layer}.fc.{kind}"
        for domain in "ab"
        for layer in range(3)
        for kind in ("weight", "bias")
    }


class Synchronizing(TorchDispatchMode):
    """A mode that records the ops whose result the host waits for."""

    NAMES = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "item", "masked_select", "unique")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = function.overloadpacket.__name__
        if name in self.NAMES:
            self.found.append(name)
        return function(*args, **(kwargs or {}))


def halves(trainer: MUNIT, device: str) -> None:
    x_a, x_b = (x.to(device) for x in images())
    both_halves(trainer, x_a, x_b, (torch.zeros(2, 8, 1, 1, device=device), torch.zeros(2, 8, 1, 1, device=device)))


@pytest.mark.parametrize("overrides", [[], ["precision=bfloat16"], ["share_fakes=true"], ["recon_x_cyc_w=1"]])
def test_an_iteration_never_waits_for_the_device(overrides: list[str]) -> None:
    trainer = trainer_of(*overrides)
    halves(trainer, "cpu")  # the first step of an optimizer creates its state
    with Synchronizing() as mode:
        halves(trainer, "cpu")
    assert mode.found == []
    with Synchronizing() as mode:
        float(trainer.loss_gen_total)
    assert mode.found == ["_local_scalar_dense"]


def test_an_iteration_reads_no_value() -> None:
    """On the meta device there are no values, so reading one, or copying one to the host, is an error."""
    trainer = trainer_of().to("meta")
    halves(trainer, "meta")
    with pytest.raises(RuntimeError):
        float(trainer.loss_gen_total)


def test_cuda_graph_needs_cuda_and_a_fixed_scale() -> None:
    with pytest.raises(ConfigError, match="bring the images to the model's device"):
        trainer_of("cuda_graph=true").step(*images())
    with pytest.raises(ConfigError, match="use bfloat16"):
        trainer_of("cuda_graph=true", "precision=float16")
    assert isinstance(pickle.loads(pickle.dumps(CapturedIteration())), CapturedIteration)


def test_optimizers_of_cuda_graphs_write_public_files() -> None:
    from fastmunit.systems.parts.optimizer_state import as_public, run_as

    plain, graphed = trainer_of(), trainer_of("cuda_graph=true")
    make_capturable([graphed.gen_opt], torch.device("cpu"))
    run(plain, steps=1)
    graphed.gen_opt.load_state_dict(run_as(graphed.gen_opt, plain.gen_opt.state_dict()))
    group = graphed.gen_opt.param_groups[0]
    assert isinstance(group["lr"], Tensor)
    assert group["capturable"]
    public = as_public(graphed.gen_opt)["param_groups"][0]
    assert isinstance(public["lr"], float)
    assert public["capturable"] is False
    assert public["lr"] == pytest.approx(plain.gen_opt.param_groups[0]["lr"])


@pytest.mark.gpu
@pytest.mark.parametrize("overrides", [[], ["precision=bfloat16"], ["share_fakes=true"], ["ema_decay=0.9"]])
def test_a_graph_is_the_same_training(overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay gives the same bits, also after the weights have moved to other memory."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    trainers = [trainer_of(f"cuda_graph={on}", *overrides).cuda() for on in ("false", "auto")]
    assert [trainer.replays for trainer in trainers] == [False, True]
    for trainer in trainers:
        torch.manual_seed(3)
        for index in range(12):
            if index == 6:
                trainer.cpu().cuda()
            x_a, x_b = images(seed=index)
            trainer.step(x_a.cuda(), x_b.cuda())
    for name, loss in trainers[0].losses().items():
        assert float(trainers[1].losses()[name]) == float(loss), name
    assert largest_difference(trainers[1], trainers[0]) == 0.0


def test_a_graph_is_of_one_state_of_its_optimizers() -> None:
    """Averages at other addresses, as after loading a state, need another capture."""
    trainer = run(trainer_of(), steps=1)
    optimizer = trainer.gen_opt
    make_capturable([optimizer], torch.device("cpu"))
    before = _settings(optimizer)
    assert _settings(optimizer) == before
    held = [state["exp_avg"] for state in optimizer.state.values()]  # so that no address is reused
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert _settings(optimizer) != before
    optimizer.state.clear()
    assert _settings(optimizer) != before
    assert len(held) > 0
    optimizer.param_groups[0]["lr"] = 1
    make_capturable([optimizer], torch.device("cpu"))
    assert optimizer.param_groups[0]["lr"].dtype == torch.float32


@pytest.mark.gpu
def test_another_optimizer_state_or_rate_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes after a capture take effect too."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    trainers = [trainer_of(f"cuda_graph={on}").cuda() for on in ("false", "true")]
    for trainer in trainers:
        torch.manual_seed(3)
        for index in range(24):
            if index == 8:
                trainer.gen_opt.load_state_dict(copy.deepcopy(trainer.gen_opt.state_dict()))
            if index == 16:
                trainer.dis_opt.param_groups[0]["lr"] = 5e-4
            trainer.step(*(x.cuda() for x in images(seed=index)))
    for name, loss in trainers[0].losses().items():
        assert float(trainers[1].losses()[name]) == pytest.approx(float(loss), rel=1e-4), name


@pytest.mark.gpu
def test_losses_of_a_replayed_iteration_are_left_alone() -> None:
    trainer = trainer_of().cuda()
    kept, then = [], []
    for index in range(7):
        trainer.step(*(x.cuda() for x in images(seed=index)))
        kept.append(trainer.loss_gen_total)
        then.append(float(trainer.loss_gen_total))
    assert [float(loss) for loss in kept] == then
    assert len(set(then)) == 7


def test_graphs_are_replayed_where_they_can_be() -> None:
    assert not trainer_of().replays  # on the CPU
    assert trainer_of("cuda_graph=true").replays
    assert not trainer_of("cuda_graph=false").replays


def test_averages_follow_the_weights(tmp_path) -> None:  # type: ignore[no-untyped-def]
    trainer = run(trainer_of("ema_decay=0.75"), steps=1)
    expected = {name: p.detach().double() for name, p in trainer.gen_b.named_parameters()}
    torch.manual_seed(3)
    for index in range(3):
        trainer.step(*images(seed=index))
        for name, p in trainer.gen_b.named_parameters():
            expected[name] = 0.75 * expected[name] + 0.25 * p.detach().double()
    weights = copy.deepcopy(trainer.gen_b.state_dict())
    trainer.save(tmp_path, 3)
    averaged = torch.load(tmp_path / "ema_00000004.pt", weights_only=True)["b"]
    for name, value in expected.items():
        torch.testing.assert_close(averaged[name].double(), value, rtol=1e-5, atol=1e-7)
    assert all(torch.equal(weights[name], value) for name, value in trainer.gen_b.state_dict().items())
    inside = trainer.evaluation_generators()["b"].state_dict()
    assert all(torch.equal(inside[name], value) for name, value in averaged.items())
    other = trainer_of("ema_decay=0.75")
    assert other.resume(tmp_path) == 4
    torch.manual_seed(9)
    trainer.step(*images())
    torch.manual_seed(9)
    other.step(*images())
    assert largest_difference(*(nn.ModuleDict(t.evaluation_generators()) for t in (other, trainer))) == 0.0


@pytest.mark.parametrize("decay", [0.999, 0.2])
def test_warm_up_of_averages_continues_after_a_resume(decay: float, tmp_path) -> None:  # type: ignore[no-untyped-def]
    overrides = (f"ema_decay={decay}", "ema_warmup=true")
    trainer = trainer_of(*overrides)
    expected: dict[str, Tensor] = {}
    for iteration in range(1, 6):
        trainer.step(*images(seed=iteration))
        used = min(decay, (1 + iteration) / (10 + iteration))
        for name, p in trainer.gen_a.named_parameters():
            value = p.detach().double()
            expected[name] = value if iteration == 1 else used * expected[name] + (1 - used) * value
        averages = dict(trainer.evaluation_generators()["a"].named_parameters())
        for name, value in expected.items():
            torch.testing.assert_close(averages[name].double(), value, rtol=1e-5, atol=1e-7)
        if iteration == 3:
            trainer.save(tmp_path, iteration - 1)
            trainer = trainer_of(*overrides)
            assert trainer.resume(tmp_path) == 3
            assert trainer.steps_done == {"dis": 3, "gen": 3}
    with pytest.raises(ConfigError, match="ema_warmup needs an ema_decay above 0"):
        trainer_of("ema_warmup=true")


def test_sample_in_one_batch_is_the_same() -> None:
    trainer = trainer_of().double()
    x_a, x_b = (x.double() for x in images())
    results = []
    for implementation in ("reference", "auto"):
        torch.manual_seed(5)
        with functional.use_implementation(implementation):  # type: ignore[arg-type]
            results.append(trainer.sample(x_a, x_b))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


def test_recompute_changes_memory_alone() -> None:
    trainers = {form: trainer_of(f"recompute={form}") for form in ("always", "never", "auto")}
    kept = {
        form: saved_bytes(lambda t=t: run(t, steps=1), [*t.parameters()])  # type: ignore[misc]
        for form, t in trainers.items()
    }
    assert kept["always"] == kept["auto"] < 0.8 * kept["never"]
    assert largest_difference(trainers["always"], trainers["never"]) == 0.0
    low = trainer_of("precision=bfloat16")
    never = trainer_of("precision=bfloat16", "recompute=never")
    saved_low = [saved_bytes(lambda t=t: run(t, steps=1), [*t.parameters()]) for t in (low, never)]  # type: ignore[misc]
    assert saved_low[0] == saved_low[1]
