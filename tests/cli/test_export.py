from __future__ import annotations

from pathlib import Path

import pytest

from fastmunit.config import Config
from fastmunit.errors import FastmunitError
from fastmunit.export import write
from tests.cli.conftest import Command
from tests.cli.test_translate import pixels
from tests.metrics.translators import Tinted

pytest.importorskip("onnxscript")


def test_export_and_translate(
    fastmunit: Command, trained: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A translator that converts quickly stands for the networks of the run."""
    tinted = Tinted()
    tinted.config = Config.load("demo")
    monkeypatch.setattr("fastmunit.translation.translate.load_translator", lambda *_args, **_options: tinted)
    outcome = fastmunit("export", trained, "--to", "onnx", "--output", tmp_path / "model")
    assert outcome.status == 0, outcome.err
    assert "decode.onnx: " in outcome.out
    assert "differs from PyTorch by at most" in outcome.out
    monkeypatch.undo()

    arguments = ("--checkpoint", tmp_path / "model", "--input", images / "testA/0.png", "--styles", 2)
    outcome = fastmunit("translate", *arguments, "--output", tmp_path / "out")
    assert outcome.status == 0, outcome.err
    first, second = (pixels(tmp_path / f"out/0_style0{index}.png") for index in range(2))
    assert first.shape == (40, 37, 3)
    assert (first != second).any()

    outcome = fastmunit("translate", *arguments, "--output", tmp_path / "back", "--direction", "b2a")
    assert (outcome.status, "translates a2b only, not b2a" in outcome.err) == (1, True)
    outcome = fastmunit("translate", *arguments, "--output", tmp_path / "low", "--precision", "bfloat16")
    assert (outcome.status, "float32" in outcome.err) == (1, True)
    assert not (tmp_path / "low/0_style00.png").exists()


def test_a_failed_check_is_status_1(
    fastmunit: Command, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object, **_options: object) -> None:
        raise FastmunitError("decode differs from PyTorch by 2.0e-01")

    monkeypatch.setattr(write, "export", fail)
    outcome = fastmunit("export", trained, "--to", "onnx", "--output", tmp_path / "model")
    assert outcome.status == 1
    assert outcome.err == "error: decode differs from PyTorch by 2.0e-01\n"


@pytest.mark.parametrize("command", [("export", "--to", "onnx"), ("export", "--to", "folder"), ("translate",)])
def test_a_range_without_numbers_is_refused_everywhere(
    command: tuple[str, ...], fastmunit: Command, trained: Path, images: Path, tmp_path: Path
) -> None:
    Config.load(trained / "config.yaml", ["value_range_b=auto"]).save(tmp_path / "auto.yaml")
    generators = next((trained / "checkpoints").glob("gen_*.pt"))
    name, *rest = command
    which = ("--checkpoint", generators, "--input", images / "testA/0.png") if name == "translate" else (generators,)
    outcome = fastmunit(name, *which, *rest, "--config", tmp_path / "auto.yaml", "--output", tmp_path / "out")
    assert outcome.status == 1
    assert "value_range_b is auto, which training replaces by the numbers that it finds" in outcome.err
    assert not (tmp_path / "out").exists()


def test_a_model_folder(fastmunit: Command, trained: Path, images: Path, tmp_path: Path) -> None:
    outcome = fastmunit("export", trained, "--to", "folder", "--precision", "float16", "--output", tmp_path / "model")
    assert outcome.status == 0, outcome.err
    assert {"model.safetensors", "config.json", "README.md"} <= {path.name for path in (tmp_path / "model").iterdir()}
    arguments = ("--checkpoint", tmp_path / "model", "--input", images / "testA/0.png", "--styles", 1)
    outcome = fastmunit("translate", *arguments, "--output", tmp_path / "out")
    assert outcome.status == 0, outcome.err
    outcome = fastmunit("export", trained, "--to", "folder", "--precision", "int8", "--output", tmp_path / "low")
    assert (outcome.status, "not int8" in outcome.err) == (2, True)
    assert not (tmp_path / "low").exists()


@pytest.mark.parametrize("arguments", [[], ["RUN"], ["RUN", "--to", "tflite", "--output", "x"]])
def test_wrong_usage_is_status_2(fastmunit: Command, arguments: list[str]) -> None:
    assert fastmunit("export", *arguments).status == 2
