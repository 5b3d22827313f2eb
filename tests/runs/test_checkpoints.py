"""Checkpoint files that are mixed up, damaged or missing; numbers of more than eight digits; initial weights."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from fastmunit import load_translator
from fastmunit.config import Config
from fastmunit.errors import CheckpointError
from fastmunit.files import load_tensors, save_tensors
from fastmunit.runs import RunFolder, train
from fastmunit.runs.checkpoints import checkpoint
from fastmunit.systems import registry
from fastmunit.systems.munit import MUNIT
from fastmunit.systems.parts import public_checkpoint
from fastmunit.systems.parts.weights import read_networks
from tests.runs.tiny import Recorder, assert_same_checkpoint, newest, tiny_config

FILES = ("gen_00000002.pt", "dis_00000002.pt", "ema_00000002.pt", "optimizer.pt", "state_00000002.pt")


@pytest.fixture(scope="module")
def two_runs(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs with averages that differ only in their seed."""
    folder = tmp_path_factory.mktemp("two")
    for seed in (0, 1):
        train(tiny_config(images, max_iter=2, seed=seed, ema_decay=0.9), folder / str(seed), device="cpu")
    return folder / "0", folder / "1"


@pytest.fixture
def run(two_runs: tuple[Path, Path], tmp_path: Path) -> Path:
    return shutil.copytree(two_runs[0], tmp_path / "run")


def resumed(run: Path, images: Path, max_iter: int = 3, **changes: Any) -> Any:
    config = tiny_config(images, max_iter=max_iter, ema_decay=0.9, **changes)
    return train(config, run, resume=True, device="cpu")


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    def facts() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}

    before = facts()
    yield
    assert facts() == before


@pytest.mark.parametrize("name", FILES[:4])
def test_a_file_of_another_run_is_named(two_runs: tuple[Path, Path], run: Path, images: Path, name: str) -> None:
    shutil.copy(two_runs[1] / "checkpoints" / name, run / "checkpoints" / name)
    with unchanged(run), pytest.raises(CheckpointError, match=rf"{name} is not the file that was saved with state_0"):
        resumed(run, images)
    (run / "checkpoints/state_00000002.pt").unlink()
    assert resumed(run, images).iterations == 3, "the fix that the message names"


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_found(run: Path, images: Path, name: str) -> None:
    """The bit is in the middle of a large tensor: torch.load does not check the checksums in the file."""
    path = run / "checkpoints" / name
    content = bytearray(path.read_bytes())
    found = load_tensors(path)
    tensors = {
        "gen_00000002.pt": lambda: found["a"]["mlp.model.0.fc.weight"],
        "dis_00000002.pt": lambda: found["b"]["cnns.0.1.conv.weight"],
        "ema_00000002.pt": lambda: found["b"]["mlp.model.0.fc.weight"],
        "optimizer.pt": lambda: found["dis"]["state"][2]["exp_avg"],
        "state_00000002.pt": lambda: found["torch_rng"],
    }
    raw = tensors[name]().contiguous().numpy().tobytes()
    place = content.index(raw) + len(raw) // 2
    content[place] ^= 1
    path.write_bytes(content)
    with unchanged(run), pytest.raises(CheckpointError, match=f"{name} is (not the file|damaged)"):
        resumed(run, images)
    with unchanged(run), pytest.raises(CheckpointError, match=f"{name} is (not the file|damaged)"):
        MUNIT(tiny_config(images, ema_decay=0.9)).resume(run / "checkpoints")


def test_translation_verifies_the_files_it_loads(two_runs: tuple[Path, Path], run: Path) -> None:
    folder = run / "checkpoints"
    load_translator(run)
    for name in FILES[1::2]:  # not needed for translation
        shutil.copy(two_runs[1] / "checkpoints" / name, folder / name)
    load_translator(run)
    for name in ("gen_00000002.pt", "ema_00000002.pt"):
        shutil.copy(two_runs[1] / "checkpoints" / name, folder / name)
        with pytest.raises(CheckpointError, match=f"{name} is not the file"):
            load_translator(folder / name)
    (folder / "state_00000002.pt").write_bytes(b"damaged")
    load_translator(folder / "gen_00000002.pt")


