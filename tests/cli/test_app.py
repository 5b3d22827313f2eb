from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import fastmunit as package
from fastmunit.cli.errors import reported
from fastmunit.config import Config
from fastmunit.errors import DataError
from fastmunit.systems import registry
from tests.cli.conftest import Command

ROOT = Path(__file__).parents[2]
COMMANDS = ["train", "translate", "export", "serve", "evaluate", "train-classifier", "demo", "configs", "info"]
STYLES = ["extract", "mean", "bank", "nearest", "interpolate", "directions", "invert", "distribution"]


def test_help_lists_the_commands(fastmunit: Command) -> None:
    outcome = fastmunit("--help")
    assert outcome.status == 0
    assert all(command in outcome.out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command(fastmunit: Command, command: str) -> None:
    outcome = fastmunit(command, "-h")
    assert outcome.status == 0
    if command not in ("configs", "info"):
        assert "Example" in outcome.out
        assert f"fastmunit {command}" in outcome.out.split("Options")[0]


def test_help_of_the_commands_about_styles(fastmunit: Command) -> None:
    assert all(command in fastmunit("styles", "-h").out for command in STYLES)
    for command in STYLES:
        outcome = fastmunit("styles", command, "-h")
        assert outcome.status == 0
        assert f"fastmunit styles {command}" in outcome.out.split("Options")[0]


@pytest.mark.parametrize("system", registry.names())
def test_every_registered_system_is_in_help_and_docs(fastmunit: Command, system: str) -> None:
    for command in ("train", "demo"):
        option = fastmunit(command, "--help").out.rpartition("--system")[2].partition("--")[0]
        assert re.search(rf"\b{system}[,.]", option)
    assert f"| `{system}`" in (ROOT / "docs/concepts/systems.md").read_text(encoding="utf-8")
    assert registry.system_named(system).name == system


def test_help_does_not_load_torch() -> None:
    code = "import sys, fastmunit.cli.app; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


def test_version(fastmunit: Command) -> None:
    outcome = fastmunit("--version")
    assert (outcome.status, outcome.out.strip()) == (0, f"fastmunit {package.__version__}")


def test_configs_are_listed_by_name(fastmunit: Command) -> None:
    outcome = fastmunit("configs")
    assert outcome.status == 0
    for line, name in zip(outcome.out.splitlines(), Config.shipped(), strict=True):
        assert line.startswith(name)
        assert "iterations" in line


def test_info_names_torch(fastmunit: Command) -> None:
    outcome = fastmunit("info")
    assert outcome.status == 0
    assert "torch" in outcome.out


@pytest.mark.parametrize("arguments", [["dance"], ["train"], ["train", "--output", "x", "--max-iter", "0"]])
def test_wrong_usage_is_status_2(fastmunit: Command, arguments: list[str]) -> None:
    assert fastmunit(*arguments).status == 2


def test_ctrl_c_outside_training_is_status_130() -> None:
    @reported
    def command() -> None:
        raise KeyboardInterrupt

    with pytest.raises(typer.Exit) as exit:
        command()
    assert exit.value.exit_code == 130


def test_only_errors_of_fastmunit_hide_their_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    @reported
    def expected() -> None:
        raise DataError("image x.png is damaged")

    @reported
    def defect() -> None:
        raise RuntimeError("a defect")

    with pytest.raises(typer.Exit) as exit:
        expected()
    assert exit.value.exit_code == 1
    assert capsys.readouterr().err == "error: image x.png is damaged\n"
    with pytest.raises(RuntimeError, match="a defect"):
        defect()
