"""Tests that invalid Adam states are refused by name and change nothing."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastmunit.errors import CheckpointError
from fastmunit.systems.munit import MUNIT
from fastmunit.systems.parts.adam import Adam
from fastmunit.systems.parts.optimizer_state import read_optimizers

ROOT = Path(__file__).parents[2]
Content = dict[str, Any]


@pytest.fixture(scope="module")
def small() -> dict[str, Any]:
    return {
        "display_size": 1,
        "lr_policy": "step",
        "gen": {"dim": 4, "mlp_dim": 8, "style_dim": 3, "n_res": 1},
        "dis": {"dim": 4, "n_layer": 2, "num_scales": 1},
    }


@pytest.fixture(scope="module")
def trained(small: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[MUNIT, Path]:
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    trainer = MUNIT(small)
    images = torch.rand(2, 1, 3, 32, 32) * 2 - 1
    trainer.step(*images)
    trainer.save(folder, 0)
    return trainer, folder


def of_another(run: tuple[MUNIT, Path], tmp_path: Path, change: Callable[[Content], None]) -> Path:
    """Return a folder with the checkpoint after `change` has changed its optimizer.pt."""
    for name in ("gen_00000001.pt", "dis_00000001.pt"):
        os.link(run[1] / name, tmp_path / name)
    content = torch.load(run[1] / "optimizer.pt", weights_only=True)
    change(content)
    torch.save(content, tmp_path / "optimizer.pt")
    return tmp_path


def entry(content: Content) -> dict[str, Any]:
    """Return the state of a convolution's weight."""
    return content["gen"]["state"][0]


def replaced(key: str, new: Callable[[Tensor], Any]) -> Callable[[Content], None]:
    return lambda content: entry(content).update({key: new(entry(content)[key])})


def in_group(**values: Any) -> Callable[[Content], None]:
    return lambda content: content["gen"]["param_groups"][0].update(values)


def with_gaps(value: Tensor) -> Tensor:
    return torch.stack([value, value], dim=-1)[..., 0]


BAD_STATES: dict[str, tuple[Callable[[Content], None], str]] = {
    "wider": (
        replaced("exp_avg", lambda x: torch.zeros(5, *x.shape[1:])),
        r"exp_avg of gen_a\..* is \(5, 3, .*, expec",
    ),
    "flat": (replaced("exp_avg_sq", lambda x: x.flatten()), r"exp_avg_sq of gen_a\."),
    "empty": (replaced("exp_avg", lambda _: torch.empty(0)), r"is \(0,\), expected"),
    "no dimensions": (replaced("exp_avg", lambda _: torch.tensor(1.0)), r"is \(\), expected"),
    "double": (replaced("exp_avg", lambda x: x.double()), r"is in torch\.float64, expected torch\.float32"),
    "half": (replaced("exp_avg_sq", lambda x: x.half()), r"is in torch\.float16"),
    "int": (replaced("exp_avg", lambda x: x.long()), "expected dense floating-point"),
    "complex": (replaced("exp_avg", lambda x: x.to(torch.complex64)), "expected dense floating-point"),
    "sparse": (replaced("exp_avg", lambda x: x.to_sparse()), "expected dense floating-point"),
    "meta": (replaced("exp_avg", lambda x: x.to("meta")), "expected dense floating-point"),
    "overlapping": (replaced("exp_avg", lambda x: torch.zeros(1).expand(x.shape)), "gaps or overlaps"),
    "with gaps": (replaced("exp_avg", with_gaps), "gaps or overlaps"),
    "a list": (replaced("exp_avg", lambda x: x.tolist()), r"is a list, expected a tensor"),
    "missing": (lambda content: entry(content).pop("exp_avg_sq"), r"exp_avg_sq of gen_a\..* is missing"),
    "no step": (lambda content: entry(content).pop("step"), "step of gen_a.* is missing"),
    "step per value": (replaced("step", lambda _: torch.ones(3)), r"step of .* is a tensor of shape \(3,\)"),
    "step of text": (replaced("step", lambda _: "12"), "step of .* is '12'"),
    "step NaN": (replaced("step", lambda _: float("nan")), "step of .* is nan"),
    "step negative": (replaced("step", lambda _: torch.tensor(-1.0)), "step of"),
    "step beyond floats": (replaced("step", lambda _: 10**400), "step of .* more than 64 bits"),
    "a state of nothing": (lambda content: content["gen"]["state"].update({0: [1, 2]}), "is a list, expected a mapp"),
    "unknown parameter": (lambda content: content["gen"]["state"].update({"x" * 999: {}}), "parameter x{60}, which"),
    "lr text": (in_group(lr="fast"), "lr is 'fast', expected a finite number"),
    "lr NaN": (in_group(lr=float("nan")), "lr is nan"),
    "lr tensor": (in_group(lr=torch.ones(2)), r"lr is a tensor of shape \(2,\)"),
    "lr negative": (in_group(lr=-1.0), "lr is -1.0"),
    "betas": (in_group(betas=0.5), "betas is 0.5, expected two numbers"),
    "beta of 1": (in_group(betas=(0.5, 1.0)), "betas is a tuple"),
    "eps": (in_group(eps=None), "eps is missing"),
    "weight decay": (in_group(weight_decay=[0]), "weight_decay is a list"),
    "first rate": (in_group(initial_lr=True), "initial_lr is True"),
    "flag": (in_group(amsgrad="no"), "amsgrad is 'no', expected true or false"),
    "amsgrad without maxima": (in_group(amsgrad=True), "max_exp_avg_sq of .* is missing"),
    "params": (in_group(params=[0]), "it has 1 parameters"),
    "params text": (in_group(params="abc"), "no list 'params'"),
    "params floats": (in_group(params=[0.5]), "not numbers"),
    "equal numbers": (
        lambda content: in_group(params=[0] * len(content["gen"]["param_groups"][0]["params"]))(content),
        "several parameters with the same number",
    ),
    "two groups": (lambda content: content["gen"]["param_groups"].append({}), "2 parameter groups, expected 1"),
    "no group": (lambda content: content["gen"].update(param_groups=None), "no 'param_groups'"),
}


