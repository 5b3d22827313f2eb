from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from fastmunit.config import Config
from fastmunit.errors import DataError
from fastmunit.metrics import classifier_training, evaluate, measure
from fastmunit.nn.networks import imagenet
from fastmunit.translation import translate
from tests.cli.conftest import Command
from tests.metrics.conftest import random_backbone

FAST = ("--inputs", 3, "--samples", 2)


@pytest.fixture(scope="module")
def weight_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    backbone: nn.Sequential = random_backbone("alexnet")
    torch.save({f"features.{k}": v for k, v in backbone.state_dict().items()}, folder / "alexnet_features.pth")
    return folder


def test_json_and_page(fastmunit: Command, trained: Path, weight_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("lpips", reason="needs the package lpips")
    pytest.importorskip("torchmetrics", reason="needs torchmetrics")
    outcome = fastmunit(
        "evaluate", "--checkpoint", trained, "--weights", weight_folder, "--direction", "both", "-o", tmp_path, *FAST
    )
    assert outcome.status == 0, outcome.err
    assert re.search(r"a2b  LPIPS-alex-v0\.1 diversity: [\d.e-]+ \(real pairs: ", outcome.out)
    report = json.loads((tmp_path / "evaluation.json").read_text())
    assert [part["direction"] for part in report["evaluations"]] == ["a2b", "b2a"]
    assert (report["inputs"], report["outputs of each"], report["seed"], report["system"]) == (3, 2, 0, "munit")
    for part in report["evaluations"]:
        names = {figure["name"] for figure in part["figures"]}
        assert {"LPIPS-alex-v0.1 diversity", "FD-AlexNet", "KID-AlexNet", "edge agreement"} <= names
        assert "content code distance" in names and part["skipped"] == {}
        assert len(part["per_input"]) == 3
    page = (tmp_path / "evaluation.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 6
    assert "http" not in re.sub(r"base64,[^\"]*", "", page), "the page must not need the network"


def test_without_weights(fastmunit: Command, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(imagenet.WEIGHTS_VARIABLE, raising=False)
    outcome = fastmunit(
        "evaluate",
        "--checkpoint",
        trained,
        "--metrics",
        "edge-agreement, reconstruction",
        "-o",
        tmp_path / "out",
        *FAST,
    )
    assert outcome.status == 0, outcome.err
    figures = json.loads((tmp_path / "out/evaluation.json").read_text())["evaluations"][0]["figures"]
    assert [figure["name"].split()[0] for figure in figures] == ["edge", "reconstruction", "cycle"]
    outcome = fastmunit("evaluate", "--checkpoint", trained, "--weights", tmp_path, "-o", tmp_path / "other", *FAST)
    assert outcome.status == 1
    assert "alexnet_features.pth" in outcome.err and "Traceback" not in outcome.err
    assert not (tmp_path / "other").exists()


def test_inspection(fastmunit: Command, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(imagenet.WEIGHTS_VARIABLE, raising=False)
    outcome = fastmunit(
        "evaluate", "--checkpoint", trained, "--inspect", "--direction", "both", "-o", tmp_path / "out", *FAST
    )
    assert outcome.status == 0, outcome.err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"inspection.json", "inspection.html"}
    report = json.loads((tmp_path / "out/inspection.json").read_text())
    assert (report["inputs"], report["outputs of each"], report["system"]) == (3, 2, "munit")
    for part, direction in zip(report["inspections"], ("a2b", "b2a"), strict=True):
        assert (part["direction"], part["skipped"]) == (direction, {})
        assert [one["rank"] for one in part["inputs"]] == [1, 2, 3]
        worst = part["inputs"][0]
        assert worst["edges_added"] + worst["edges_lost"] == pytest.approx(worst["edge_disagreement"])
        assert f"{direction}  1. {worst['file']}: cycle_error {worst['cycle_error']:.3g}, " in outcome.out
    page = (tmp_path / "out/inspection.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 2 * 3 * 6
    for option, value in (("--metrics", "all"), ("--weights", tmp_path), ("--classifier", "c.pt")):
        outcome = fastmunit("evaluate", "--checkpoint", trained, "--inspect", option, value, "-o", tmp_path / "other")
        assert (outcome.status, f"--inspect measures nothing: remove {option}" in outcome.err) == (1, True)
    assert not (tmp_path / "other").exists()


def test_names_of_strangers_are_written_as_printable_text(fastmunit: Command, trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run\udcff")
    for part in ("testA", "testB"):
        (tmp_path / "data" / part).mkdir(parents=True)
        for name in ("\udcff", "\x1b[2J\n", "\u202e"):
            Image.new("RGB", (16, 16)).save(tmp_path / "data" / part / f"{name}.png")
    common = ("evaluate", "--checkpoint", run, "--data", tmp_path / "data", *FAST, "-o", tmp_path / "out")
    for arguments, stem, key in (
        (("--inspect",), "inspection", "inputs"),
        (("--metrics", "edge-agreement"), "evaluation", "per_input"),
    ):
        outcome = fastmunit(*common, *arguments)
        assert outcome.status == 0, outcome.err
        report = json.loads((tmp_path / "out" / f"{stem}.json").read_text())
        names = {Path(one["file"]).name for one in report[f"{stem}s"][0][key]}
        assert names == {r"\xff.png", r"\x1b[2J\n.png", r"\u202e.png"}
        assert r"run\xff" in report["checkpoint"]
        page = (tmp_path / "out" / f"{stem}.html").read_text()
        assert r"of run\xff" in page
        assert not {"\x1b", "\u202e"} & {*outcome.out, *page}


def test_written_into_the_run_folder(fastmunit: Command, trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    for checkpoint in (run, run / "checkpoints"):
        outcome = fastmunit("evaluate", "--checkpoint", checkpoint, "--metrics", "edge-agreement", *FAST)
        assert outcome.status == 0, outcome.err
        assert {path.name for path in (run / "evaluation").iterdir()} == {"evaluation.json", "evaluation.html"}
        shutil.rmtree(run / "evaluation")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--metrics", "lpips"), "did you mean"),
        (("--metrics", ","), "--metrics names none"),
        (("--metrics", "is-cis"), "train-classifier"),
        (("--metrics", "edge-agreement", "--classifier", "ABSENT"), "--classifier is for is-cis"),
        (("--classifier", "ABSENT", "--direction", "both"), "one --direction at a time"),
        (("--metrics", "edge-agreement", "--data", "ABSENT"), "does not exist"),
        (("--metrics", "is-cis", "--classifier", "EMPTY"), "is a folder: give a file that"),
        (("--metrics", "edge-agreement", "--data", "EMPTY"), "testA"),
        (("--classifier", "ABSENT"), "does not exist"),
        (("--samples", 1), "Invalid value"),
    ],
)
def test_wrong_use(
    fastmunit: Command, trained: Path, weight_folder: Path, tmp_path: Path, arguments: tuple[object, ...], message: str
) -> None:
    pytest.importorskip("lpips", reason="needs the package lpips")
    (tmp_path / "empty").mkdir()
    places = {"ABSENT": tmp_path / "absent", "EMPTY": tmp_path / "empty"}
    outcome = fastmunit(
        "evaluate", "--checkpoint", trained, "--weights", weight_folder, "-o", tmp_path / "out", "--inputs", 2,
        *(places.get(str(argument), argument) for argument in arguments),
    )  # fmt: skip
    assert outcome.status in (1, 2)
    assert message in outcome.err and "Traceback" not in outcome.err


@pytest.mark.parametrize("command", ["evaluate", "train-classifier"])
def test_an_output_that_cannot_be_written_is_refused_at_once(
    fastmunit: Command, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(translate, "load_translator", None)
    monkeypatch.setattr(classifier_training, "train_classifier", None)
    (tmp_path / "file").write_text("kept")
    (tmp_path / "out" / "evaluation.html").mkdir(parents=True)
    for output, message in (("file/out", "file is not a folder"), ("out", "is a folder")):
        given = ("--checkpoint", trained) if command == "evaluate" else ("--data", tmp_path)
        outcome = fastmunit(command, *given, "--output", tmp_path / output)
        assert outcome.status == 1, outcome.out
        assert "cannot write" in outcome.err and message in outcome.err and "Traceback" not in outcome.err
    assert (tmp_path / "file").read_text() == "kept"


def test_both_directions_are_checked_before_the_first_is_measured(
    fastmunit: Command, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, direction: str, **__: object) -> None:
        if direction == "b2a":
            raise DataError("b2a cannot be measured")

    monkeypatch.setattr(evaluate, "require_possible", refuse)
    monkeypatch.setattr(evaluate, "evaluate", None)
    outcome = fastmunit(
        "evaluate", "--checkpoint", trained, "--metrics", "edge-agreement", "--direction", "both", "-o", tmp_path
    )
    assert outcome.status == 1 and "b2a cannot be measured" in outcome.err


def test_all_metrics_without_a_classifier(
    fastmunit: Command, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = [m for m in measure.registered() if m.name in ("edge-agreement", "is-cis")]
    monkeypatch.setattr(measure, "registered", lambda: few)
    outcome = fastmunit("evaluate", "--checkpoint", trained, "--metrics", "all", "-o", tmp_path, *FAST)
    assert outcome.status == 0, outcome.err
    assert "edge agreement" in outcome.out and "is-cis: not measured, it needs --classifier." in outcome.out


def test_a_single_file_needs_a_place_to_write(fastmunit: Command, trained: Path) -> None:
    outcome = fastmunit("evaluate", "--checkpoint", trained / "checkpoints/gen_00000002.pt")
    assert outcome.status == 1 and "give --output" in outcome.err


def test_classifier_from_training_to_scores(fastmunit: Command, trained: Path, tmp_path: Path) -> None:
    for name, color in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
        (tmp_path / "classes" / name).mkdir(parents=True)
        for k in range(12):
            Image.new("RGB", (36, 36), tuple(c + k for c in color)).save(tmp_path / "classes" / name / f"{k}.png")
    file = tmp_path / "classifier.pt"
    outcome = fastmunit(
        "train-classifier", "--data", tmp_path / "classes", "-o", file, "--size", 32, "--architecture", "small",
        "--epochs", 8, "--device", "cpu",
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    assert "2 classes, 100.0 % right on 4 held-out images (small)" in outcome.out
    outcome = fastmunit(
        "evaluate", "--checkpoint", trained, "--metrics", "is-cis", "--classifier", file, "-o", tmp_path / "out", *FAST
    )
    assert outcome.status == 0, outcome.err
    figures = json.loads((tmp_path / "out/evaluation.json").read_text())["evaluations"][0]["figures"]
    assert [figure["name"] for figure in figures] == ["CIS (KL)", "IS (KL)"]
    assert all("accuracy 100.0 % on 4 held-out images" in figure["note"] for figure in figures)
    outcome = fastmunit(
        "evaluate", "--checkpoint", trained, "--metrics", "is-cis", "--classifier", file, "--direction", "both",
        "-o", tmp_path / "out", *FAST,
    )  # fmt: skip
    assert outcome.status == 1 and "one --direction at a time" in outcome.err


def test_classifier_without_weights(fastmunit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(imagenet.WEIGHTS_VARIABLE, raising=False)

    def unreachable(*_: object) -> None:
        raise imagenet.WeightsNotFoundError("no network")

    monkeypatch.setattr(imagenet, "_download", unreachable)
    for name in "ab":
        (tmp_path / "data" / name).mkdir(parents=True)
        for k in range(10):
            Image.new("RGB", (36, 36), (10 * k, 0, 0)).save(tmp_path / "data" / name / f"{k}.png")
    arguments = ("train-classifier", "--data", tmp_path / "data", "-o", tmp_path / "c.pt", "--size", 32, "--epochs", 1)
    outcome = fastmunit(*arguments)
    assert outcome.status == 0, outcome.err
    assert "no network" in outcome.err and "small network from scratch" in outcome.err and "(small)" in outcome.out
    for more in (("--architecture", "alexnet"), ("--weights", tmp_path)):
        outcome = fastmunit(*arguments, *more)
        assert outcome.status == 1 and "Traceback" not in outcome.err
    outcome = fastmunit("train-classifier", "--data", tmp_path / "data/a", "-o", tmp_path / "c.pt")
    assert outcome.status == 1 and "at least 2" in outcome.err
    outcome = fastmunit("train-classifier", "--data", tmp_path / "data", "-o", tmp_path / "data/a/3.png")
    assert (outcome.status, "3.png is an input" in outcome.err) == (1, True)
    Config().save(tmp_path / "c.yaml")
    (tmp_path / "alexnet_features.pth").touch()
    for option, name in (("--config", "c.yaml"), ("--weights", "alexnet_features.pth")):
        value = tmp_path / name if option == "--config" else tmp_path
        outcome = fastmunit("train-classifier", "--data", tmp_path / "data", "-o", tmp_path / name, option, value)
        assert (outcome.status, f"{name} is an input" in outcome.err) == (1, True)
    (tmp_path / "data/b/notes.txt").touch()
    outcome = fastmunit(*arguments, "--architecture", "small", "--max-pixels", 36 * 36 - 1)
    assert outcome.status == 1 and "--max-pixels 1296" in outcome.err
    assert "data/b: 1 file left out: notes.txt." in outcome.err


def test_images_that_cannot_be_read_are_left_out(fastmunit: Command, trained: Path, tmp_path: Path) -> None:
    """Damaged inputs and training images are left out of the scores and listed at the end."""
    folder = Path(Config.load(trained / "config.yaml").data_root or "")
    damaged = shutil.copytree(folder, tmp_path / "data")
    for name in ("testA/0.png", "testA/3.png", "trainB/2.png"):
        whole = (damaged / name).read_bytes()
        (damaged / name).write_bytes(whole[: len(whole) // 2])
    arguments = ["evaluate", "--checkpoint", trained, "--data", damaged, "-o", tmp_path / "out"]
    outcome = fastmunit(*arguments, "--metrics", "edge-agreement,reconstruction", "--samples", 2)
    assert outcome.status == 1
    assert "3 images could not be read; the scores use the others:" in outcome.err
    assert all(f"{name} is damaged" in outcome.err for name in ("testA/0.png", "testA/3.png", "trainB/2.png"))
    assert "edge agreement" in outcome.out
    report = json.loads((tmp_path / "out/evaluation.json").read_text())["evaluations"][0]
    assert [Path(row["file"]).name for row in report["per_input"]] == ["1.png", "2.png", "4.png"]
    assert len(report["failures"]) == 3
    assert "3 images could not be read" in (tmp_path / "out/evaluation.html").read_text()
    for name in ("1.png", "2.png"):
        (damaged / "testA" / name).write_text("no image")
    outcome = fastmunit(*arguments, "--metrics", "edge-agreement", *FAST)
    assert (outcome.status, "needs at least 2 input test images that can be read" in outcome.err) == (1, True)
