"""bench.chart: charts and tables of docs/project/benchmarks.md are what the script makes from benchmarks.json."""

import copy
import json
import re
from xml.etree import ElementTree

import pytest

from bench import chart

FIGURES = json.loads(chart.FIGURES.read_text())
CHARTS = FIGURES["charts"]
every_chart = pytest.mark.parametrize("name", chart.drawn(FIGURES))


@every_chart
def test_chart_and_table_are_up_to_date(name):
    hint = "run python -m bench.chart"
    assert (chart.CHARTS / f"{name}.svg").read_text() == chart.svg(FIGURES, name), hint
    text = chart.TEXT.read_text()
    assert text == chart.with_sections(text, FIGURES), hint


def test_no_chart_is_left_over():
    assert {path.stem for path in chart.CHARTS.iterdir()} == set(chart.drawn(FIGURES))


@every_chart
def test_bars_are_as_long_as_values_and_nothing_is_cut_off(name):
    root = ElementTree.fromstring(chart.svg(FIGURES, name))
    width, height = (float(root.get(side)) for side in ("width", "height"))
    background, *bars = root.findall("{*}rect")
    assert float(background.get("height")) == height
    lengths = [float(bar.get("width")) for bar in bars]
    for panel in chart.panels_of(CHARTS[name]):
        values = [panel["values"][key] for key in CHARTS[name]["rows"] if key in panel["values"]]
        drawn, lengths = lengths[: len(values)], lengths[len(values) :]
        longest = max(values)
        assert [length / max(drawn) for length in drawn] == pytest.approx([v / longest for v in values], abs=0.01)
    assert not lengths
    for text in root.findall("{*}text"):
        pixels = 8 * len(text.text)  # at most, for this font size
        starts_left = text.get("text-anchor") != "end"
        x = float(text.get("x"))
        if float(text.get("font-size", 13)) == 13:
            assert (x + pixels * 0.85 <= width) if starts_left else (x - pixels >= 0), text.text
        assert 0 < float(text.get("y")) < height


@every_chart
def test_panels_name_rows_of_their_chart(name):
    rows = set(CHARTS[name]["rows"])
    assert set(CHARTS[name]["ours"]) <= rows
    assert CHARTS[name].get("baseline") in {None, *rows}
    for panel in CHARTS[name]["panels"]:
        assert panel["values"].keys() | panel.get("keys", {}).keys() <= rows


def test_a_row_without_a_value_has_no_bar():
    figures = copy.deepcopy(FIGURES)
    steps = figures["charts"]["step_time"]
    key = "reference_step bfloat16, torch.compile"
    for panel in steps["panels"]:
        panel["values"].pop(key, None)
    svg = chart.svg(figures, "step_time")
    assert len(re.findall("<rect", svg)) == 1 + sum(len(panel["values"]) for panel in steps["panels"])
    assert svg.count(chart.NOT_MEASURED) == len(steps["panels"])
    assert f"| {steps['rows'][key]} | {chart.NOT_MEASURED} | {chart.NOT_MEASURED} |" in chart.table(steps)


def test_labels_are_relative_to_the_baseline():
    panel = {"unit": "s", "values": {"public": 12.0, "ours": 4.0}}
    assert chart.label({"baseline": "public"}, panel, "ours") == "4.0 s · 3.00x"
    assert chart.label({"baseline": "public"}, panel, "public") == "12.0 s"
    assert chart.label({"baseline": "public", "relative": "percent"}, panel, "ours") == "4.0 s · 33%"
    assert chart.label({}, panel, "ours") == "4.0 s"


def test_values_come_from_a_run():
    figures = copy.deepcopy(FIGURES)
    steps, memory = (figures["charts"][name]["panels"] for name in ("step_time", "memory"))
    times = {key: 1.0 + 0.001 * i for i, key in enumerate(CHARTS["step_time"]["rows"])}
    peaks = {key.rpartition(": ")[0]: {"ours": 2.5e9, "eager": 5e9} for key in memory[0]["keys"].values()}
    benchmarks = [
        {"name": "bench_step_time", "extra_info": times},
        {"name": "bench_step_peak_memory", "extra_info": peaks},
    ]
    run = {"datetime": "2027-01-02T03:04:05", "benchmarks": benchmarks}
    chart.take_times(figures, run, "epyc")
    assert [steps[1][key] for key in ("date", "machine")] == ["2027-01-02", "epyc"]
    assert list(steps[1]["values"].values()) == [1.0] * len(times)
    assert memory[0]["values"] == {key: 5.0 if key == "reference_step float32" else 2.5 for key in memory[0]["keys"]}
    assert [steps[i] for i in (0, 2)] == [CHARTS["step_time"]["panels"][i] for i in (0, 2)]
    del times["bfloat16"]
    with pytest.raises(ValueError, match="bench_step_time has no value of bfloat16"):
        chart.take_times(figures, run, "epyc")
    with pytest.raises(ValueError, match="no machine 'other'"):
        chart.take_times(figures, run, "other")
    with pytest.raises(ValueError, match="no benchmark of a chart"):
        chart.take_times(figures, {**run, "benchmarks": []}, "epyc")
