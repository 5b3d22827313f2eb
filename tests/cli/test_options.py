"""Odd option values cause a message and an exit status, never a traceback."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from fastmunit.cli.app import app
from fastmunit.cli.output import shell_line
from fastmunit.config import Config
from tests.cli.conftest import Command

ROOT = Path(__file__).parents[2]


def commands_of(group: Any, prefix: str = "") -> dict[str, Any]:
    """Return all commands by name, those of a group such as "styles extract" as well."""
    found: dict[str, Any] = {}
    for name, command in group.commands.items():
        nested = hasattr(command, "commands")
        found |= commands_of(command, f"{prefix}{name} ") if nested else {prefix + name: command}
    return found


COMMANDS: dict[str, Any] = commands_of(typer.main.get_command(app))
PARAMETERS = [
    (name, parameter) for name, command in COMMANDS.items() for parameter in command.params if parameter.name != "help"
]
OPTIONS = [(name, parameter) for name, parameter in PARAMETERS if parameter.param_type_name == "option"]
ARGUMENTS = [(name, parameter) for name, parameter in PARAMETERS if parameter.param_type_name == "argument"]
PATHS = [
    ("train", "--output", ("--config", "demo")),
    ("train", "--data", ("--config", "demo", "--output", "out")),
    ("train", "--init", ("--config", "demo", "--output", "out")),
    ("train", "--init-dis", ("--config", "demo", "--output", "out")),
    ("translate", "--checkpoint", ("--input", "a.png", "--output", "out")),
    ("translate", "--input", ("--checkpoint", "run", "--output", "out")),
    ("translate", "--output", ("--checkpoint", "run", "--input", "a.png")),
    ("translate", "--reference", ("--checkpoint", "run", "--input", "a.png", "--output", "out")),
    ("translate", "--styles-file", ("--checkpoint", "run", "--input", "a.png", "--output", "out")),
    ("translate", "--scratch", ("--checkpoint", "run", "--input", "a.png", "--output", "out")),
    ("translate", "--save-statistics", ("--checkpoint", "run", "--input", "a.png", "--output", "out")),
    ("evaluate", "--checkpoint", ()),
    ("evaluate", "--data", ("--checkpoint", "run")),
    ("evaluate", "--output", ("--checkpoint", "run")),
    ("evaluate", "--weights", ("--checkpoint", "run")),
    ("evaluate", "--classifier", ("--checkpoint", "run")),
    ("train-classifier", "--data", ("--output", "c.pt")),
    ("train-classifier", "--output", ("--data", "photos")),
    ("train-classifier", "--weights", ("--data", "photos", "--output", "c.pt")),
    ("convert", "--public", ("--output", "out")),
    ("convert", "--checkpoint", ("--output", "out")),
    ("convert", "--output", ("--public", "a.pth")),
    ("export", "RUN", ("--to", "onnx", "--output", "out")),
    ("export", "--output", ("run", "--to", "onnx")),
    ("page", "RUN", ("--output", "out")),
    ("page", "--output", ("run",)),
    ("page", "--engine", ("run", "--output", "out")),
    ("page", "--styles-file", ("run", "--output", "out")),
    ("serve", "RUN", ()),
    ("serve", "--styles-file", ("run",)),
    ("evaluate", "--styles-file", ("--checkpoint", "run")),
    ("styles extract", "RUN", ("-i", "a.png", "--output", "out")),
    ("styles extract", "--input", ("run", "--output", "out")),
    ("styles extract", "--output", ("run", "-i", "a.png")),
    ("styles mean", "RUN", ("-i", "a.png", "--output", "out")),
    ("styles mean", "--input", ("run", "--output", "out")),
    ("styles mean", "--output", ("run", "-i", "a.png")),
    ("styles bank", "RUN", ("-i", "a.png", "--output", "out")),
    ("styles bank", "--input", ("run", "--output", "out")),
    ("styles bank", "--content", ("run", "-i", "a.png", "--output", "out")),
    ("styles bank", "--output", ("run", "-i", "a.png")),
    ("styles nearest", "RUN", ("b.png", "-i", "a.png")),
    ("styles nearest", "PHOTO", ("-i", "a.png", "--", "run")),
    ("styles nearest", "--input", ("run", "b.png")),
    ("styles nearest", "--output", ("run", "b.png", "-i", "a.png")),
    ("styles interpolate", "RUN", ("-i", "a.png", "--content", "c.png", "--output", "out")),
    ("styles interpolate", "--input", ("run", "--content", "c.png", "--output", "out")),
    ("styles interpolate", "--content", ("run", "-i", "a.png", "--output", "out")),
    ("styles interpolate", "--output", ("run", "-i", "a.png", "--content", "c.png")),
    ("styles directions", "RUN", ("-i", "a.png", "--content", "c.png", "--output", "out")),
    ("styles directions", "--input", ("run", "--content", "c.png", "--output", "out")),
    ("styles directions", "--content", ("run", "-i", "a.png", "--output", "out")),
    ("styles directions", "--output", ("run", "-i", "a.png", "--content", "c.png")),
    ("styles invert", "RUN", ("b.png", "--output", "out")),
    ("styles invert", "PHOTO", ("--output", "out", "--", "run")),
    ("styles invert", "--content", ("run", "b.png", "--output", "out")),
    ("styles invert", "--weights", ("run", "b.png", "--output", "out")),
    ("styles invert", "--output", ("run", "b.png")),
    ("styles distribution", "RUN", ("--output", "out")),
    ("styles distribution", "--input", ("run", "--output", "out")),
    ("styles distribution", "--output", ("run",)),
    ("demo", "--output", ()),
]
CONFIGS = [
    ("train", "--config", ("--output", "out")),
    ("translate", "--config", ("--checkpoint", "gen.pt", "--input", "a.png", "--output", "out")),
    ("evaluate", "--config", ("--checkpoint", "gen.pt", "--output", "out")),
    ("convert", "--config", ("--checkpoint", "gen.pt", "--output", "out")),
    ("export", "--config", ("gen.pt", "--to", "onnx", "--output", "out")),
    ("page", "--config", ("gen.pt", "--output", "out")),
    ("serve", "--config", ("gen.pt",)),
    ("demo", "--config", ()),
    ("styles extract", "--config", ("gen.pt", "-i", "a.png", "--output", "out")),
    ("styles mean", "--config", ("gen.pt", "-i", "a.png", "--output", "out")),
    ("styles bank", "--config", ("gen.pt", "-i", "a.png", "--output", "out")),
    ("styles nearest", "--config", ("gen.pt", "b.png", "-i", "a.png")),
    ("styles interpolate", "--config", ("gen.pt", "-i", "a.png", "--content", "c.png", "--output", "out")),
    ("styles directions", "--config", ("gen.pt", "-i", "a.png", "--content", "c.png", "--output", "out")),
    ("styles invert", "--config", ("gen.pt", "b.png", "--output", "out")),
    ("styles distribution", "--config", ("gen.pt", "--output", "out")),
]


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def given(option: str, value: str) -> tuple[str, ...]:
    """Return the words that give an option, or a positional argument, this value."""
    return (option, value) if option.startswith("-") else (value,)


def test_every_command_and_path_is_covered() -> None:
    assert {name for name, _ in OPTIONS} == set(COMMANDS) - {"configs", "info"}
    covered = {(name, option) for name, option, _ in PATHS}
    for name, parameter in OPTIONS:
        annotation = inspect.signature(COMMANDS[name].callback).parameters[parameter.name].annotation
        assert ("Path" in str(annotation)) == ((name, parameter.opts[0]) in covered), (name, parameter.name)
    for name, parameter in ARGUMENTS:
        assert (name, parameter.metavar) in covered, (name, parameter.name)


@pytest.mark.parametrize(("command", "parameter"), OPTIONS, ids=[f"{c} {p.name}" for c, p in OPTIONS])
def test_options_are_lists_or_given_once(fastmunit: Command, command: str, parameter: Any) -> None:
    for option in parameter.opts:
        once = [option] if parameter.is_flag else [option, "1"]
        outcome = fastmunit(
            *command.split(), *once, *([parameter.opts[0]] if parameter.is_flag else [f"{parameter.opts[0]}=1"])
        )
        assert outcome.status == 2
        assert ("given 2 times: give it once" in outcome.err) is not parameter.multiple
        assert parameter.multiple or parameter.opts[0] in outcome.err
    assert list(Path().iterdir()) == []


def test_options_that_are_lists() -> None:
    assert {(name, parameter.name) for name, parameter in OPTIONS if parameter.multiple} >= {
        ("train", "overrides"),
        ("train", "ablate"),
        ("translate", "reference"),
    }


def test_help_works_with_repeated_options(fastmunit: Command) -> None:
    assert fastmunit("train", "--output", "a", "--output", "b", "--help").status == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_the_whole_text_of_each_option(
    fastmunit: Command, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("COLUMNS", "900")
    shown = " ".join(fastmunit(*command.split(), "--help").out.split())
    for parameter in COMMANDS[command].params:
        assert " ".join((parameter.help or "").split()) in shown, parameter.name


@pytest.mark.parametrize(("command", "option", "others"), PATHS + CONFIGS)
def test_values_that_are_not_paths(fastmunit: Command, command: str, option: str, others: tuple[str, ...]) -> None:
    Path("gen.pt").touch()
    for value, reason in (
        ("", "the value is empty"),
        ("a\0b", "null character"),
        ("x" * 256, "a name of 256 bytes"),
        ("ü" * 128, "a name of 256 bytes"),
        ("a/" * 2048 + "b", "the path has 4,097 bytes"),
    ):
        outcome = fastmunit(*command.split(), *given(option, value), *others)
        assert outcome.status in (1, 2), outcome
        text = " ".join(outcome.err.replace("│", " ").split())
        assert reason in text
        assert option in text or outcome.status == 1
    assert list(Path().iterdir()) == [Path("gen.pt")]


@pytest.mark.parametrize(("command", "option", "others"), PATHS + CONFIGS)
def test_odd_names(fastmunit: Command, command: str, option: str, others: tuple[str, ...]) -> None:
    """Names that are not UTF-8, special files and unknown users cause an error about this or another option."""
    os.mkfifo("fifo")
    for value in (
        "b\udcff",
        "x" * 255,
        "~nobody-of-this-name",
        "$NOWHERE/x",
        "fifo",
        "fifo/x",
        "/dev/null",
        "/dev/null/x",
    ):
        more = ("--system", "none") if command == "demo" else ()
        outcome = fastmunit(*command.split(), *given(option, value), *others, *more)
        assert outcome.status in (1, 2)
        assert outcome.err.startswith("error: ")
        outcome.err.encode()


@pytest.mark.parametrize(
    ("command", "option", "others"),
    [
        ("train", "--keep", ("--config", "demo", "--output", "out")),
        ("train", "--max-iter", ("--config", "demo", "--output", "out")),
        ("translate", "--size", ("--checkpoint", "run", "--input", "a.png", "--output", "out")),
        ("translate", "--batch-size", ("--checkpoint", "run", "--input", "a.png", "--output", "out")),
        ("evaluate", "--inputs", ("--checkpoint", "run")),
        ("evaluate", "--samples", ("--checkpoint", "run")),
        ("train-classifier", "--epochs", ("--data", "photos", "--output", "c.pt")),
        ("train-classifier", "--seed", ("--data", "photos", "--output", "c.pt")),
    ],
)
def test_numbers_that_torch_cannot_take(fastmunit: Command, command: str, option: str, others: tuple[str, ...]) -> None:
    outcome = fastmunit(*command.split(), option, 10**22, *others)
    assert outcome.status == 2
    assert option in outcome.err
    assert "number is too large" in outcome.err


def test_paths_of_the_command_line_are_expanded(fastmunit: Command, images: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("PHOTOS", str(images))
        (home / "tiny.yaml").write_text("system: none\n")
        outcome = fastmunit("train", "--config=~/tiny.yaml", "--output=~/run", "--data=$PHOTOS")
        assert "system 'none' is none of" in outcome.err
        outcome = fastmunit("translate", "--checkpoint=~/run", "--input=$PHOTOS", "--output=out")
        assert f"{home}/run" in outcome.err
        assert "~" not in outcome.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--max-iter", 10**17),
        ("--device", "b\udcff"),
        ("--device", "cuda:99999999999999999999"),
        ("--system", "b\udcff"),
        ("--set", "b\udcff=1"),
        ("--set", "lr=b\udcff"),
        ("--set", "data_root=b\udcff"),
        ("--set", "x" * 10**5 + "=1"),
        ("--set", "." * 10**5 + "=1"),
        ("--set", "options." + "a." * 10**4 + "a=1"),
        ("--set", "lr=" + "[" * 5000),
        ("--set", "gen.dim=1e12"),
        ("--set", "dis.num_scales=1e9"),
        ("--set", "gen={1: 2}"),
        ("--set", "lr=0x_"),
        ("--ablate", "b\udcff"),
        ("--minutes", "nan"),
        ("--minutes", "1e308"),
        ("--seed", 10**30),
        ("--keep", -1),
        ("--b\udcff",),
    ],
    ids=str,
)
def test_odd_values_of_train(fastmunit: Command, tmp_path: Path, arguments: tuple[object, ...]) -> None:
    outcome = fastmunit("train", "--config", "demo", "--data", tmp_path, "--output", "out", *arguments)
    assert outcome.status in (1, 2)
    assert len(outcome.err.encode()) < 2000
    assert not Path("out").exists()


def test_a_run_folder_whose_name_is_not_utf8(fastmunit: Command, config_file: Path) -> None:
    outcome = fastmunit("train", "--config", config_file, "--output", "b\udcff")
    assert (outcome.status, "the name of output b\\xff is not UTF-8" in outcome.err) == (1, True)
    assert list(Path().iterdir()) == []


def test_a_run_through_a_link_to_a_name_that_is_not_utf8(fastmunit: Command, config_file: Path) -> None:
    Path("b\udcff").mkdir()
    Path("link").symlink_to("b\udcff")
    outcome = fastmunit("train", "--config", config_file, "--output", "link", "--set", "max_iter=1")
    assert outcome.status == 0, outcome.err
    assert "fastmunit · b\\xff" in Path("link/report.html").read_text()


def shell(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    program = f"{sys.executable} -m fastmunit"
    return subprocess.run(
        ["bash", "-c", script.replace("fastmunit", program)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        check=False,
    )


def test_output_that_is_closed_full_or_of_another_encoding() -> None:
    """Output may be closed early or from the start, on a full disk, or in an encoding without arrows."""
    closed_early = shell("fastmunit configs | head -1; echo ${PIPESTATUS[0]}")
    assert closed_early.stderr == ""
    assert closed_early.stdout.startswith("bicyclegan")
    closed = shell("fastmunit configs >&-; echo $?")
    assert (closed.stdout, closed.stderr) == ("0\n", "")
    full = shell("fastmunit configs > /dev/full; echo $?")
    assert (full.stdout, full.stderr) == ("1\n", "error: cannot write to standard output: No space left on device.\n")
    western = shell("fastmunit configs", PYTHONIOENCODING="latin-1")
    assert (western.returncode, western.stderr) == (0, "")
    assert "\\u2194" in western.stdout
    assert len(western.stdout.splitlines()) == len(Config.shipped())


def test_shell_lines_can_be_pasted() -> None:
    parts = ["a b", "b\udcff'\\", "ü", "$x"]
    run = subprocess.run(["bash", "-c", f"printf '%s\\n' {shell_line(parts)}"], capture_output=True, check=True)
    assert run.stdout == b"".join(os.fsencode(part) + b"\n" for part in parts)
