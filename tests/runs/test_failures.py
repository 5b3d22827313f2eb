"""Errors of a run are named, and lose nothing."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastmunit.errors import CheckpointError, DataError, FastmunitError, TrainingError
from fastmunit.runs import RunFolder, train
from fastmunit.runs.checkpoints import checkpoint
from fastmunit.systems.munit import MUNIT
from tests.runs.tiny import Recorder, assert_same_checkpoint, make_images, newest, tiny_config

ROOT = Path(__file__).parents[2]


def patch_update(monkeypatch: pytest.MonkeyPatch, at: int, spoil: object) -> None:
    """Run `spoil(trainer)` after the `at`-th update."""
    original, calls = MUNIT.update, []

    def patched(self: MUNIT, *args: object, **kwargs: object) -> None:
        original(self, *args, **kwargs)
        calls.append(1)
        if len(calls) == at:
            spoil(self)

    monkeypatch.setattr(MUNIT, "update", patched)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_loss_that_is_not_finite_stops_with_the_last_checkpoint(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    patch_update(monkeypatch, 5, lambda trainer: setattr(trainer, "loss_gen_adv_b", torch.tensor(value)))
    with pytest.raises(TrainingError, match=r"iteration 5: loss_gen_adv_b is .*iteration 4 .*lr=5e-05"):
        train(tiny_config(images), tmp_path / "run", device="cpu")
    assert newest(tmp_path / "run") == 4
    report = RunFolder(tmp_path / "run").report.read_text(encoding="utf-8")
    assert "loss_gen_adv_b" in report
    assert 'class="state failed"' in report
    assert "http-equiv" not in report


def test_weight_that_is_not_finite_is_never_saved(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(trainer: MUNIT) -> None:
        with torch.no_grad():
            next(trainer.gen_b.parameters()).view(-1)[0] = float("inf")

    patch_update(monkeypatch, 4, spoil)
    with pytest.raises(TrainingError, match=r"weight gen_b\..* is NaN or infinite\..*iteration 2"):
        train(tiny_config(images), tmp_path / "run", device="cpu")
    assert newest(tmp_path / "run") == 2


def test_real_divergence_is_caught(images: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="NaN or infinite"):
        train(tiny_config(images, lr=1e30, max_iter=50), tmp_path / "run", device="cpu")


def test_used_folder_needs_resume(images: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(TrainingError, match=r"notes\.txt.*--resume"):
        train(tiny_config(images), tmp_path, device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_file_in_place_of_the_folder(images: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(FastmunitError, match="run is a file"):
        train(tiny_config(images), tmp_path / "run", device="cpu")
    with pytest.raises(FastmunitError, match="run"):
        train(tiny_config(images), tmp_path / "run" / "below", device="cpu")
    assert (tmp_path / "run").read_text() == "a file"


def test_failed_first_start_does_not_block_the_next(tmp_path: Path) -> None:
    root = make_images(tmp_path / "data")
    victim = root / "testA/0.png"
    whole = victim.read_bytes()
    victim.write_bytes(whole[:200])  # the header is whole, so only drawing the display images fails
    with pytest.raises(DataError, match=r"testA.0\.png"):
        train(tiny_config(root, max_iter=1), tmp_path / "run", device="cpu")
    victim.write_bytes(whole)
    assert train(tiny_config(root, max_iter=1), tmp_path / "run", device="cpu").iterations == 1


def refuse_writing(monkeypatch: pytest.MonkeyPatch, method: str, name: str) -> None:
    """Let `Path.<method>` fail for files called `name`, as in a read-only folder (which root can write to)."""
    original = getattr(Path, method)

    def refused(self: Path, *args: object, **kwargs: object) -> object:
        if self.name == name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Path, method, refused)


@pytest.mark.parametrize(("method", "name"), [("mkdir", "checkpoints"), ("open", ".lock")])
def test_folder_that_refuses_writing(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, name: str
) -> None:
    refuse_writing(monkeypatch, method, name)
    with pytest.raises(FastmunitError, match=r"Permission denied.*Choose an --output you can write to"):
        train(tiny_config(images), tmp_path / "run", device="cpu")


def test_old_checkpoint_that_cannot_be_removed(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_writing(monkeypatch, "unlink", "gen_00000002.pt")
    with pytest.raises(FastmunitError, match=r"cannot remove .*gen_00000002\.pt: Permission denied"):
        train(tiny_config(images), tmp_path / "run", device="cpu", keep=1)
    assert newest(tmp_path / "run") == 4


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write into read-only folders")
def test_read_only_folder(images: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(FastmunitError, match="Choose an --output you can write to"):
        train(tiny_config(images), tmp_path / "run", device="cpu")
    tmp_path.chmod(0o755)


def test_missing_data_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        train(tiny_config(tmp_path / "nowhere"), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_unknown_device_leaves_no_folder(images: Path, tmp_path: Path) -> None:
    with pytest.raises(FastmunitError, match=r"'gpu' is not a device; available here: cpu"):
        train(tiny_config(images), tmp_path / "run", device="gpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["state", "gen", "dis", "optimizer"])
def test_full_disk_during_a_save_keeps_the_earlier_checkpoint(
    images: Path, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    full = {"now": False}
    original = os.replace

    def replace(source: str, target: Path, **kwargs: object) -> None:
        if full["now"] and Path(target).name.startswith(kind):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(source, target, **kwargs)

    monkeypatch.setattr(os, "replace", replace)
    recorder = Recorder({3: lambda: full.update(now=True)})
    with pytest.raises(FastmunitError, match=rf"cannot write .*{kind}.*No space left"):
        train(tiny_config(images), tmp_path / "run", device="cpu", callbacks=[recorder])
    monkeypatch.undo()
    assert newest(tmp_path / "run") == 2
    assert not list((tmp_path / "run/checkpoints").glob("*.partial"))
    train(tiny_config(images), tmp_path / "run", resume=True, device="cpu")
    assert_same_checkpoint(uninterrupted, tmp_path / "run", 7)


KILLS = {"gen": ("before", 2), "dis": ("after", 2), "optimizer.pt": ("after", 4)}
"""For each kind of file: when a save of iteration 4 is killed, and the checkpoint that is left."""

KILLED = """
import os, signal, sys
import torch
from tests.runs.tiny import tiny_config
from fastmunit.runs import train
torch.set_num_threads(1)
images, output, *kills = sys.argv[1:]
original = os.replace
for kind, moment in zip(kills[::2], kills[1::2]):
    child = os.fork()
    if child:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, kind
        continue
    def replace(source, target, **kwargs):
        name = os.path.basename(target)
        fatal = name == f"{kind}_00000004.pt" or (kind == name == "optimizer.pt" and os.path.exists(target))
        if fatal and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        original(source, target, **kwargs)
        if fatal:
            os.kill(os.getpid(), signal.SIGKILL)
    os.replace = replace
    train(tiny_config(images), f"{output}/{kind}", device="cpu")
    os._exit(1)
