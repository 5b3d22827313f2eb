"""Tests of checkpoint files: the public format in both directions, and unusable files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fastmunit import load_generators
from fastmunit.config import Config
from fastmunit.errors import CheckpointError, FastmunitError
from fastmunit.systems.munit import MUNIT
from fastmunit.systems.parts import public_checkpoint
from fastmunit.systems.parts.optimizer_state import read_optimizers

Pair = tuple[Tensor, Tensor]


def iterate(trainer: MUNIT, images: Pair, count: int = 1) -> None:
    for _ in range(count):
        trainer.update_learning_rate()
        trainer.dis_update(*images)
        trainer.gen_update(*images)


@pytest.fixture
def run(hyperparameters: dict[str, Any], images: Pair, tmp_path: Path) -> tuple[MUNIT, Path]:
    torch.manual_seed(0)
    trainer = MUNIT(hyperparameters)
    iterate(trainer, images, 2)
    trainer.save(tmp_path, 1)
    return trainer, tmp_path


def test_files_have_the_public_format(run: tuple[MUNIT, Path]) -> None:
    trainer, folder = run
    assert sorted(os.listdir(folder)) == ["dis_00000002.pt", "gen_00000002.pt", "optimizer.pt"]
    gen = torch.load(folder / "gen_00000002.pt", weights_only=True)
    assert list(gen) == ["a", "b"]
    assert list(gen["a"]) == list(trainer.gen_a.state_dict())
    optimizers = torch.load(folder / "optimizer.pt", weights_only=True)
    assert {"gen", "dis"} <= set(optimizers)
    parameters = [*trainer.gen_a.parameters(), *trainer.gen_b.parameters()]
    theirs = torch.optim.Adam(parameters, lr=0.5)
    theirs.load_state_dict(optimizers["gen"])
    for index, parameter in enumerate(parameters):
        assert optimizers["gen"]["state"][index]["exp_avg"].shape == parameter.shape


def test_resume_restores_everything(run: tuple[MUNIT, Path], hyperparameters: dict[str, Any], images: Pair) -> None:
    trainer, folder = run
    other = MUNIT(hyperparameters)
    assert other.resume(folder) == 2
    for seed in range(3):
        for one in (trainer, other):
            torch.manual_seed(seed)
            iterate(one, images)
    state, resumed = trainer.state_dict(), other.state_dict()
    assert all(torch.equal(state[key], resumed[key]) for key in state)


def test_public_files_load(run: tuple[MUNIT, Path], hyperparameters: dict[str, Any]) -> None:
    """Public files have no iteration in optimizer.pt, and other running statistics than ours."""
    trainer, folder = run
    optimizers = torch.load(folder / "optimizer.pt", weights_only=True)
    del optimizers["iterations"]
    torch.save(optimizers, folder / "optimizer.pt")
    gen = torch.load(folder / "gen_00000002.pt", weights_only=True)
    for state in gen.values():
        for key in [key for key in state if "running" in key]:
            del state[key]
        state["enc_content.model.0.norm.running_mean"] = torch.zeros(4)
        state["enc_content.model.0.norm.running_var"] = torch.ones(4)
        state["enc_content.model.0.norm.num_batches_tracked"] = torch.zeros((), dtype=torch.long)
    torch.save(gen, folder / "gen_00000002.pt")
    other = MUNIT(hyperparameters)
    assert other.resume(folder) == 2
    state, resumed = trainer.state_dict(), other.state_dict()
    assert all(torch.equal(state[key], resumed[key]) for key in state)
    gen_a, _ = load_generators(folder / "gen_00000002.pt", Config.from_dict(hyperparameters))
    assert torch.equal(gen_a.mlp.model[0].fc.weight, trainer.gen_a.mlp.model[0].fc.weight)
    assert not gen_a.training


@pytest.mark.parametrize("fused_adam", [True, False])
@pytest.mark.parametrize("written_by", ["ours", "torch 1", "a loop"])
def test_an_optimizer_runs_as_it_was_made(
    run: tuple[MUNIT, Path], hyperparameters: dict[str, Any], images: Pair, written_by: str, fused_adam: bool
) -> None:
    """An optimizer keeps its implementation whatever the file says. Old versions of torch wrote no such keys."""
    folder = run[1]
    content = torch.load(folder / "optimizer.pt", weights_only=True)
    for name in ("gen", "dis"):
        for group in content[name]["param_groups"]:
            if written_by == "torch 1":
                del group["fused"], group["foreach"]
            elif written_by == "a loop":
                group["fused"] = None
        for state in content[name]["state"].values():
            if written_by == "torch 1":
                state["step"] = int(state["step"])
    torch.save(content, folder / "optimizer.pt")
    resumed = MUNIT(hyperparameters, fused_adam=fused_adam)
    resumed.resume(folder)
    for optimizer in (resumed.gen_opt, resumed.dis_opt):
        assert [group["fused"] for group in optimizer.param_groups] == [True if fused_adam else None]
    iterate(resumed, images)
    assert torch.isfinite(resumed.loss_gen_total)


@pytest.mark.parametrize("state", [[1, 2], {"param_groups": [3]}, {}])
def test_an_optimizer_state_of_another_form_is_refused(
    run: tuple[MUNIT, Path], hyperparameters: dict[str, Any], state: Any
) -> None:
    folder = run[1]
    content = torch.load(folder / "optimizer.pt", weights_only=True)
    torch.save({**content, "gen": state}, folder / "optimizer.pt")
    with pytest.raises(CheckpointError, match="gen optimizer"):
        MUNIT(hyperparameters).resume(folder)


def test_load_generators_leaves_the_random_state_alone(
    run: tuple[MUNIT, Path], hyperparameters: dict[str, Any]
) -> None:
    state = torch.get_rng_state()
    load_generators(run[1] / "gen_00000002.pt", Config.from_dict(hyperparameters))
    assert torch.equal(state, torch.get_rng_state())


def test_newest_complete_checkpoint(run: tuple[MUNIT, Path], hyperparameters: dict[str, Any], images: Pair) -> None:
    """After a save that was interrupted between its files, the previous checkpoint is the newest complete one."""
    trainer, folder = run
    mark = (folder / "optimizer.pt").read_bytes()
    iterate(trainer, images)
    trainer.save(folder, 2)
    assert public_checkpoint.list_checkpoints(folder) == [2, 3]
    assert public_checkpoint.latest(folder) == 3
    (folder / "optimizer.pt").write_bytes(mark)
    assert public_checkpoint.latest(folder) == 2
    assert MUNIT(hyperparameters).resume(folder) == 2


# Per folder, a child is killed before it renames a file: the first, the second, the third.
KILLED_IN_A_SAVE = """
import json, os, signal, sys
from fastmunit.systems.munit import MUNIT
trainer = MUNIT(json.loads(sys.argv[1]))
replace, calls = os.replace, []
for files_written, folder in enumerate(sys.argv[2:]):
    child = os.fork()
    if child:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        continue
    trainer.resume(folder)
    def killed(source, target):
        if len(calls) == files_written:
            os.kill(os.getpid(), signal.SIGKILL)
        calls.append(target)
        replace(source, target)
    os.replace = killed
    trainer.save(folder, 6)
    os._exit(1)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_kill_9_in_a_save_loses_nothing(
    run: tuple[MUNIT, Path], hyperparameters: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    trainer, folder = run
    root = tmp_path_factory.mktemp("killed")
    copies = [shutil.copytree(folder, root / str(files_written)) for files_written in range(3)]
    result = subprocess.run(
        [sys.executable, "-c", KILLED_IN_A_SAVE, json.dumps(hyperparameters), *map(str, copies)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    for copy in copies:
        other = MUNIT(hyperparameters)
        assert other.resume(copy) == 2
        assert torch.equal(other.gen_a.mlp.model[0].fc.weight, trainer.gen_a.mlp.model[0].fc.weight)


def test_lost_pair_is_named(run: tuple[MUNIT, Path], hyperparameters: dict[str, Any], images: Pair) -> None:
    trainer, folder = run
    trainer.save(folder, 5)
    (folder / "gen_00000006.pt").unlink()
    with pytest.raises(CheckpointError, match=r"belongs to iteration 6, but gen_00000006\.pt"):
        MUNIT(hyperparameters).resume(folder)


def test_missing_pieces_are_named(run: tuple[MUNIT, Path], hyperparameters: dict[str, Any], tmp_path: Path) -> None:
    _, folder = run
    trainer = MUNIT(hyperparameters)
    with pytest.raises(CheckpointError, match="no gen_"):
        trainer.resume(tmp_path / "nowhere")
    (folder / "optimizer.pt").unlink()
    with pytest.raises(CheckpointError, match=r"optimizer\.pt does not exist"):
        trainer.resume(folder)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("optimizer.pt", "an optimizer file, not a gen_"), ("dis_00000002.pt", r"holds discriminators \(a dis_")],
)
def test_wrong_kind_of_checkpoint(
    run: tuple[MUNIT, Path], hyperparameters: dict[str, Any], name: str, reason: str
) -> None:
    with pytest.raises(CheckpointError, match=reason):
        load_generators(run[1] / name, Config.from_dict(hyperparameters))


@pytest.mark.parametrize("size", [0, 10, 5000])
def test_truncated_checkpoint(run: tuple[MUNIT, Path], hyperparameters: dict[str, Any], size: int) -> None:
    path = run[1] / "gen_00000002.pt"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=rf"gen_00000002\.pt \({size} bytes\) cannot be read"):
        load_generators(path, Config.from_dict(hyperparameters))


