"""The page of an evaluation is one well-formed file with everything in it."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from fastmunit.data.failures import Failure
from fastmunit.metrics.confidence import Estimate
from fastmunit.metrics.results import Evaluation, Score, Sheet
from fastmunit.runs.reports.evaluation_report import render
from tests.runs.test_report import Balance

HOSTILE = '<script>alert("x")</script>'


def evaluation() -> Evaluation:
    scores = [
        Score("LPIPS", Estimate(0.5, 0.25, 0.75), "higher", {"real images": Estimate(1.0)}, note=HOSTILE),
        Score("FID", Estimate(0.0)),
    ]
    failures = [Failure(Path(f"{k}.png"), HOSTILE) for k in range(7)]
    sheets = [Sheet(HOSTILE, [[torch.zeros(3, 4, 4)]])]
    return Evaluation("a2b", scores, {HOSTILE: HOSTILE}, [], sheets, failures)


def test_page_stands_alone_and_escapes_names() -> None:
    text = render(HOSTILE, {HOSTILE: HOSTILE}, [evaluation()])
    parsed = Balance(text)
    assert [link[:23] for link in parsed.links] == ["data:image/jpeg;base64,"]
    assert HOSTILE not in text and not re.search(r"https?://", text)
    assert "7 images could not be read" in text and "and 2 more" in text
    assert "LPIPS ↑" in text and "0.25 … 0.75" in text and "real images: 1" in text


def test_values_are_placed_on_one_axis_from_zero() -> None:
    text = render("title", {}, [evaluation()])
    assert text.count('<circle class="dot"') == 1, "a single value of 0 has no axis"
    assert '<circle class="dot" cx="100.0"' in text
    assert '<line class="interval" x1="53.0" x2="147.0"' in text
    assert '<line class="mark" x1="194.0" x2="194.0"' in text
