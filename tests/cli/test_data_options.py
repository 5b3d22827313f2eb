"""Messages of commands about the images that they are given."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from fastmunit.config import Config
from tests.cli.conftest import Command
from tests.runs.tiny import make_images, tiny_config


@pytest.fixture
def own_images(images: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(images, tmp_path / "images"))


def test_train_verifies_first(fastmunit: Command, own_images: Path, config_file: Path, tmp_path: Path) -> None:
    for name in ("trainA/1.png", "testB/4.png"):
        content = (own_images / name).read_bytes()
        (own_images / name).write_bytes(content[:-500])
    (own_images / "trainA" / "notes.txt").touch()
    run = ("train", "--config", config_file, "--data", own_images, "--output", tmp_path / "run", "--device", "cpu")
    outcome = fastmunit(*run, "--verify")
    assert outcome.status == 1
    assert "2 of 20 images cannot be used" in outcome.err
    assert "trainA/1.png is damaged" in outcome.err and "testB/4.png is damaged" in outcome.err
    assert "trainA: 1 file left out: notes.txt." in outcome.err
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "run").exists()


def test_verify_names_damage_of_every_kind_at_once(
    fastmunit: Command, own_images: Path, config_file: Path, tmp_path: Path
) -> None:
    """Verification reports all folders, although the earlier check of headers would stop at the first one."""
    truncated = own_images / "trainB/2.png"
    truncated.write_bytes(truncated.read_bytes()[:-500])
    for index in range(4):
        (own_images / f"trainA/{index}.png").write_text("no image")
    outcome = fastmunit(
        "train",
        "--config",
        config_file,
        "--data",
        own_images,
        "--output",
        tmp_path / "run",
        "--device",
        "cpu",
        "--verify",
    )
    assert (outcome.status, "5 of 20 images cannot be used" in outcome.err) == (1, True), outcome.err
    assert all(f"{index}.png is damaged" in outcome.err for index in range(4)) and "trainB/2.png" in outcome.err


def test_a_resumed_run_keeps_max_pixels(
    fastmunit: Command, own_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)  # images have 40x37 pixels
    config = tmp_path / "tiny.yaml"
    tiny_config(own_images, max_iter=1).save(config)
    output = tmp_path / "run"
    run = ("train", "--output", output, "--device", "cpu", "--config", config)
    outcome = fastmunit(*run)
    assert outcome.status == 1
    assert "0.00148 megapixels, more than the limit" in outcome.err and "--max-pixels 1480" in outcome.err
    assert fastmunit(*run, "--max-pixels", 1480, "--verify").status == 0
    assert Config.load(output / "config.yaml").max_pixels == 1480
    outcome = fastmunit("train", "--output", output, "--resume", "--device", "cpu", "--set", "max_iter=2")
    assert outcome.status == 0, outcome.err
    (own_images / "testA" / "list.txt").touch()
    translate = ("translate", "--checkpoint", output, "--device", "cpu", "--styles", 1)
    outcome = fastmunit(*translate, "--input", own_images / "testA", "--output", tmp_path / "out")
    assert outcome.status == 0, outcome.err
    assert "testA: 1 file left out: list.txt." in outcome.err
    Image.new("RGB", (50, 40)).save(tmp_path / "large.png")
    for option, status in (((), 1), (("--max-pixels", 2000), 0)):
        outcome = fastmunit(*translate, "--input", tmp_path / "large.png", "--output", tmp_path / "out", *option)
        assert outcome.status == status, outcome.err
        assert ("--max-pixels 2000" in outcome.err) == (status == 1)
    outcome = fastmunit("evaluate", "--checkpoint", output, "--max-pixels", 1479, "--metrics", "content-code")
    assert outcome.status == 1
    assert "--max-pixels 1480" in outcome.err and "testA: 1 file left out: list.txt." in outcome.err


def test_inputs_that_are_not_regular_files(fastmunit: Command, trained: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    cases = (("pipe.png", 1, "is a FIFO, not a regular file"), ("x" * 300, 2, "a name of 300 bytes, more than 255"))
    for name, status, message in cases:
        outcome = fastmunit(
            "translate", "--checkpoint", trained, "--input", tmp_path / name, "--output", tmp_path / "out"
        )
        assert outcome.status == status
        assert message in " ".join(outcome.err.replace("│", " ").split())
        outcome = fastmunit("train", "--config", "demo", "--data", tmp_path / name, "--output", tmp_path / "run")
        assert outcome.status == status
        assert "Traceback" not in outcome.err


def test_sizes_that_do_not_fit_in_memory(
    fastmunit: Command,
    trained: Path,
    config_file: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fastmunit.data.memory_limit.total_memory", lambda: 8 * 10**9)
    translate = ("translate", "--checkpoint", trained, "--input", images / "testA", "--output", tmp_path / "out")
    outcome = fastmunit(*translate, "--size", 40_000, "--device", "cpu")
    assert outcome.status == 1
    assert "0.png: 40x37 (height x width) resized to 43243x40000 would take" in outcome.err
    train = ("train", "--config", config_file, "--output", tmp_path / "run", "--device", "cpu")
    outcome = fastmunit(*train, "--set", "new_size=30000")
    assert outcome.status == 1
    assert "display_size 2 with images of 30000x30000" in outcome.err and "Traceback" not in outcome.err


def test_names_that_are_not_utf8(fastmunit: Command, tmp_path: Path) -> None:
    root = make_images(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")), count=2)
    for path in sorted(root.rglob("*.png")):
        path.rename(path.with_name(os.fsdecode(b"\xff") + path.name))
    config = tmp_path / "tiny.yaml"
    tiny_config(tmp_path, max_iter=1, display_size=1).save(config)
    run = tmp_path / "run"
    for part in ("trainA", "trainB", "testA", "testB"):
        (tmp_path / part).symlink_to(root / part)
    outcome = fastmunit("train", "--config", config, "--output", run, "--device", "cpu", "--verify")
    assert outcome.status == 0, outcome.err
    translate = ("translate", "--checkpoint", run, "--input", tmp_path / "testA", "--output", tmp_path / "out")
    assert fastmunit(*translate, "--styles", 1, "--device", "cpu").status == 0
    assert len(list((tmp_path / "out").glob("*.png"))) == 3


def test_images_of_a_module(fastmunit: Command, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "images_of_mine.py").write_text(
        "from fastmunit import data\n"
        "NAMES = ('trainA', 'trainB', 'testA', 'testB')\n"
        "def images(config):\n"
        f"    return {{name: data.list_images('{images}/' + name) for name in NAMES}}\n"
        "def train_alone(config):\n"
        "    return {name: images(config)[name] for name in NAMES[:2]}\n"
    )
    config = tiny_config(Path("nowhere"), max_iter=1, data_module="images_of_mine:images")
    config.save(tmp_path / "mine.yaml")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    run = ("--output", tmp_path / "run", "--device", "cpu")
    outcome = fastmunit("train", "--config", tmp_path / "mine.yaml", *run)
    assert outcome.status == 1 and "no module 'images_of_mine': install it, or run in the folder" in outcome.err
    monkeypatch.chdir(tmp_path)
    outcome = fastmunit("train", "--config", tmp_path / "mine.yaml", *run)
    assert outcome.status == 0, outcome.err
    outcome = fastmunit("train", "--resume", "--max-iter", 2, *run)
    assert outcome.status == 0 and "Resuming after iteration 1" in outcome.err, outcome.err
    assert "Note:" not in outcome.err
    outcome = fastmunit("train", "--resume", "--max-iter", 3, "--data", images, *run)  # the same images
    assert outcome.status == 0 and "data_module images_of_mine:images → None" in outcome.err, outcome.err
    assert "Note:" not in outcome.err
    evaluate = (
        "evaluate",
        "--checkpoint",
        tmp_path / "run",
        "--metrics",
        "edge-agreement",
        "--inputs",
        2,
        "--samples",
        2,
    )
    outcome = fastmunit(*evaluate, "--config", tmp_path / "mine.yaml")
    assert outcome.status == 0 and "edge agreement: " in outcome.out, outcome.err
    figures = json.loads((tmp_path / "run/evaluation/evaluation.json").read_text())
    assert [row["file"] for row in figures["evaluations"][0]["per_input"]] == ["testA[0]", "testA[2]"]
    tiny_config(Path("nowhere"), data_module="images_of_mine:train_alone").save(tmp_path / "alone.yaml")
    outcome = fastmunit(*evaluate, "--config", tmp_path / "alone.yaml")
    assert outcome.status == 1 and "no test images: give testA and testB" in outcome.err
    assert fastmunit(*evaluate, "--data", images).status == 0