"""


@pytest.fixture(scope="module")
def killed(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kill a training per kind of file during a save, and return the folder of the runs."""
    folder = tmp_path_factory.mktemp("killed")
    kills = [word for kind, (moment, _) in KILLS.items() for word in (kind, moment)]
    parent = subprocess.run(
        [sys.executable, "-c", KILLED, str(images), str(folder), *kills],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert parent.returncode == 0, parent.stderr
    return folder


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("kind", KILLS)
def test_kill_9_during_a_save(images: Path, uninterrupted: Path, killed: Path, kind: str) -> None:
    run = killed / kind
    assert newest(run) == KILLS[kind][1]
    partial = list((run / "checkpoints").glob(".*.partial"))
    assert bool(partial) == (kind != "optimizer.pt")  # optimizer.pt is renamed last
    train(tiny_config(images), run, resume=True, device="cpu")
    assert_same_checkpoint(uninterrupted, run, 7)
    assert not list((run / "checkpoints").glob(".*.partial"))


def stale_save(folder: Path, number: int) -> None:
    """Leave the files of a save that was killed between gen_*.pt and dis_*.pt."""
    newest_number = newest(folder)
    for kind in ("state", "gen"):
        source = folder / f"checkpoints/{kind}_{newest_number:08d}.pt"
        (folder / f"checkpoints/{kind}_{number:08d}.pt").write_bytes(source.read_bytes())


def test_pruning_counts_committed_checkpoints_only(images: Path, tmp_path: Path) -> None:
    result = train(tiny_config(images, max_iter=3), tmp_path / "run", device="cpu", keep=1)
    stale_save(tmp_path / "run", 100)
    (tmp_path / "run/checkpoints/gen_00000200.pt").write_bytes(b"another program's")
    checkpoint.prune(result.folder, 3, keep=1)
    assert newest(tmp_path / "run") == 3


def test_resume_removes_the_files_of_a_killed_save(images: Path, uninterrupted: Path, tmp_path: Path) -> None:
    train(tiny_config(images, max_iter=3), tmp_path / "run", device="cpu", keep=1)
    stale_save(tmp_path / "run", 100)
    (tmp_path / "run/checkpoints/gen_00000200.pt").write_bytes(b"another program's")
    train(tiny_config(images), tmp_path / "run", resume=True, device="cpu", keep=1)
    names = {path.name for path in (tmp_path / "run/checkpoints").glob("*_*.pt")}
    assert names == {"dis_00000007.pt", "gen_00000007.pt", "state_00000007.pt", "gen_00000200.pt"}
    assert_same_checkpoint(uninterrupted, tmp_path / "run", 7)


def test_resume_that_fails_changes_no_logs(images: Path, tmp_path: Path) -> None:
    config = tiny_config(images, image_save_iter=2)
    train(config, tmp_path / "run", device="cpu")
    (tmp_path / "run/checkpoints/state_00000007.pt").write_bytes(b"damaged")
    folder = RunFolder(tmp_path / "run")
    folder.losses.open("a").write("8,1.0,0.1\n")
    (folder.images / "gen_a2b_test_00000008.jpg").write_bytes(b"a grid")
    before = {path: path.stat().st_mtime_ns for path in folder.root.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match=r"state_00000007\.pt"):
        train(config, tmp_path / "run", resume=True, device="cpu")
    assert {path: path.stat().st_mtime_ns for path in folder.root.rglob("*") if path.is_file()} == before


def test_killed_during_the_very_first_save_starts_again(images: Path, uninterrupted: Path, tmp_path: Path) -> None:
    train(tiny_config(images, max_iter=2), tmp_path / "run", device="cpu")
    folder = tmp_path / "run/checkpoints"
    (folder / "optimizer.pt").rename(folder / ".optimizer.pt.abc.partial")  # the last file that a save renames
    recorder = Recorder()
    train(tiny_config(images), tmp_path / "run", resume=True, device="cpu", callbacks=[recorder], time_limit=0.0)
    assert any("from the beginning" in message for message in recorder.messages)
    assert not (folder / "gen_00000002.pt").exists() and not list(folder.glob(".*.partial"))
    train(tiny_config(images), tmp_path / "run", resume=True, device="cpu")
    assert_same_checkpoint(uninterrupted, tmp_path / "run", 7)


def test_second_process_in_the_same_folder(images: Path, tmp_path: Path) -> None:
    pytest.importorskip("fcntl", reason="no file locks on this system")
    folder = RunFolder(tmp_path / "run")
    with folder.lock(), pytest.raises(TrainingError, match="another process"):
        train(tiny_config(images), folder.root, device="cpu")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_image_that_breaks_during_training_saves_first(tmp_path: Path, num_workers: int) -> None:
    root = make_images(tmp_path / "data")
    victim = root / "trainB/3.png"
    victim.write_bytes(victim.read_bytes()[:200])  # the header is whole, so the check before training passes
    with pytest.raises(DataError, match=r"3\.png.*--resume"):
        train(
            tiny_config(root, snapshot_save_iter=1000, max_iter=100, num_workers=num_workers),
            tmp_path / "run",
            device="cpu",
        )
    make_images(tmp_path / "whole")
    victim.write_bytes((tmp_path / "whole/trainB/3.png").read_bytes())
    assert newest(tmp_path / "run") == 3  # the fourth batch of seed 0 is the first with the broken image
    assert train(tiny_config(root), tmp_path / "run", resume=True, device="cpu").iterations == 7
