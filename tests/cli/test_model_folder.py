"""Commands take model folders and names of models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from fastmunit import translate
from fastmunit.model_folder import load
from fastmunit.translation.save_model import save_model
from tests.cli.conftest import Command


@pytest.fixture(scope="module")
def backward(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a translator from B, which is RGB, to A, which is gray."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(trained, folder, direction="b2a")
    return folder


def test_translate_uses_the_direction_of_the_folder(
    fastmunit: Command, backward: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("--input", images / "testB/0.png", "--output", tmp_path / "out", "--styles", 2)
    monkeypatch.setattr(load, "_PACKAGED", backward.parent)
    for name in (backward, "tiny"):
        outcome = fastmunit("translate", "--checkpoint", name, *arguments)
        assert outcome.status == 0, outcome.err
        assert (tmp_path / "out/0_style01.png").exists()
        shutil.rmtree(tmp_path / "out")
    outcome = fastmunit("translate", "--checkpoint", backward, "--direction", "a2b", *arguments)
    assert outcome.status == 1
    assert "translates b2a only, not a2b: leave the direction out" in outcome.err
    outcome = fastmunit("translate", "--checkpoint", "tinny", *arguments)
    assert outcome.status == 1
    assert "tinny does not exist: check the path; did you mean 'tiny'?; packaged models: tiny" in outcome.err
    assert "packaged models    tiny" in fastmunit("info").out


def test_evaluate_and_the_scores_in_the_card(
    fastmunit: Command, trained: Path, backward: Path, images: Path, tmp_path: Path
) -> None:
    options = ("--metrics", "edge-agreement", "--inputs", 3, "--samples", 2)
    outcome = fastmunit("evaluate", "--checkpoint", backward, "--data", images, "-o", tmp_path / "x", *options)
    assert outcome.status == 1 and "translates b2a only" in outcome.err
    both = ("--direction", "both")
    outcome = fastmunit("evaluate", "--checkpoint", backward, "--data", images, "-o", tmp_path / "x", *both, *options)
    assert outcome.status == 0, outcome.err
    (evaluation,) = json.loads((tmp_path / "x/evaluation.json").read_text())["evaluations"]
    assert evaluation["direction"] == "b2a"

    run = Path(shutil.copytree(trained, tmp_path / "run"))
    outcome = fastmunit("evaluate", "--checkpoint", run, *options)
    assert outcome.status == 0, outcome.err
    save_model(run, tmp_path / "model")
    (figure,) = json.loads((run / "evaluation/evaluation.json").read_text())["evaluations"][0]["figures"]
    row = f"| a2b | {figure['name']} | {figure['value']:.4g} | {figure['better']} is better |"
    assert row in (tmp_path / "model/README.md").read_text()


def test_training_starts_from_the_weights_of_a_folder(
    fastmunit: Command, trained: Path, images: Path, config_file: Path, tmp_path: Path
) -> None:
    save_model(trained, tmp_path / "model")
    outcome = fastmunit(
        "train", "--config", config_file, "--set", "input_dim_a=1", "--set", "max_iter=1", "--device", "cpu",
        "--init", tmp_path / "model/model.safetensors", "--output", tmp_path / "run",
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    start = translate(tmp_path / "run/checkpoints/gen_00000000.pt", images / "testA/0.png", 2)
    assert torch.equal(start, translate(tmp_path / "model", images / "testA/0.png", 2))
