"""Iterations under autocast: what they share changes no result, and networks that are frozen compute no gradients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fastmunit import distributed
from fastmunit.config import Config
from fastmunit.distributed import OverlappedAverage, overlap
from fastmunit.nn.fused import few_channel_conv
from fastmunit.systems import base, registry
from fastmunit.systems.base import System
from fastmunit.systems.parts.hyperparameters import read_weights

_SIZE = ["new_size=32", "crop_image_height=32", "crop_image_width=32", "vgg_w=0"]
_AUTOENCODER = ["gen.dim=4", "gen.mlp_dim=8", "gen.n_res=1", "dis.dim=7", "dis.n_layer=2", "dis.num_scales=2"]
_BICYCLE = [
    "gen.dim=3", "gen.style_dim=3", "options.num_downs=4", "options.encoder_dim=4", "options.encoder_blocks=2",
    "dis.dim=7", "dis.n_layer=1",
]  # fmt: skip
SYSTEMS = {
    "munit": ["munit", *_AUTOENCODER],
    "unit": ["unit", *_AUTOENCODER, "options.share_latent_blocks=1"],
    "cyclegan": ["cyclegan", "gen.dim=3", "gen.n_res=1", "gen.n_downsample=1", "dis.dim=7", "dis.n_layer=1"],
    "cyclegan, U-Net": [
        "cyclegan", "gen.dim=3", "options.generator=unet", "options.num_downs=4", "options.noise_dim=2", "dis.dim=7",
        "dis.n_layer=1",
    ],
    "bicyclegan": ["bicyclegan", *_BICYCLE],
    "bicyclegan, clr": ["bicyclegan", *_BICYCLE, "options.variant=clr", "options.upsample=bilinear"],
}  # fmt: skip
every_system = pytest.mark.parametrize("case", SYSTEMS)


def trainer_of(case: str, *overrides: str) -> System:
    torch.manual_seed(0)
    name, *settings = SYSTEMS[case]
    system = registry.system_named(name)
    return system(Config.load(system.recipe, [*_SIZE, *settings, "precision=bfloat16", "batch_size=2", *overrides]))


def images(seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1 for _ in range(2))
    return a, b


def step(trainer: System) -> System:
    torch.manual_seed(3)
    trainer.step(*images())
    return trainer


@pytest.fixture
def shares_nothing(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function that makes iterations share nothing, as plain autocast does."""
    return lambda: monkeypatch.setattr(base, "IterationCache", lambda: None)


@every_system
def test_what_is_shared_changes_no_loss_and_gradients_by_rounding_alone(
    case: str, shares_nothing: Callable[[], None]
) -> None:
    ours = step(trainer_of(case, "gan_w=1"))
    shares_nothing()
    plain = step(trainer_of(case, "gan_w=1"))
    for name, loss in plain.losses().items():
        late = name.startswith("loss_dis") and case.startswith(("cyclegan", "bicyclegan"))
        assert float(ours.losses()[name]) == pytest.approx(float(loss), rel=0, abs=1e-6 if late else 0), name
    compared = 0
    for name, parameter in plain.named_parameters():
        other = ours.get_parameter(name).grad
        assert (other is None) == (parameter.grad is None), name
        if other is not None and parameter.grad is not None:
            scale = float(parameter.grad.abs().max())
            torch.testing.assert_close(other, parameter.grad, rtol=2e-2, atol=2e-2 * scale, msg=name)
            compared += scale > 0
    assert compared > 10