@pytest.mark.parametrize("case", BAD_STATES)
def test_a_state_that_does_not_fit_is_named_and_changes_nothing(
    trained: tuple[MUNIT, Path], tmp_path: Path, case: str
) -> None:
    change, reason = BAD_STATES[case]
    trainer = trained[0]
    before = copy.deepcopy((trainer.state_dict(), trainer.gen_opt.state_dict(), trainer.dis_opt.state_dict()))
    with pytest.raises(CheckpointError, match=rf"optimizer\.pt does not fit the gen optimizer: .*{reason}"):
        trainer.resume(of_another(trained, tmp_path, change))
    after = (trainer.state_dict(), trainer.gen_opt.state_dict(), trainer.dis_opt.state_dict())
    torch.testing.assert_close(after, before, rtol=0, atol=0)


GOOD_STATES: dict[str, Callable[[Content], None]] = {
    "step as a number": replaced("step", int),
    "another order in memory": replaced("exp_avg", lambda x: x.contiguous(memory_format=torch.channels_last)),
    "transposed": replaced("exp_avg_sq", lambda x: x.transpose(0, 1).contiguous().transpose(0, 1)),
    "a trained tensor": replaced("exp_avg", lambda x: nn.Parameter(x)),
    "no state yet": lambda content: content["gen"]["state"].pop(0),
    "numbers of another process": lambda content: content.update(
        gen={
            "state": {key + 140_000_000: value for key, value in content["gen"]["state"].items()},
            "param_groups": [
                {**group, "params": [key + 140_000_000 for key in group["params"]]}
                for group in content["gen"]["param_groups"]
            ],
        }
    ),
}


@pytest.mark.parametrize("case", GOOD_STATES)
def test_states_that_fit_load(trained: tuple[MUNIT, Path], small: dict[str, Any], tmp_path: Path, case: str) -> None:
    trainer = MUNIT(small)
    trainer.resume(of_another(trained, tmp_path, GOOD_STATES[case]))
    trainer.step(*(torch.rand(2, 1, 3, 32, 32) * 2 - 1))
    assert all(torch.isfinite(parameter).all() for parameter in trainer.parameters())
    states = [state for optimizer in trainer.optimizers().values() for state in optimizer.state.values()]
    assert {float(state["step"]) for state in states} <= {1.0, 2.0}


def test_states_share_no_memory() -> None:
    """Averages share memory neither with the file's tensors nor with each other: fused Adam would mix them up."""
    parameter = nn.Parameter(torch.ones(3))
    optimizer = Adam([parameter], fused=True)
    shared = torch.zeros(3)
    state = optimizer.state_dict()
    state["state"] = {0: {"step": torch.tensor(1.0), "exp_avg": shared, "exp_avg_sq": shared}}
    optimizer.load_state_dict(state)
    parameter.grad = torch.ones(3)
    optimizer.step()
    assert torch.equal(shared, torch.zeros(3))
    own = optimizer.state[parameter]
    assert not torch.equal(own["exp_avg"], own["exp_avg_sq"])


CRASHED = """
import sys, torch
from torch import nn
from fastmunit.errors import CheckpointError
from fastmunit.systems.parts.adam import Adam
from fastmunit.systems.munit import MUNIT

def trained(width, folder):
    torch.manual_seed(0)
    trainer = MUNIT({"display_size": 1, "gen": {"dim": width, "mlp_dim": 8, "style_dim": 3, "n_res": 1},
                     "dis": {"dim": width, "n_layer": 2, "num_scales": 1}})
    if folder:
        trainer.step(*(torch.rand(2, 1, 3, 32, 32) * 2 - 1))
        trainer.save(folder, 0)
    return trainer

folder = sys.argv[1]
trained(4, folder + "/narrow")
trained(16, folder + "/run")
open(folder + "/run/optimizer.pt", "wb").write(open(folder + "/narrow/optimizer.pt", "rb").read())
resumed = trained(16, None)
try:
    resumed.resume(folder + "/run")
except CheckpointError as error:
    print("refused:", error)
narrow = torch.load(folder + "/narrow/optimizer.pt", weights_only=True)
try:
    resumed.gen_opt.load_state_dict(narrow["gen"])
except ValueError as error:
    print("refused:", error)
resumed.step(*(torch.rand(2, 1, 3, 32, 32) * 2 - 1))
print("alive")
"""


def test_averages_of_other_widths_do_not_end_the_process(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", CRASHED, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, (result.returncode, result.stderr)
    first, second, last = result.stdout.splitlines()
    assert first.startswith("refused:") and "exp_avg of gen_a." in first and "optimizer.pt" in first
    assert second.startswith("refused: exp_avg of parameter 0 is (4, ")
    assert last == "alive"


def test_an_optimizer_of_another_kind_is_refused(tmp_path: Path) -> None:
    parameter = nn.Parameter(torch.ones(3))
    sgd = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    parameter.grad = torch.ones(3)
    sgd.step()
    torch.save({"gen": sgd.state_dict()}, tmp_path / "optimizer.pt")
    with pytest.raises(CheckpointError, match="eps is missing"):
        read_optimizers(tmp_path / "optimizer.pt", {"gen": Adam([parameter], fused=True)})