@pytest.mark.parametrize("content", [{"a": 1, "b": 2}, [1, 2], torch.zeros(2)])
def test_other_contents_are_refused(run: tuple[MUNIT, Path], hyperparameters: dict[str, Any], content: Any) -> None:
    _, folder = run
    torch.save(content, folder / "gen_00000002.pt")
    with pytest.raises(CheckpointError, match=r"gen_00000002\.pt .*gen_"):
        load_generators(folder / "gen_00000002.pt", Config.from_dict(hyperparameters))
    torch.save(content, folder / "optimizer.pt")
    if isinstance(content, dict):
        assert public_checkpoint.latest(folder) == 2, "no mark: the newest pair"
    else:
        with pytest.raises(CheckpointError, match="not an optimizer"):
            public_checkpoint.latest(folder)


def test_statistics_of_batch_norm_are_not_made_up(hyperparameters: dict[str, Any], tmp_path: Path) -> None:
    hyperparameters["dis"]["norm"] = "bn"
    trainer = MUNIT(hyperparameters)
    trainer.save(tmp_path, 0)
    dis = torch.load(tmp_path / "dis_00000001.pt", weights_only=True)
    for state in dis.values():
        for key in [key for key in state if "running" in key]:
            del state[key]
    torch.save(dis, tmp_path / "dis_00000001.pt")
    with pytest.raises(CheckpointError, match=r"running_mean is missing"):
        trainer.resume(tmp_path)


