"""Links to code lead to the lines where that code is."""

import re
from pathlib import Path

import pytest

from tools import link_code

SOURCE = """\
import torch


class Loss:
    def terms(self, x, y):
        a = L1(x, y)
        b = L1(x, y_recon)
        return weigh(
            a,
            b,
        )
"""


@pytest.mark.parametrize("document", link_code.documents(), ids=lambda path: path.name)
def test_lines_of_links_are_up_to_date(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert link_code.with_lines(text, document.parent) == text, "run python -m tools.link_code"


@pytest.mark.parametrize("document", link_code.documents(), ids=lambda path: path.name)
def test_only_links_that_are_checked_have_lines(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert len(re.findall(r"\.py#L", text)) == sum("#L" in lines for _, _, lines in link_code.LINK.findall(text))


@pytest.mark.parametrize(
    ("text", "lines"),
    [("L1(x, y)", (6, 6)), ("L1(x,  y_recon)", (7, 7)), ("weigh(a, b,)", (8, 11)), ("a = L1(x, y)", (6, 6))],
)
def test_the_lines_of_a_text(text: str, lines: tuple[int, int]) -> None:
    assert link_code.lines_of(text, SOURCE) == lines


@pytest.mark.parametrize(("text", "times"), [("L1(x", 2), ("L2(x, y)", 0)])
def test_a_text_must_be_there_once(text: str, times: int) -> None:
    with pytest.raises(ValueError, match=f"is there {times} times"):
        link_code.lines_of(text, SOURCE)


def test_the_line_of_a_definition() -> None:
    assert link_code.definition("Loss", SOURCE) == 4
    assert link_code.definition("Loss.terms", SOURCE) == 5
    with pytest.raises(ValueError, match="is not defined"):
        link_code.definition("Loss.draw", SOURCE)


def test_stale_lines_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "code.py").write_text(SOURCE, encoding="utf-8")
    text = "[`L1(x, y)`](../code.py#L99), [`weigh(a, b,)`](../code.py), [`Loss.terms`](../code.py#L1)"
    assert link_code.with_lines(text, tmp_path / "docs") == (
        "[`L1(x, y)`](../code.py#L6), [`weigh(a, b,)`](../code.py#L8-L11), [`Loss.terms`](../code.py)"
    )
    with pytest.raises(ValueError, match=r"code\.py: `L2\(x\)` is there 0 times"):
        link_code.with_lines("[`L2(x)`](../code.py)", tmp_path / "docs")
