"""The tutorials are in the percent format and run as they are, and so does the notebook of the first."""

from __future__ import annotations

import ast
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "tutorials"
NOTEBOOK = FOLDER / "first_translation.ipynb"
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


def notebook_cells(kind: str) -> list[str]:
    """Return the texts of the notebook's cells of a kind."""
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]


def test_the_notebook_names_pages_instead_of_linking_to_files() -> None:
    text = "\n".join(notebook_cells("markdown"))
    assert re.findall(r"\]\((?!https://)", text) == []
    paths = re.findall(r"\(`(docs/[^`]+)`\)", text)
    assert {Path(path).stem for path in paths} == {"train_on_a_folder", "styles", "evaluate"}
    assert all((ROOT / path).is_file() for path in paths)


def test_the_notebook_installs_the_checkout_that_it_is_in() -> None:
    install, *others = notebook_cells("code")
    folder = re.search(r'(?m)^checkout = "(.+)"$', install)
    assert folder and install.endswith("\n%pip install --quiet {checkout}")
    assert (NOTEBOOK.parent / folder[1]).resolve() == ROOT
    assert (ROOT / "pyproject.toml").is_file()
    assert not re.search(r"(?m)^[%!]", "\n".join(others)), "the other cells are Python"


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    """Run its cells as one script. Its first one would install the package."""
    script = tmp_path / "notebook.py"
    script.write_text("\n\n".join(notebook_cells("code")[1:]), encoding="utf-8")
    assert run(script, tmp_path).stdout.startswith("100 drawings and 100 photos")
    assert list(tmp_path.iterdir()) == [script]  # it removes what it writes


def run(script: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a script in a folder, which is also that of its temporary files."""
    temporary = {"TMPDIR": str(folder), "TORCHINDUCTOR_CACHE_DIR": f"{folder}_cache"}  # torch leaves its cache there
    program = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg", **temporary},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert program.returncode == 0, program.stderr
    return program


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_tutorial_runs(name: str, tmp_path: Path) -> None:
    for package in ("matplotlib", "sklearn", "scipy"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    assert run(FOLDER / f"{name}.py", tmp_path).stdout.strip()
    assert list(tmp_path.iterdir()) == []  # it removes what it writes
