"""Tests of files with weights: prefixes of wrappers are removed, and weights that do not fit are refused by name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fastmunit import load_generators
from fastmunit.config import Config
from fastmunit.errors import CheckpointError
from fastmunit.systems.munit import MUNIT
from fastmunit.systems.parts.weights import load_networks
from fastmunit.systems.registry import system_named

HYPERPARAMETERS: dict[str, Any] = {
    "display_size": 1,
    "ema_decay": 0.9,
    "gen": {"dim": 4, "mlp_dim": 8, "style_dim": 3, "n_res": 1},
    "dis": {"dim": 4, "n_layer": 2, "num_scales": 1},
}
State = dict[str, Any]


@pytest.fixture(scope="module")
def trainer() -> MUNIT:
    torch.manual_seed(0)
    trainer = MUNIT(HYPERPARAMETERS)
    trainer.update_averages()
    with torch.no_grad():
        for parameter in trainer.parameters():
            parameter.add_(1)
    trainer.update_averages()
    return trainer


def prefixed(state: State, *prefixes: str) -> State:
    return {"".join(prefixes) + key: value for key, value in state.items()}


def gen_of(trainer: MUNIT, change: Callable[[State], State] = lambda state: state) -> State:
    return {name: change(dict(network.state_dict())) for name, network in trainer.generators().items()}


def in_trainer(trainer: MUNIT, *prefixes: str) -> State:
    """Return the state of a trainer whose networks are wrapped."""
    networks = {"gen_a": trainer.gen_a, "gen_b": trainer.gen_b, "dis_a": trainer.dis_a, "dis_b": trainer.dis_b}
    found: State = {}
    for name, network in networks.items():
        found.update(prefixed(dict(network.state_dict()), f"{name}.", *prefixes))
    return found


CONTENTS: dict[str, Callable[[MUNIT], State]] = {
    "as saved": gen_of,
    "data parallel": lambda t: gen_of(t, lambda state: prefixed(state, "module.")),
    "compiled": lambda t: gen_of(t, lambda state: prefixed(state, "_orig_mod.")),
    "both": lambda t: gen_of(t, lambda state: prefixed(state, "_orig_mod.", "module.")),
    "averaged": lambda t: gen_of(t, lambda state: {"n_averaged": torch.tensor(3), **prefixed(state, "module.")}),
    "a trainer": lambda t: dict(t.state_dict()),
    "a parallel trainer": lambda t: prefixed(dict(t.state_dict()), "module."),
    "a trainer of parallel networks": lambda t: in_trainer(t, "module."),
    "an averaged trainer": lambda t: {"n_averaged": torch.tensor(3), **prefixed(dict(t.state_dict()), "module.")},
    "in half precision": lambda t: gen_of(t, lambda state: {key: value.half() for key, value in state.items()}),
}


@pytest.mark.parametrize("case", CONTENTS)
def test_weights_load_however_they_are_wrapped(trainer: MUNIT, tmp_path: Path, case: str) -> None:
    torch.save(CONTENTS[case](trainer), tmp_path / "weights.pt")
    loaded = load_generators(tmp_path / "weights.pt", Config.from_dict(HYPERPARAMETERS))
    for network, own in zip(loaded, (trainer.gen_a, trainer.gen_b), strict=True):
        expected = own.state_dict()
        for key, value in network.state_dict().items():
            torch.testing.assert_close(value, expected[key], rtol=0 if case != "in half precision" else 1e-3, atol=1e-6)


def test_discriminators_are_taken_from_a_trainer(trainer: MUNIT, tmp_path: Path) -> None:
    torch.save(trainer.state_dict(), tmp_path / "trainer.pt")
    other = MUNIT(HYPERPARAMETERS)
    load_networks(tmp_path / "trainer.pt", other.discriminators(), "dis")
    assert all(torch.equal(p, q) for p, q in zip(other.dis_b.parameters(), trainer.dis_b.parameters(), strict=True))


def test_averages_load_as_generators(trainer: MUNIT, tmp_path: Path) -> None:
    trainer.save(tmp_path, 4)
    gen_a, _ = load_generators(tmp_path / "ema_00000005.pt", Config.from_dict(HYPERPARAMETERS))
    weight = trainer.gen_a.mlp.model[0].fc.weight
    torch.testing.assert_close(gen_a.mlp.model[0].fc.weight, weight - 0.9)


@pytest.mark.parametrize("variant", ["bicycle", "cvae", "clr", "pix2pix_noise"])
def test_a_whole_trainer_of_bicyclegan_loads(tmp_path: Path, variant: str) -> None:
    system = system_named("bicyclegan")
    small = ["gen.dim=4", "dis.dim=4", "display_size=1", f"options.variant={variant}"]
    trainer = system(Config.load(system.demo_recipe, small))
    torch.save(trainer.state_dict(), tmp_path / "trainer.pt")
    for kind, networks in (("gen", trainer.generators()), ("dis", trainer.discriminators())):
        before = copy.deepcopy({name: network.state_dict() for name, network in networks.items()})
        with torch.no_grad():
            for network in networks.values():
                for parameter in network.parameters():
                    parameter.zero_()
        load_networks(tmp_path / "trainer.pt", networks, kind)
        for name, network in networks.items():
            torch.testing.assert_close(network.state_dict(), before[name], rtol=0, atol=0)


def spoiled(key: str, new: Callable[[Tensor], Any]) -> Callable[[MUNIT], State]:
    def make(trainer: MUNIT) -> State:
        content = gen_of(trainer)
        content["b"][key] = new(content["b"][key])
        return content

    return make


WEIGHT = "mlp.model.0.fc.weight"
BAD_CONTENTS: dict[str, tuple[Callable[[MUNIT], Any], str]] = {
    "names of weights are numbers": (
        lambda t: gen_of(t, lambda state: {**state, 7: torch.zeros(1)}),
        "a weight of 'a' is named by a int, expected a string",
    ),
    "names of networks are numbers": (lambda t: {0: {}, 1: {}}, r"a file with the keys 0, 1, not a gen_\*\.pt"),
    "a number": (spoiled(WEIGHT, lambda _: 3.0), f"{WEIGHT} of 'b' is float, expected a dense real tensor"),
    "a list": (spoiled(WEIGHT, lambda x: x.tolist()), f"{WEIGHT} of 'b' is list"),
    "nothing": (spoiled(WEIGHT, lambda _: None), f"{WEIGHT} of 'b' is NoneType"),
    "sparse": (spoiled(WEIGHT, lambda x: x.to_sparse()), r"torch\.sparse_coo, expected a dense real tensor"),
    "complex": (spoiled(WEIGHT, lambda x: x.to(torch.complex64)), r"complex64, .*expected a dense real tensor"),
    "meta": (spoiled(WEIGHT, lambda x: x.to("meta")), "expected a dense real tensor"),
    "integers": (
        spoiled(WEIGHT, lambda x: x.long()),
        rf"{WEIGHT} is torch\.int64 in the file, expected torch\.float32",
    ),
    "one element more": (spoiled(WEIGHT, lambda x: x[:-1]), rf"{WEIGHT} is \(7, 3\) in the file and \(8, 3\)"),
    "a network alone": (lambda t: t.gen_a.state_dict(), "the weights of a single network"),
    "weights instead of networks": (lambda t: {"a": torch.zeros(1), "b": torch.zeros(1)}, "no weights under 'a'"),
    "an exact-resume state": (lambda t: {"format": 2, "torch_rng": torch.zeros(1)}, "an exact-resume state"),
    "long names": (lambda t: {"x" * 10_000: 1}, "keys x{60}…, not"),
    "discriminators of a trainer": (
        lambda t: {key: value for key, value in t.state_dict().items() if key.startswith("dis_")},
        "the state of a whole trainer of another system",
    ),
}


@pytest.mark.parametrize("case", BAD_CONTENTS)
def test_what_does_not_fit_is_named_and_nothing_is_loaded(trainer: MUNIT, tmp_path: Path, case: str) -> None:
    make, reason = BAD_CONTENTS[case]
    torch.save(make(trainer), tmp_path / "gen.pt")
    before = copy.deepcopy(trainer.state_dict())
    with pytest.raises(CheckpointError, match=rf"gen\.pt.*{reason}") as raised:
        load_networks(tmp_path / "gen.pt", trainer.generators(), "gen")
    assert len(str(raised.value)) < 1000
    torch.testing.assert_close(trainer.state_dict(), before, rtol=0, atol=0)
