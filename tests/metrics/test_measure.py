"""The registry of measures: names, help, documentation, and measures of a user's own module."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import typer

from fastmunit.cli.app import app
from fastmunit.config import Config
from fastmunit.errors import ConfigError
from fastmunit.metrics import measure
from fastmunit.metrics.evaluate import evaluate
from fastmunit.metrics.load import load_measures
from fastmunit.runs.reports.evaluation_report import render
from tests.metrics.translators import Same, Tinted

DOCUMENT = (Path(__file__).parents[2] / "docs/how_to/evaluation.md").read_text(encoding="utf-8")


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write the example of docs/how_to/evaluation.md as a user's module, whose measure is forgotten after the test."""
    monkeypatch.setattr(measure, "_registered", measure.registered())
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    (tmp_path / "brightness.py").write_text(next(block for block in blocks if "@register" in block))
    monkeypatch.syspath_prepend(tmp_path)
    return "brightness"


def test_a_measure_of_a_users_module_is_evaluated_reported_and_documented(config: Config, own_module: str) -> None:
    with pytest.raises(ConfigError, match="metric 'brightness' is none of"):
        load_measures(["brightness"])
    importlib.import_module(own_module)
    measures = load_measures(["brightness", "reconstruction"])
    result = evaluate(Tinted(0.5), config, measures, backward=Tinted(), inputs=3, samples=4)
    score = result.scores[-1]
    assert score.name == "brightness change" and 0.05 < score.estimate.value < 1
    assert [row["brightness change"] for row in result.per_input] == score.per_input
    assert result.to_dict()["figures"][-1]["name"] == "brightness change"
    assert "<td>brightness change ↓" in render("Evaluation", {}, [result])
    assert "| brightness change | `brightness` | mean \\|mean(y - x)\\|" in measure.documentation()
    assert "brightness" in measure.names(with_classifier=False)
    assert "brightness" not in measure.names(with_classifier=False, default=True)
    same = evaluate(Same(), config, load_measures(["brightness"]), samples=2).scores[0]
    assert same.estimate.value == 0


def test_the_documentation_lists_the_registered_measures() -> None:
    assert measure.documentation() in DOCUMENT, (
        "docs/how_to/evaluation.md has another table: replace it by what "
        '`python -c "from fastmunit.metrics.measure import documentation; print(documentation())"` prints'
    )


def test_the_help_lists_the_registered_measures() -> None:
    evaluation = typer.main.get_command(app).commands["evaluate"]  # type: ignore[attr-defined]
    text = next(option.help for option in evaluation.params if option.name == "metrics")
    assert all(measure.name_pattern(kind) in text for kind in measure.registered())


def test_names_are_built_from_options() -> None:
    known = measure.variants()
    for name in ("lpips-alex-v0.0", "lpips-vgg-v0.1", "fd-vgg16", "kid-alexnet", "is-cis", "reconstruction"):
        assert name in known
    assert set(measure.names(with_classifier=True)) - set(measure.names(with_classifier=False)) == {"is-cis"}
    default = ["lpips-alex-v0.1", "fd-alexnet", "kid-alexnet", "edge-agreement", "content-code", "reconstruction"]
    assert measure.names(with_classifier=False, default=True) == default
    assert measure.names(with_classifier=True, default=True) == [*default[:3], "is-cis", *default[3:]]


def test_two_measures_of_one_name_are_refused() -> None:
    first = measure.registered()[0]
    with pytest.raises(ValueError, match=r"lpips-\{net\}-v\{version\}' is registered already"):
        measure.register(first)