def test_missing_averages_are_named(run: Path, images: Path) -> None:
    (run / "checkpoints/ema_00000002.pt").unlink()
    with pytest.raises(CheckpointError, match=r"ema_00000002\.pt is missing"):
        resumed(run, images)
    with pytest.raises(CheckpointError, match=r"ema_00000002\.pt is missing.* give gen_00000002\.pt itself"):
        load_translator(run)
    load_translator(run / "checkpoints/gen_00000002.pt")


def test_states_of_earlier_versions_load(run: Path, images: Path, two_runs: tuple[Path, Path]) -> None:
    path = run / "checkpoints/state_00000002.pt"
    state = load_tensors(path)
    assert set(state.pop("digests")) == {"gen", "dis", "ema", "optimizer"}
    state["schedulers"] = {
        name: {**values, "verbose": False, "_is_initial": False} for name, values in state["schedulers"].items()
    }
    torch.save(state, path)
    resumed(run, images)
    whole = shutil.copytree(two_runs[0], run.parent / "whole")
    resumed(whole, images)
    assert_same_checkpoint(run, whole, 3)


def test_saving_in_a_script_removes_a_state_of_other_weights(run: Path, images: Path) -> None:
    trainer = MUNIT(tiny_config(images, ema_decay=0.9))
    trainer.resume(run / "checkpoints")
    with torch.no_grad():
        trainer.gen_a.mlp.model[0].fc.weight.add_(1)
    trainer.save(run / "checkpoints", 1)
    assert not (run / "checkpoints/state_00000002.pt").exists()
    assert MUNIT(tiny_config(images, ema_decay=0.9)).resume(run / "checkpoints") == 2
    assert resumed(run, images).iterations == 3


def set_to(*keys: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(state: dict[str, Any]) -> None:
        for key in keys[:-1]:
            state = state[key]
        state[keys[-1]] = value

    return change


def without(*keys: str) -> Callable[[dict[str, Any]], None]:
    def change(state: dict[str, Any]) -> None:
        for key in keys[:-1]:
            state = state[key]
        del state[keys[-1]]

    return change


SCALER = {"scale": 2.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000, "_growth_tracker": 0}
BAD_STATES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    **{
        f"no {key}": (without(key), key)
        for key in ("seconds", "images", "torch_rng", "cuda_rng", "system", "schedulers")
    },
    "no format": (without("format"), "another fastmunit version"),
    "seconds infinite": (set_to("seconds", value=math.inf), "seconds"),
    "seconds NaN": (set_to("seconds", value=math.nan), "seconds"),
    "seconds negative": (set_to("seconds", value=-1.0), "seconds"),
    "seconds text": (set_to("seconds", value="long"), "seconds"),
    "seconds beyond floats": (set_to("seconds", value=10**400), "seconds"),
    "short random state": (set_to("torch_rng", value=torch.zeros(7, dtype=torch.uint8)), "RNG state"),
    "no random state": (set_to("torch_rng", value=torch.zeros(5056, dtype=torch.uint8)), "cannot be used"),
    "random state of floats": (set_to("torch_rng", value=torch.zeros(5056)), "cannot be used"),
    "random state of text": (set_to("torch_rng", value="0"), "torch_rng"),
    "random states": (set_to("cuda_rng", value=torch.zeros(3)), "cuda_rng"),
    "one domain": (without("images", "B"), "B is missing"),
    "images": (set_to("images", "A", value=[1, 2]), r"images\.A"),
    "count": (set_to("images", "A", "count", value="many"), r"images\.A\.count"),
    "system": (set_to("system", value=[1]), "system"),
    "no styles": (without("system", "s_a"), "s_a is missing"),
    "styles of text": (set_to("system", "s_b", value="s"), "s_b is a str, expected a Tensor"),
    "styles of another size": (set_to("system", "s_b", value=torch.zeros(2, 3, 1, 1)), r"s_b .* \(N, 8, 1, 1\)"),
    "styles of integers": (set_to("system", "s_b", value=torch.zeros(2, 8, 1, 1, dtype=torch.long)), "s_b"),
    "no scalers": (without("system", "scalers"), "scalers is missing"),
    "scalers": (set_to("system", "scalers", value=[]), "scalers is a list"),
    "scaler of nobody": (set_to("system", "scalers", "other", value=SCALER), "other"),
    "scaler of nothing": (set_to("system", "scalers", "gen", value={}), "scale"),
    "scale": (set_to("system", "scalers", "gen", value={**SCALER, "scale": math.nan}), "scale"),
    "growth": (set_to("system", "scalers", "gen", value={**SCALER, "growth_interval": "x"}), "growth_interval"),
    "no schedule": (without("schedulers", "dis"), "dis is missing"),
    "schedule": (set_to("schedulers", "gen", value=[1]), r"schedulers\.gen"),
    "gamma": (set_to("schedulers", "gen", "gamma", value="half"), "gamma of the schedule of gen is not a number"),
    "last_epoch": (set_to("schedulers", "gen", "last_epoch", value=None), "last_epoch of the schedule of gen"),
    "step_size": (set_to("schedulers", "gen", "step_size", value=0), "step_size of the schedule of gen is 0"),
    "huge step_size": (set_to("schedulers", "gen", "step_size", value=10**30), r"step_size .* is 1e\+30"),
    "negative count": (set_to("schedulers", "gen", "_step_count", value=-1), "_step_count"),
    "format": (set_to("format", value=torch.zeros(10)), "does not belong"),
    "iterations": (set_to("iterations", value=torch.zeros(10)), "does not belong"),
    "base_lrs": (set_to("schedulers", "dis", "base_lrs", value=[1.0, 2.0]), "base_lrs .* a list of 1 numbers"),
    "digests": (set_to("digests", value=[1]), "digests"),
    "digest": (set_to("digests", "gen", value=5), "digests"),
}


