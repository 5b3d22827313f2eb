from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastmunit.config import Config
from fastmunit.runs import RunFolder
from tests.cli.conftest import Command
from tests.runs.tiny import newest

ROOT = Path(__file__).parents[2]


def test_train_then_resume(fastmunit: Command, config_file: Path, images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    outcome = fastmunit(
        "train", "--config", config_file, "--output", folder, "--device", "cpu", "--max-iter", 2, "--seed", 5,
        "--data", images, "--set", "lr=0.0002", "--set", "gen.style_dim=4",
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    assert "Finished: 2 iterations" in outcome.out
    saved = Config.load(folder / "config.yaml")
    assert (saved.max_iter, saved.seed, saved.lr, saved.gen.style_dim) == (2, 5, 0.0002, 4)
    outcome = fastmunit("train", "--output", folder, "--resume", "--max-iter", 3, "--device", "cpu")
    assert outcome.status == 0, outcome.err
    assert "Resuming after iteration 2" in outcome.err
    assert newest(folder) == 3


def test_a_second_run_in_the_same_folder_is_refused(fastmunit: Command, trained: Path, config_file: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    outcome = fastmunit("train", "--config", config_file, "--output", trained)
    assert outcome.status == 1
    assert "--resume" in outcome.err
    assert "another output folder" in outcome.err
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "gen.dimm=3"], "did you mean 'gen.dim'"),
        (["--set", "lr"], "key=value"),
        (["--set", "lr=fast"], "lr"),
        (["--data", "nowhere"], "nowhere"),
        (["--device", "tpu"], "available here: cpu"),
        (["--config", "edges2boots"], "shipped: "),
        (["--resume", "--config", "missing.yaml"], "missing.yaml"),
    ],
)
def test_mistakes_are_named(
    fastmunit: Command, config_file: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    config = [] if "--config" in arguments else ["--config", config_file]
    outcome = fastmunit("train", *config, "--output", tmp_path / "run", *arguments)
    assert outcome.status == 1
    assert outcome.err.startswith("error: ")
    assert message in outcome.err
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "run").exists()


def test_a_configuration_is_required(fastmunit: Command, tmp_path: Path) -> None:
    outcome = fastmunit("train", "--output", tmp_path / "run")
    assert outcome.status == 1
    assert "give --config" in outcome.err
    outcome = fastmunit("train", "--output", tmp_path / "run", "--resume")
    assert outcome.status == 1
    assert "nothing to resume" in outcome.err


def test_minutes_end_the_run_with_the_resume_command(fastmunit: Command, config_file: Path, tmp_path: Path) -> None:
    outcome = fastmunit(
        "train", "--config", config_file, "--output", tmp_path / "a run", "--device", "cpu", "--minutes", 0, "--keep", 2
    )
    assert outcome.status == 0, outcome.err
    command = shlex.split(outcome.out.splitlines()[-1])
    assert command == [
        "fastmunit",
        "train",
        "--output",
        str(tmp_path / "a run"),
        "--resume",
        "--device",
        "cpu",
        "--keep",
        "2",
    ]
    assert fastmunit(*command[1:]).status == 0
    assert newest(tmp_path / "a run") == 7


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT to one process")
def test_ctrl_c_saves_and_prints_the_resume_command(config_file: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    command = [
        sys.executable,
        "-m",
        "fastmunit",
        "train",
        "--config",
        str(config_file),
        "--output",
        str(folder.root),
    ]
    command += ["--device", "cpu", "--max-iter", "1000000", "--set", "num_workers=2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    # In its own process group, Ctrl-C also reaches the data workers, as in a terminal.
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 120
        while not folder.losses.is_file() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert f"fastmunit train --output {folder.root} --resume --device cpu" in out
    saved = newest(folder.root)
    assert saved is not None
    assert f"after iteration {saved:,}" in out


def test_system_alone_uses_its_default_configuration(fastmunit: Command, images: Path, tmp_path: Path) -> None:
    small = ["gen.dim=4", "dis.dim=4", "dis.n_layer=2", "dis.num_scales=1", "new_size=32", "crop_image_height=32"]
    small += ["crop_image_width=32", "display_size=2", "num_workers=0"]
    overrides = [part for override in small for part in ("--set", override)]
    outcome = fastmunit(
        "train",
        "--system",
        "unit",
        "--data",
        images,
        "-o",
        tmp_path / "run",
        "--max-iter",
        1,
        "--device",
        "cpu",
        *overrides,
    )
    assert outcome.status == 0, outcome.err
    config = Config.load(tmp_path / "run/config.yaml")
    assert (config.system, config.gen.dim, config.recon_kl_w) == ("unit", 4, 0.01)


def test_an_unknown_system_is_named(fastmunit: Command, images: Path, tmp_path: Path) -> None:
    outcome = fastmunit("train", "--system", "cyclgan", "--data", images, "-o", tmp_path / "run")
    assert outcome.status == 1
    assert "system 'cyclgan' is none of bicyclegan, cyclegan, munit, unit; did you mean 'cyclegan'?" in outcome.err
    assert not (tmp_path / "run").exists()


def test_ablate_sets_weights_to_zero(fastmunit: Command, config_file: Path, tmp_path: Path) -> None:
    outcome = fastmunit(
        "train", "--config", config_file, "-o", tmp_path / "run", "--max-iter", 1, "--ablate", "x", "--ablate", "s",
        "--device", "cpu",
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    config = Config.load(tmp_path / "run/config.yaml")
    assert (config.recon_x_w, config.recon_c_w, config.recon_s_w) == (0, 1, 0)


def test_a_new_run_from_trained_weights(fastmunit: Command, trained: Path, tmp_path: Path) -> None:
    folder, checkpoints = tmp_path / "run", trained / "checkpoints"
    start = ["train", "--config", trained / "config.yaml", "-o", folder, "--device", "cpu", "--max-iter", 1]
    outcome = fastmunit(*start, "--init", checkpoints / "dis_00000002.pt")
    assert outcome.status == 1
    assert "dis_00000002.pt holds discriminators" in outcome.err
    assert not folder.exists()
    init = ["--init", checkpoints / "gen_00000002.pt", "--init-dis", checkpoints / "dis_00000002.pt"]
    outcome = fastmunit(*start, *init)
    assert outcome.status == 0, outcome.err
    assert newest(folder) == 1
    outcome = fastmunit("train", "-o", folder, "--resume", "--device", "cpu", *init)
    assert outcome.status == 1
    assert "leave out --init" in outcome.err
    outcome = fastmunit("train", "-o", folder, "--resume", "--device", "cpu")
    assert outcome.status == 0
    assert "raise --max-iter" in outcome.err


def test_weights_alone_are_not_resumed(fastmunit: Command, trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run/checkpoints"
    folder.mkdir(parents=True)
    (folder / "gen_00000002.pt").write_bytes((trained / "checkpoints/gen_00000002.pt").read_bytes())
    config = trained / "config.yaml"
    outcome = fastmunit("train", "--config", config, "-o", tmp_path / "run", "--resume", "--device", "cpu")
    assert outcome.status == 1
    assert "error: " in outcome.err and "--init FILE" in outcome.err
    assert os.listdir(folder) == ["gen_00000002.pt"]
