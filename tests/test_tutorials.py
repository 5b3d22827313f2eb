"""The tutorials are in the percent format, run as they are, and the notebook of the first is up to date."""

from __future__ import annotations

import ast
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "tutorials"
NAMES = ("first_translation", "train_on_a_folder", "styles", "evaluate")
"""In the order in which they are read."""


def cells(name: str) -> list[tuple[str, str]]:
    """Return the kind and the text of each cell of a tutorial. Markdown has no comment signs."""
    start, *parts = (FOLDER / f"{name}.py").read_text(encoding="utf-8").split("# %%")
    assert start == "", "text before the first cell would not be shown"
    found = []
    for part in parts:
        marker, _, text = part.partition("\n")
        if marker == " [markdown]":
            lines = text.strip().splitlines()
            assert all(line == "#" or line.startswith("# ") for line in lines), lines
            found.append(("markdown", "\n".join(line[2:] for line in lines)))
        else:
            assert marker == "", f"unknown marker {marker}"
            found.append(("code", text))
    return found


def test_every_tutorial_is_known() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_tutorial_starts_with_a_title_and_its_aim_and_shows_something(name: str) -> None:
    (kind, first), *rest = cells(name)
    title, _, aim = first.partition("\n")
    assert kind == "markdown" and title.startswith("# ")
    assert aim.strip().startswith("At the end of this page you will have")
    assert rest[-1][0] == "markdown"  # where to go from here
    shown = [text for kind, text in rest if kind == "code" and ("print(" in text or "contact_sheet(" in text)]
    assert len(shown) >= 5
    for kind, text in rest:
        if kind == "code":
            ast.parse(text)
        else:
            assert not text.startswith("# "), "a page has one title"


@pytest.mark.parametrize(("name", "following"), list(itertools.pairwise(NAMES)))
def test_a_tutorial_leads_to_the_next(name: str, following: str) -> None:
    assert any(f"({following}.py)" in text for kind, text in cells(name) if kind == "markdown")


def test_the_notebook_is_what_the_script_generates() -> None:
    pytest.importorskip("jupytext", reason="jupytext is not installed")
    from tools import make_tutorial_notebook as tool

    generated = tool.notebook(tool.SCRIPT.read_text(encoding="utf-8"))
    assert tool.NOTEBOOK.read_text(encoding="utf-8") == generated, "run python tools/make_tutorial_notebook.py"
    assert "%pip install" in generated and '"outputs": []' in generated


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_tutorial_runs(name: str, tmp_path: Path) -> None:
    for package in ("matplotlib", "sklearn", "scipy"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    program = subprocess.run(
        [sys.executable, FOLDER / f"{name}.py"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg", "TMPDIR": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert program.returncode == 0, program.stderr
    assert program.stdout.strip()
    assert list(tmp_path.iterdir()) == []  # it removes what it writes