@pytest.mark.parametrize("case", BAD_STATES)
def test_an_exact_resume_state_that_cannot_be_used_is_named(run: Path, images: Path, case: str) -> None:
    change, reason = BAD_STATES[case]
    path = run / "checkpoints/state_00000002.pt"
    state = load_tensors(path)
    trained_with = dict(state.get("images", {}))
    change(state)
    save_tensors(state, path)
    config = tiny_config(images, max_iter=3, ema_decay=0.9)
    trainer = MUNIT(config)
    random = torch.get_rng_state()
    with pytest.raises(CheckpointError, match=rf"state_00000002\.pt.*{reason}") as raised:
        checkpoint.resume(trainer, RunFolder(run), config, config, trained_with)
    assert len(str(raised.value)) < 600
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("name", registry.names())
def test_every_part_of_a_state_is_required(name: str) -> None:
    """Every system refuses a state without one of its parts, or with a part of another type."""
    system = registry.system_named(name)
    small = ["gen.dim=4", "dis.dim=4", "display_size=1", "gen.mlp_dim=8"]
    trainer = system(Config.load(system.demo_recipe, small))
    state = trainer.resume_state()
    for broken in (None, [], {}, *({**state, key: "text"} for key in state)):
        with pytest.raises(CheckpointError, match="exact-resume state is damaged"):
            trainer.load_resume_state(broken)  # type: ignore[arg-type]
    for key in state:
        with pytest.raises(CheckpointError, match=f"{key} is missing"):
            trainer.load_resume_state({k: v for k, v in state.items() if k != key})
    if name == "cyclegan":
        for images in ("text", [torch.zeros(3)], [torch.zeros(4, 8, 8)], [torch.zeros(3, 8, 8, dtype=torch.long)], [1]):
            with pytest.raises(CheckpointError, match=r"a holds something other|a is a str"):
                trainer.load_resume_state({**state, "pools": {**state["pools"], "a": images}})


def renumbered(run: Path, to: int) -> Path:
    """Change the number of the run's checkpoint from 2 to `to`."""
    folder = run / "checkpoints"
    for kind in ("gen", "dis", "ema", "state"):
        path = folder / f"{kind}_00000002.pt"
        path.rename(public_checkpoint.checkpoint_path(folder, kind, to))
    optimizers = load_tensors(folder / "optimizer.pt")
    optimizers["iterations"] = to
    save_tensors(optimizers, folder / "optimizer.pt")
    state = load_tensors(RunFolder(run).state(to))
    state["iterations"] = to
    del state["digests"]
    torch.save(state, RunFolder(run).state(to))
    return run


