"""The support matrix: every combination says when the tests ran, or that no run is recorded."""

import datetime
import importlib.metadata
import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/support.md"
TESTED = re.compile(r"tested \((\d{4}-\d{2}-\d{2})\)")


def matrix() -> list[list[str]]:
    """Return the rows of the table of Pythons and PyTorchs, with its head."""
    lines = PAGE.read_text().splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("| Linux, x86-64, CPU |"))
    table = lines[start : lines.index("", start)]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in [table[0], *table[2:]]]


def test_every_cell_is_tested_or_untested() -> None:
    head, *rows = matrix()
    for row in rows:
        assert len(row) == len(head)
        for cell in row[1:]:
            found = TESTED.fullmatch(cell)
            assert found or cell == "untested", f"{row[0]}: expected tested (YYYY-MM-DD) or untested, got {cell!r}"
            if found:
                assert datetime.date.fromisoformat(found[1]) <= datetime.date.today()


def test_every_python_of_the_package_has_a_row() -> None:
    classifiers = importlib.metadata.metadata("fastmunit").get_all("Classifier", [])
    pythons = [name.split(" :: ")[-1] for name in classifiers if re.search(r"Python :: 3\.\d+$", name)]
    assert pythons and [row[0] for row in matrix()[1:]] == [f"Python {python}" for python in pythons]
