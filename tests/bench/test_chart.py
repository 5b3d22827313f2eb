"""bench.chart: the chart and the table of docs/project/benchmarks.md are what the script makes from benchmarks.json."""

import copy
import json
import re
from xml.etree import ElementTree

import pytest

from bench import chart

FIGURES = json.loads(chart.FIGURES.read_text())


def test_chart_and_table_are_up_to_date():
    hint = "run python -m bench.chart"
    assert chart.CHART.read_text() == chart.svg(FIGURES), hint
    text = chart.TEXT.read_text()
    assert text == chart.with_table(text, FIGURES), hint
    assert chart.CHART.name in text.split("## ")[0]


def test_bars_are_as_long_as_times_and_nothing_is_cut_off():
    root = ElementTree.fromstring(chart.svg(FIGURES))
    width, height = (float(root.get(side)) for side in ("width", "height"))
    background, *bars = root.findall("{*}rect")
    assert float(background.get("height")) == height
    lengths = [float(bar.get("width")) for bar in bars]
    for panel in FIGURES["panels"]:
        times = [panel["times"][key] for key in FIGURES["rows"] if key in panel["times"]]
        drawn, lengths = lengths[: len(times)], lengths[len(times) :]
        longest = max(times)
        assert [length / max(drawn) for length in drawn] == pytest.approx([t / longest for t in times], abs=0.01)
    assert not lengths
    for text in root.findall("{*}text"):
        pixels = 8 * len(text.text)  # at most, for this font size
        starts_left = text.get("text-anchor") != "end"
        x = float(text.get("x"))
        if float(text.get("font-size", 13)) == 13:
            assert (x + pixels * 0.85 <= width) if starts_left else (x - pixels >= 0), text.text
        assert 0 < float(text.get("y")) < height


def test_a_competitor_without_a_time_has_no_bar():
    figures = copy.deepcopy(FIGURES)
    key = "reference_step bfloat16, torch.compile"
    for panel in figures["panels"]:
        panel["times"].pop(key, None)
    assert len(re.findall("<rect", chart.svg(figures))) == 1 + sum(len(panel["times"]) for panel in figures["panels"])
    assert chart.svg(figures).count(chart.NOT_MEASURED) == len(figures["panels"])
    assert f"| {figures['rows'][key]} | {chart.NOT_MEASURED} | {chart.NOT_MEASURED} |" in chart.table(figures)


def test_factors_are_relative_to_the_public_step():
    panel = {"unit": "s", "times": {chart.BASELINE: 12.0, "bfloat16": 4.0}}
    assert chart.label(panel, "bfloat16") == "4.0 s · 3.00x"
    assert chart.label(panel, chart.BASELINE) == "12.0 s"


def test_times_come_from_a_run():
    figures = copy.deepcopy(FIGURES)
    times = {key: 1.0 + 0.001 * i for i, key in enumerate(figures["rows"])}
    run = {"datetime": "2027-01-02T03:04:05", "benchmarks": [{"name": chart.BENCHMARK, "extra_info": times}]}
    chart.take_times(figures, run)
    assert figures["panels"][0]["date"] == "2027-01-02"
    assert list(figures["panels"][0]["times"].values()) == [1.0] * len(times)
    assert figures["panels"][1:] == FIGURES["panels"][1:]
    del times["bfloat16"]
    with pytest.raises(ValueError, match="no time of bfloat16"):
        chart.take_times(figures, run)