@pytest.mark.parametrize("start", [99_999_999, 100_000_000, 123_456_789_012])
def test_numbers_of_more_than_eight_digits(run: Path, images: Path, start: int) -> None:
    renumbered(run, start)
    (run / "checkpoints/gen_00000001.pt").write_bytes(b"an older one")
    result = resumed(run, images, start + 2, image_save_iter=1, snapshot_save_iter=1)
    assert result.iterations == start + 2
    assert newest(run) == start + 2
    assert public_checkpoint.list_checkpoints(run / "checkpoints") == [start, start + 1, start + 2]
    assert checkpoint.generators(result.folder) == run / f"checkpoints/ema_{start + 2}.pt"
    result = resumed(run, images, start + 3, image_save_iter=1)
    assert result.iterations == start + 3
    page = result.folder.report.read_text(encoding="utf-8")
    captions = [f"a2b, iteration {start + k:,}" for k in (1, 2, 3)]
    assert [page.index(caption) for caption in captions] == sorted(page.index(caption) for caption in captions)
    checkpoint.prune(result.folder, start + 3, keep=1)
    assert public_checkpoint.numbers(run / "checkpoints", "gen") == [start + 3]


def test_only_names_of_saved_files_are_numbers(tmp_path: Path) -> None:
    for name in ("gen_1.pt", "gen_000000002.pt", "gen_0000000٣.pt", "gen_00000004.pt", "gen_x.pt", "agen_00000005.pt"):
        (tmp_path / name).touch()
    assert public_checkpoint.numbers(tmp_path, "gen") == [4]


@pytest.mark.parametrize("mark", ["2", 2.0, True, -2, None])
def test_a_commit_mark_that_is_no_count_is_named(run: Path, mark: Any) -> None:
    path = run / "checkpoints/optimizer.pt"
    save_tensors({**load_tensors(path), "iterations": mark}, path)
    with pytest.raises(CheckpointError, match=r"optimizer\.pt is damaged \(its iteration count is a"):
        public_checkpoint.latest(path.parent)


@pytest.mark.parametrize(
    "kept",
    [
        ["gen_00000002.pt"],
        ["ema_00000002.pt"],
        ["dis_00000002.pt"],
        ["optimizer.pt"],
        ["gen_00000002.pt", "dis_00000002.pt"],
        ["gen_00000002.pt", "optimizer.pt"],
        ["state_00000002.pt", "optimizer.pt"],
        ["state_00000002.pt", "gen_00000002.pt"],
        ["state_00000002.pt", "gen_00000002.pt", "dis_00000002.pt"],
        ["../gen_00000002.pt"],
        ["../dis_00000002.pt"],
        ["gen_latest.pt"],
    ],
)
def test_resuming_with_parts_of_a_checkpoint_is_refused(run: Path, images: Path, kept: list[str]) -> None:
    folder = run / "checkpoints"
    for name in kept:
        source = folder / (Path(name).name if "latest" not in name else "gen_00000002.pt")
        shutil.move(source, folder / (name + ".kept"))
    for path in folder.glob("*.pt"):
        path.unlink()
    for name in kept:
        (folder / (name + ".kept")).rename(folder / name)
    with unchanged(run), pytest.raises(CheckpointError, match=r"nothing to resume: .*--init FILE"):
        resumed(run, images)


