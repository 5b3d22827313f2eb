"""The short examples, and what all examples import."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from examples import quickstart

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").rglob("*.py"))


def run(script: str, folder: Path) -> str:
    """Run an example as a program in `folder` and return its standard output."""
    program = subprocess.run(
        [sys.executable, str(ROOT / "examples" / script)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert program.returncode == 0, program.stderr
    return program.stdout


def require_styles(picture: Path) -> None:
    with Image.open(picture) as image:
        assert image.size == (11 * 64, 64)


def test_quickstart_trains_translates_and_continues(tmp_path: Path) -> None:
    for _ in range(2):
        quickstart.main(tmp_path, seconds=0.5)
        require_styles(tmp_path / "styles.png")
        (tmp_path / "styles.png").unlink()


@pytest.mark.slow
def test_quickstart_runs_as_written(tmp_path: Path) -> None:
    assert "Look at runs/quickstart/styles.png" in run("quickstart.py", tmp_path)
    require_styles(tmp_path / "runs/quickstart/styles.png")


def test_accelerate_prints_its_report_and_the_ratio(tmp_path: Path) -> None:
    output = run("accelerate.py", tmp_path)
    assert "fused ops for 5 norms, 5 activations, 5 pads" in output
    measured = re.search(r"([\d.]+) ms before, ([\d.]+) ms after: ([\d.]+) times as fast", output)
    assert measured is not None
    before, after, ratio = map(float, measured.groups())
    assert ratio == pytest.approx(before / after, rel=0.1)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples_import_neither_the_command_line_nor_private_names(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            assert not name.startswith("fastmunit.cli"), f"{path.name}:{node.lineno}"
            assert not any(part.startswith("_") and part != "__future__" for part in name.split(".")), name
