from __future__ import annotations

import html
import io
import json
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fastmunit.config import Config
from fastmunit.runs.callbacks import Status
from fastmunit.runs.reports.charts import Series, line_chart
from fastmunit.runs.reports.curves import Curves
from fastmunit.runs.reports.html import Picture
from fastmunit.runs.reports.training_report import duration, loss_groups, render

VOID = {"meta", "img", "line", "circle", "polyline", "br", "input"}


class Balance(HTMLParser):
    """A parser that raises when tags are not closed in order, and collects what they refer to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2)).save(buffer, format="PNG")
    return buffer.getvalue()


def page(state: str = "running", **changes: object) -> str:
    curves = Curves()
    for k in range(1, 30):
        losses = {"loss_gen_total": 30 / k, "loss_dis_total": 2.0, "loss_gen_vgg_a": 0.0, "loss_gen_adv_a": 1.0}
        curves.add(k, losses)
    arguments: dict[str, object] = {
        "title": "run",
        "state": state,
        "status": Status(29, 100, 12.5, 2.0, 8.0, 35.5, 0.29, {}, 1e-4),
        "config": Config(),
        "curves": curves,
        "facts": {"device": "cpu"},
        "commands": {"Continue": "fastmunit train --resume"},
    }
    return render(**{**arguments, **changes})  # type: ignore[arg-type]


def test_page_stands_alone_and_is_well_formed() -> None:
    text = page(grids=[Picture("a2b", png())], results=[Picture("samples", png())], earlier=[Picture("old", png())])
    parsed = Balance(text)
    assert len(parsed.links) == 3
    assert all(link.startswith("data:image/png;base64,") for link in parsed.links)
    assert not re.search(r"https?://", text)
    assert "29 of 100" in text
    assert "36 s" in text


@pytest.mark.parametrize(("state", "refreshes"), [("running", True), ("finished", False), ("failed", False)])
def test_only_a_running_page_reloads(state: str, refreshes: bool) -> None:
    assert ('http-equiv="refresh"' in page(state)) == refreshes


def test_names_are_escaped() -> None:
    hostile = '<script>alert("x")</script>'
    curves = Curves()
    curves.add(1, {f"loss_'{hostile}_{hostile}": 1.0})
    text = page(
        title=hostile,
        problem=hostile,
        facts={hostile: hostile},
        grids=[Picture(hostile, png())],
        rows=[hostile],
        commands={hostile: hostile},
        curves=curves,
        config=Config(data_root=hostile),
    )
    assert hostile not in text
    Balance(text)


def test_losses_that_stay_zero_have_no_chart() -> None:
    text = page()
    assert "Adversarial, generator" in text
    assert "Perceptual" not in text


def test_before_the_first_iteration() -> None:
    text = page(curves=Curves(), status=Status(0, 100, 0.0))
    assert "No losses logged yet" in text
    Balance(text)


def test_domains_share_a_chart() -> None:
    groups = loss_groups(["loss_dis_a", "loss_dis_b", "loss_dis_total", "loss_gen_total", "loss_gen_recon_x_a"])
    assert groups["Total"] == {"dis": "loss_dis_total", "gen": "loss_gen_total"}
    assert groups["Adversarial, discriminator"] == {"a": "loss_dis_a", "b": "loss_dis_b"}
    assert groups["Image reconstruction (L1)"] == {"a": "loss_gen_recon_x_a"}
    groups = loss_groups(["loss_dis_r1_a", "loss_dis_r1_b", "loss_dis_augment_encoded"])
    assert groups["R1 penalty"] == {"a": "loss_dis_r1_a", "b": "loss_dis_r1_b"}
    assert groups["Probability of augmentation"] == {"encoded": "loss_dis_augment_encoded"}


@given(
    values=st.lists(st.none() | st.floats(-1e30, 1e30, allow_subnormal=False), min_size=1, max_size=50),
    step=st.integers(1, 10**6),
)
def test_charts_stay_inside_their_box(values: list[float | None], step: int) -> None:
    chart = line_chart("loss", [step * (k + 1) for k in range(len(values))], [Series("a", values)])
    if all(value is None for value in values):
        assert chart is None
        return
    assert chart is not None
    (curve,) = chart.curves
    assert len(curve.points) == sum(value is not None for value in values)
    places = [*curve.points, *((chart.left, y) for y, _ in chart.grid), *((x, chart.bottom) for x, _ in chart.ticks)]
    for x, y in places:
        assert chart.left <= x <= chart.right
        assert chart.top <= y <= chart.bottom


@given(
    points=st.lists(
        st.tuples(*[st.none() | st.floats(-1e30, 1e30, allow_subnormal=False)] * 3), min_size=1, max_size=20
    )
)
def test_intervals_stay_inside_the_box(points: list[tuple[float | None, float | None, float | None]]) -> None:
    values, low, high = zip(*points, strict=True)
    chart = line_chart("score", list(range(1, len(points) + 1)), [Series("a", values, low, high)])
    known = [ends for ends in zip(low, high, strict=True) if None not in ends]
    if chart is None:
        assert all(number is None for point in points for number in point)
        return
    (curve,) = chart.curves
    assert len(curve.band) == 2 * len(known)
    assert [x for x, _ in curve.band] == [x for x, _ in reversed(curve.band)], "there and back"
    for x, y in curve.band:
        assert chart.left <= x <= chart.right and chart.top <= y <= chart.bottom


def test_curves_are_drawn() -> None:
    text = page()
    lines = re.findall(r'polyline class="line\d" points="([^"]*)"', text)
    assert [len(points.split()) for points in lines] == [29] * 3
    for point in " ".join(lines).split():
        x, y = map(float, point.split(","))
        assert 0 <= x <= 520 and 0 <= y <= 230
    assert re.findall(r"</span>(\w+) <b>([\d.]+)</b>", text) == [("gen", "1.03"), ("dis", "2"), ("a", "1")]
    (values, _) = (json.loads(html.unescape(data)) for data in re.findall(r"data-chart='([^']*)'", text))
    assert values["x"] == list(range(1, 30)) and [s["name"] for s in values["series"]] == ["gen", "dis"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3725, "1 h 2 min"), (200000, "2 d 7 h")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