@pytest.mark.parametrize("case", ["munit", "cyclegan"])
def test_channels_that_are_padded_for_a_gpu_change_roundings_alone(
    case: str, shares_nothing: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    as_on_a_cpu = step(trainer_of(case))
    monkeypatch.setattr(few_channel_conv, "_device_type", lambda tensor: "cuda")
    ours = step(trainer_of(case))
    shares_nothing()
    plain = step(trainer_of(case))
    for name, loss in plain.losses().items():
        assert float(ours.losses()[name]) == pytest.approx(float(loss), rel=0, abs=1e-6), name
        assert float(as_on_a_cpu.losses()[name]) == pytest.approx(float(loss), rel=2e-2, abs=2e-2), name
    for name, parameter in plain.named_parameters():
        other = ours.get_parameter(name).grad
        if parameter.grad is not None:
            scale = float(parameter.grad.abs().max())
            torch.testing.assert_close(other, parameter.grad, rtol=2e-2, atol=2e-2 * scale, msg=name)


class Overwrite(torch.optim.Optimizer):
    """An optimizer that writes through `data`, which torch does not count."""

    def __init__(self, parameters: Any, factor: float) -> None:
        super().__init__(parameters, {"factor": factor})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.mul_(group["factor"])


def _fused_sgd(parameters: Any, factor: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=10 * (factor - 1), fused=True)


@pytest.mark.parametrize("optimizer", [Overwrite, _fused_sgd])
def test_writes_that_torch_does_not_count_are_seen_by_the_next_half(
    optimizer: Callable[[Any, float], torch.optim.Optimizer], shares_nothing: Callable[[], None]
) -> None:
    losses = []
    for factor in (1.5, 1.0, None):
        if factor is None:
            shares_nothing()
        trainer = trainer_of("munit")
        trainer.dis_opt = optimizer([*trainer.dis_a.parameters(), *trainer.dis_b.parameters()], factor or 1.5)
        losses.append(float(step(trainer).losses()["loss_gen_adv_a"]))
    assert losses[0] == losses[2] != losses[1]


def test_several_updates_of_either_half_see_the_latest_weights(shares_nothing: Callable[[], None]) -> None:
    found = []
    for plain in (False, True):
        if plain:
            shares_nothing()
        trainer: Any = trainer_of("munit", "lr=0.01", "ema_decay=0.5", "recon_x_cyc_w=1")
        trainer.gen_opt = torch.optim.SGD(trainer.gen_opt.param_groups[0]["params"], lr=0.01)
        torch.manual_seed(3)
        losses = []
        for half in ("dis", "dis", "gen", "gen", "dis"):
            (trainer.dis_update if half == "dis" else trainer.gen_update)(*images())
            trainer.update_averages()
            losses.append(float(trainer.losses()[f"loss_{half}_total"]))
        found.append(losses)
    assert found[0] == pytest.approx(found[1], rel=1e-3)
    assert found[0][0] != found[0][1] and found[0][2] != found[0][3]


# --- Several processes ------------------------------------------------------------------------------------------------


@pytest.fixture
def world_of_one(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from tests.distributed.launch import free_port

    settings = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "LOCAL_RANK": "0"}
    for name, value in {**settings, "MASTER_PORT": str(free_port())}.items():
        monkeypatch.setenv(name, value)
    distributed.setup(timeout=7, device="cpu")
    yield
    distributed.shutdown()


@pytest.mark.usefixtures("world_of_one")
def test_gradients_that_are_averaged_during_backward_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gradient is sent when its hook runs, so it must not change after that."""
    monkeypatch.setattr(overlap, "_BUCKET_BYTES", 2000)
    sent: list[Tensor] = []
    send = OverlappedAverage._send

    def record(self: OverlappedAverage, bucket: Any) -> None:
        sent.extend(parameter.grad.clone() for parameter in bucket.parameters)
        for parameter in bucket.parameters:
            parameter.grad.mul_(2)  # the average of processes with other gradients
        send(self, bucket)

    monkeypatch.setattr(OverlappedAverage, "_send", record)
    found = []
    for overlaps in ("true", "false"):
        trainer = trainer_of("munit", f"overlap_communication={overlaps}", "micro_batches=2", "lr=1e-30")
        for _ in range(2):  # the first backward learns the order
            step(trainer)
        found.append([parameter.grad for parameter in trainer.gen_a.parameters()])
    assert len(sent) > 50
    for ours, plain in zip(*found, strict=True):
        assert ours is not None and plain is not None
        torch.testing.assert_close(ours, 2 * plain, rtol=1e-5, atol=1e-6)


# --- Numbers of ops ---------------------------------------------------------------------------------------------------


class Calls(TorchDispatchMode):
    """A mode that records the ops that run, with their arguments and results."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], Any]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        self.calls.append((function, args, result))
        return result


def _converts(function: Any, args: tuple[Any, ...], result: Any) -> bool:
    """Return True if an op converts values. Outputs of discriminators, which the losses convert, are left out."""
    match function.overloadpacket.__name__:
        case "_to_copy":
            return bool(args[0].dtype != result.dtype)
        case "copy_":
            return bool(args[0].dtype != args[1].dtype)
        case "_foreach_copy_":
            return any(a.dtype != b.dtype for a, b in zip(*args[:2], strict=True))
    return False


@every_system
def test_an_iteration_converts_little(case: str) -> None:
    """Copies of weights, two ops per network and half, and few maps: 388 ops before weights were copied together."""
    trainer = step(trainer_of(case))
    with Calls() as recorded:
        step(trainer)
    conversions = Counter(
        str(function) for function, args, result in recorded.calls if _converts(function, args, result)
    )
    assert sum(conversions.values()) <= 40, conversions


@every_system
def test_a_half_copies_all_weights_that_it_reads_by_one_op(case: str) -> None:
    """The first iteration finds out which these are."""
    trainer = trainer_of(case)
    copies = []
    for _ in range(3):
        with Calls() as recorded:
            step(trainer)
        lists = [args[0] for function, args, _ in recorded.calls if function is torch.ops.aten._foreach_copy_.default]
        copies.append(sum(targets[0].dtype == torch.bfloat16 for targets in lists))
    first, *later = copies
    assert first > 2 and later == [2, 2]


# --- Frozen networks --------------------------------------------------------------------------------------------------


def _wants_of_parameters(calls: Calls) -> list[tuple[tuple[int, ...], bool]]:
    """Return the shape of the weight or bias of each backward op, and whether its gradient is computed."""
    found = []
    for function, args, _ in calls.calls:
        match function.overloadpacket.__name__:
            case "convolution_backward":
                found += [(tuple(args[2].shape), wanted) for wanted in args[10][1:]]
            case "fused_norm_backward":
                found += [
                    (tuple(p.shape), wanted) for p, wanted in zip(args[5:7], args[7:9], strict=True) if p is not None
                ]
            case "upsample_conv2d_backward":
                found += [(tuple(args[2].shape), wanted) for wanted in args[5][1:]]
    return found


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
@every_system
def test_frozen_networks_compute_no_gradients_of_parameters(case: str, precision: str) -> None:
    """Shapes of discriminators are multiples of 7, which those of generators are not."""
    trainer = trainer_of(case, f"precision={precision}", "dis.norm=none")
    weights = read_weights(trainer.weight_keys, None, trainer.config)
    inputs = trainer.draws(*images(), weights)
    with Calls() as recorded:
        trainer.run_halves({"gen": inputs["gen"]}, weights)
    wanted = _wants_of_parameters(recorded)
    of_discriminators = [wants for shape, wants in wanted if any(size % 7 == 0 for size in shape[:2])]
    assert len(of_discriminators) >= 4 and not any(of_discriminators)
    assert any(wants for shape, wants in wanted if not any(size % 7 == 0 for size in shape[:2]))
    if case == "bicyclegan":  # reading the codes of translations trains the generator alone
        first = [wants for shape, wants in wanted if shape == (4, 3, 4, 4)]
        assert len(first) == 4 and sum(first) == 2
    assert all(p.grad is None for network in trainer.discriminators().values() for p in network.parameters())