def test_initial_weights_start_a_new_run(
    two_runs: tuple[Path, Path], images: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    source = two_runs[1] / "checkpoints"
    config = tiny_config(images)
    new = tmp_path / "new"
    gen, dis = source / "gen_00000002.pt", source / "dis_00000002.pt"
    result = train(config, new, device="cpu", init=gen, init_dis=dis, time_limit=0.0)
    assert result.iterations == 1
    start = RunFolder(new).checkpoints
    for kind, path in (("gen", gen), ("dis", dis)):
        first, given = load_tensors(public_checkpoint.checkpoint_path(start, kind, 0)), load_tensors(path)
        torch.testing.assert_close(first, given, rtol=0, atol=0)
    # The random numbers are those of a run from random weights: only the weights differ.
    states = []
    for folder in (uninterrupted, new):
        other = tmp_path / f"one {folder.name}"
        start_from = {} if folder is uninterrupted else {"init": gen, "init_dis": dis}
        train(tiny_config(images, max_iter=1), other, device="cpu", **start_from)  # type: ignore[arg-type]
        states.append(load_tensors(RunFolder(other).state(1)))
    torch.testing.assert_close(states[0]["torch_rng"], states[1]["torch_rng"], rtol=0, atol=0)
    torch.testing.assert_close(states[0]["system"], states[1]["system"], rtol=0, atol=0)
    optimizers = load_tensors(new / "checkpoints/optimizer.pt")
    assert {float(state["step"]) for state in optimizers["gen"]["state"].values()} == {1.0}
    # After a stop and a resume, it equals the uninterrupted run.
    train(config, tmp_path / "whole", device="cpu", init=gen, init_dis=dis)
    train(config, new, device="cpu", resume=True)
    assert_same_checkpoint(new, tmp_path / "whole", 7)


def test_a_run_killed_before_its_first_checkpoint_keeps_its_initial_weights(
    two_runs: tuple[Path, Path], images: Path, tmp_path: Path
) -> None:
    def killed() -> None:
        raise KeyboardInterrupt

    gen = two_runs[1] / "checkpoints/ema_00000002.pt"
    config = tiny_config(images, max_iter=2, ema_decay=0.9)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", device="cpu", init=gen, callbacks=[Recorder({1: killed})])
    train(config, tmp_path / "run", device="cpu", resume=True)
    train(config, tmp_path / "whole", device="cpu", init=gen)
    assert_same_checkpoint(tmp_path / "run", tmp_path / "whole", 2)


def test_initial_weights_of_a_whole_trainer(two_runs: tuple[Path, Path], images: Path, tmp_path: Path) -> None:
    config = tiny_config(images, max_iter=1)
    torch.manual_seed(5)
    trainer = MUNIT(config)
    torch.save(trainer.state_dict(), tmp_path / "trainer.pt")
    train(config, tmp_path / "run", device="cpu", init=tmp_path / "trainer.pt", init_dis=tmp_path / "trainer.pt")
    for kind, networks in (("gen", trainer.generators()), ("dis", trainer.discriminators())):
        read = read_networks(tmp_path / f"run/checkpoints/{kind}_00000000.pt", networks, kind)
        torch.testing.assert_close(read, {name: dict(n.state_dict()) for name, n in networks.items()}, rtol=0, atol=0)


def test_initial_weights_that_cannot_be_used_write_nothing(
    two_runs: tuple[Path, Path], images: Path, tmp_path: Path
) -> None:
    source = two_runs[1] / "checkpoints"
    spoiled = load_tensors(source / "gen_00000002.pt")
    spoiled["a"]["mlp.model.0.fc.weight"][0, 0] = math.nan
    torch.save(spoiled, tmp_path / "nan.pt")
    wider = tiny_config(images, gen={"dim": 8, "n_res": 1, "mlp_dim": 8})
    for config, arguments, reason in (
        (wider, {"init": source / "gen_00000002.pt"}, "does not fit the configuration"),
        (tiny_config(images), {"init": tmp_path / "absent.pt"}, r"absent\.pt does not exist"),
        (tiny_config(images), {"init": tmp_path}, "is a folder"),
        (tiny_config(images), {"init": source / "dis_00000002.pt"}, "holds discriminators"),
        (tiny_config(images), {"init_dis": source / "gen_00000002.pt"}, "holds generators"),
        (tiny_config(images), {"init": source / "optimizer.pt"}, "an optimizer file"),
        (tiny_config(images), {"init": tmp_path / "nan.pt"}, "mlp.model.0.fc.weight of 'a' is NaN or infinite"),
    ):
        with pytest.raises(CheckpointError, match=reason):
            train(config, tmp_path / "run", device="cpu", **arguments)
        assert not (tmp_path / "run").exists()


def test_initial_weights_do_not_replace_those_of_a_checkpoint(run: Path, images: Path) -> None:
    config = tiny_config(images, ema_decay=0.9)
    with unchanged(run), pytest.raises(CheckpointError, match=r"checkpoint of iteration 2 to resume.*leave out --init"):
        train(config, run, device="cpu", resume=True, init=run / "checkpoints/gen_00000002.pt")


def test_a_finished_run_says_how_to_continue(run: Path, images: Path) -> None:
    recorder = Recorder()
    config = tiny_config(images, max_iter=2, ema_decay=0.9)
    train(config, run, device="cpu", resume=True, callbacks=[recorder])
    assert any("2 of 2 iterations are done. To continue training, raise" in text for text in recorder.messages)
