"""The page of an inspection, and its heat maps."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from fastmunit.data.failures import Failure
from fastmunit.metrics.inspection import ASPECTS, InspectedInput, Inspection, Pictures
from fastmunit.runs.reports.heat_map import NEGATIVE, POSITIVE, heat_map
from fastmunit.runs.reports.inspection_report import render
from tests.runs.test_report import Balance

HOSTILE = '<script>alert("x")</script>'


def inspection(count: int, shown: int) -> Inspection:
    scores = {"cycle_error": 0.25, "edges_added": 1.5, "edges_lost": 0.5, "edge_disagreement": 2.0}
    inputs = [InspectedInput(f"{HOSTILE}/{k}{HOSTILE[:8]}.png", 1 - k / count, scores) for k in range(count)]
    image = torch.zeros(3, 4, 5)
    pictures = Pictures(
        {"input": image, "output": image, "back": image}, {"cycle": torch.ones(4, 5), "edges": -torch.ones(4, 5)}
    )
    skipped = {"variation": f"{HOSTILE} has no styles"}
    failures = [Failure(Path(f"{k}.png"), HOSTILE) for k in range(7)]
    return Inspection(
        "b2a", list(ASPECTS[:2]), skipped, inputs, [pictures] * shown, {"cycle": 2.0, "edges": 0.5}, failures
    )


def test_page_stands_alone_and_escapes_names() -> None:
    text = render(HOSTILE, {HOSTILE: HOSTILE}, [inspection(7, 3)])
    parsed = Balance(text)
    assert [link[:23] for link in parsed.links] == ["data:image/jpeg;base64,"] * 15
    assert HOSTILE not in text and not re.search(r"https?://", text)
    assert "7 images could not be read" in text and "and 2 more" in text
    words = " ".join(text.split())
    assert "The 3 worst of 7 inputs, the worst first, by cycle error and edge disagreement." in words
    assert "Variation over styles: left out, &lt;script&gt;" in words
    assert "worse than 86 % of the others" in words and "edges added <b>1.500</b>" in words
    assert "B → A" in words
    assert "All 3 inputs, the worst first" in " ".join(render("", {}, [inspection(3, 3)]).split())


def rgb(color: str) -> list[int]:
    return [int(color[k : k + 2], 16) for k in (1, 3, 5)]


def test_colors_of_a_heat_map() -> None:
    image = torch.tensor([[[-1.0, 1.0, 0.0, 0.0, 0.0, 0.0]]]).expand(3, -1, -1)
    values = torch.tensor([[0.0, 0.0, 2.0, -2.0, 9.0, 1.0]])
    picture = heat_map(image, values, 2.0)[:, 0].T.tolist()
    assert picture[0] == [115] * 3 and picture[1] == [255] * 3, "zero shows the image, pale"
    assert picture[2] == picture[4] == rgb(POSITIVE[1])
    assert picture[3] == rgb(NEGATIVE[1])
    between = [(a + b) / 2 for a, b in zip(rgb(POSITIVE[0]), rgb(POSITIVE[1]), strict=True)]
    assert picture[5] == pytest.approx(between, abs=1)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_heat_maps_of_any_channels_and_of_zeros(channels: int) -> None:
    image = torch.rand(channels, 3, 4) * 2 - 1
    picture = heat_map(image, torch.zeros(3, 4), 0.0)
    assert (picture.dtype, picture.shape) == (torch.uint8, (3, 3, 4))
    assert torch.equal(picture[0], picture[1]) and torch.equal(picture[0], picture[2])