def test_pickled_code_is_refused(tmp_path: Path) -> None:
    class Surprise:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, ("touch /should/not/run",)

    torch.save({"a": Surprise()}, tmp_path / "gen_00000001.pt")
    with pytest.raises(CheckpointError, match="plain tensors"):
        load_generators(tmp_path / "gen_00000001.pt", Config())


def test_other_sizes_are_named(run: tuple[MUNIT, Path], hyperparameters: dict[str, Any]) -> None:
    hyperparameters["gen"]["style_dim"] = 8
    with pytest.raises(
        CheckpointError, match=r"enc_style\.model\.6\.weight is \(3, 16, 1, 1\) in the file and \(8, 16"
    ):
        load_generators(run[1] / "gen_00000002.pt", Config.from_dict(hyperparameters))


def test_optimizer_of_another_configuration(run: tuple[MUNIT, Path], hyperparameters: dict[str, Any]) -> None:
    hyperparameters["gen"]["n_res"] = 2
    trainer = MUNIT(hyperparameters)
    with pytest.raises(CheckpointError, match="another configuration"):
        read_optimizers(run[1] / "optimizer.pt", {"gen": trainer.gen_opt, "dis": trainer.dis_opt})


def test_a_file_in_place_of_the_folder(run: tuple[MUNIT, Path], tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(FastmunitError, match="cannot write"):
        run[0].save(blocked / "checkpoints", 3)
