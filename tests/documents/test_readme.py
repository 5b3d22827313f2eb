"""Figures of the README and of the guides are what `bench.chart` writes, and badges say what pyproject.toml says."""

from __future__ import annotations

import copy
import json
import re

from bench import chart, durations, headlines
from tests.documents.blocks import ROOT

README = headlines.README.read_text(encoding="utf-8")
FIGURES = json.loads(chart.FIGURES.read_text(encoding="utf-8"))


def test_headlines_are_up_to_date() -> None:
    assert headlines.with_headlines(README, FIGURES) == README, "run python -m bench.chart"


def test_durations_are_up_to_date() -> None:
    page = durations.PAGE.read_text(encoding="utf-8")
    assert durations.with_durations(page, FIGURES) == page, "run python -m bench.chart"


def test_durations_are_iterations_times_a_step() -> None:
    figures = copy.deepcopy(FIGURES)
    for panel in figures["charts"]["step_time"]["panels"]:
        panel["values"]["bfloat16"] = {"ms": 36, "s": 0.036}[panel["unit"]]
    *_, line = durations.table(figures).splitlines()
    assert line.endswith("| 6 min 0 s | 1 h 0 min | 10 h 0 min |")


def test_what_has_no_figure_was_not_measured() -> None:
    figures = copy.deepcopy(FIGURES)
    chart = figures["charts"]["step_time"]
    for panel in chart["panels"]:
        panel["values"] = dict.fromkeys([*chart["ours"], chart["baseline"]], 2)
    times = [line for line in headlines.table(figures).splitlines() if line.startswith("| time")]
    assert len(times) == len(chart["panels"])
    for line in times:
        assert line.count("not measured") == 2 and line.count("1.00x**") == 2
    assert headlines.headline(figures).count("1.0 times") == len(times)


def test_badges_agree_with_the_package() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    badges = dict(re.findall(r"`(\w+)(?:: ([^`]+))?`", README.split("\n\n")[1]))
    versions = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', project)
    torch = re.search(r'"torch>=([\d.]+)"', project)
    license = re.search(r'(?m)^license = "(.+)"$', project)
    assert torch and license
    assert badges == {
        "license": license[1], "Python": " | ".join(versions), "PyTorch": f"≥ {torch[1]}", "typed": "",
    }  # fmt: skip
    assert (ROOT / "fastmunit/py.typed").is_file()
