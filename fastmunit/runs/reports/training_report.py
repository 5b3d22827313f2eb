"""report.html: the progress, sample grids, loss curves and configuration of a run on one page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fastmunit.config import Config
from fastmunit.runs.callbacks import Status
from fastmunit.runs.checkpoints.best import Best
from fastmunit.runs.reports import html
from fastmunit.runs.reports.charts import Chart, Series, line_chart
from fastmunit.runs.reports.curves import Curves
from fastmunit.runs.reports.evaluation_log import EvaluationRecord
from fastmunit.runs.reports.html import Picture

REFRESH_SECONDS = 30

_TITLES = {
    "total": "Total",
    "gen_adv": "Adversarial, generator",
    "dis": "Adversarial, discriminator",
    "gen_recon_x": "Image reconstruction (L1)",
    "gen_recon_s": "Style code reconstruction (L1)",
    "gen_recon_c": "Content code reconstruction (L1)",
    "gen_cycrecon_x": "Cycle reconstruction (L1)",
    "gen_vgg": "Perceptual (VGG)",
    "dis_r1": "R1 penalty",
    "dis_augment": "Probability of augmentation",
}


def render(
    *,
    title: str,
    state: str,
    status: Status,
    config: Config,
    curves: Curves,
    facts: Mapping[str, str],
    commands: Mapping[str, str],
    results: Sequence[Picture] = (),
    grids: Sequence[Picture] = (),
    rows: Sequence[str] = (),
    earlier: Sequence[Picture] = (),
    problem: str | None = None,
    evaluations: Sequence[EvaluationRecord] = (),
    best: Best | None = None,
) -> str:
    """Render the page as HTML that needs no other file and no network.

    Args:
        title: Heading.
        state: "running" (the page then reloads itself), "finished", "stopped" or "failed".
        status: Progress of the run.
        config: Configuration of the run.
        curves: Losses over iterations.
        facts: Names and values of further facts, such as the device.
        commands: Purpose and command line of possible next steps.
        results: Pictures at the top of the page.
        grids: Latest sample grids.
        rows: Contents of the rows of a sample grid.
        earlier: Earlier sample grids, oldest first.
        problem: Reason why the run failed.
        evaluations: Evaluations during the training. Only those that can be compared with the last one are drawn.
        best: The best checkpoint.
    """
    return html.render(
        "report.html.j2",
        title=title,
        state=state,
        refresh_seconds=REFRESH_SECONDS,
        fraction=min(1.0, status.fraction),
        problem=problem,
        facts=_facts(status, state, config) | dict(facts),
        results=results,
        grids=grids,
        rows=rows,
        earlier=earlier,
        charts=list(_charts(curves)),
        evaluation_charts=list(_evaluation_charts(evaluations)),
        best=best,
        commands=commands,
        config=config,
        settings=list(_settings(config)),
    )


def loss_groups(names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Group loss names by chart: chart title → {curve label: loss name}. "…_a" and "…_b" share a chart."""
    groups: dict[str, dict[str, str]] = {}
    for name in names:
        stem = name.removeprefix("loss_")
        if stem.endswith("_total"):
            groups.setdefault(_TITLES["total"], {})[stem.removesuffix("_total")] = name
            continue
        kind, _, domain = stem.rpartition("_")
        groups.setdefault(_TITLES.get(kind, kind.replace("_", " ")), {})[domain] = name
    return groups


def duration(seconds: float) -> str:
    """Format seconds as 42 s, 3 min 20 s, 5 h 12 min or 2 d 4 h."""
    whole = round(seconds)
    for unit, size, smaller, small in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // small} {smaller}"
    return f"{whole} s"


def _facts(status: Status, state: str, config: Config) -> dict[str, str]:
    limited_by_time = status.fraction > status.iterations / status.max_iter
    total = "" if limited_by_time else f" of {status.max_iter:,}"
    facts = {"iterations": f"{status.iterations:,}{total}", "training time": duration(status.seconds)}
    if status.iterations_per_second:
        facts["iterations / s"] = f"{status.iterations_per_second:.3g}"
        facts["images / s"] = f"{status.images_per_second:.3g}"
    if status.seconds_left is not None and state == "running":
        facts["time left"] = duration(status.seconds_left)
    facts["learning rate"] = f"{status.learning_rate:.3g}"
    if config.lr_dis is not None:  # the schedules of both optimizers have the same factor
        facts["learning rate of discriminators"] = f"{status.learning_rate * config.lr_dis / config.lr:.3g}"
    return facts


def _charts(curves: Curves) -> Iterator[Chart]:
    for title, members in loss_groups(curves.names).items():
        series = [Series(label, curves.means(name)) for label, name in members.items()]
        if any(value for s in series for value in s.values):  # a disabled loss stays 0 and needs no chart
            chart = line_chart(title, curves.iterations, series)
            if chart is not None:
                yield chart


def _evaluation_charts(evaluations: Sequence[EvaluationRecord]) -> Iterator[Chart]:
    """Yield a chart per score: its curve with the interval, and the last values to compare with."""
    last = evaluations[-1] if evaluations else None
    if last is None:
        return
    drawn = [record for record in evaluations if record.conditions == last.conditions]
    for figure in last.figures:
        found = [{each.name: each for each in record.figures}.get(figure.name) for record in drawn]
        series = Series(
            figure.name,
            [None if each is None else each.value for each in found],
            [None if each is None else each.low for each in found],
            [None if each is None else each.high for each in found],
        )
        references = [Series(name, [value] * len(drawn)) for name, value in figure.references.items()]
        arrow = {"higher": " ↑", "lower": " ↓"}.get(figure.better, "")
        chart = line_chart(figure.name + arrow, [record.iteration for record in drawn], [series, *references])
        if chart is not None:
            yield chart


def _settings(config: Config) -> Iterator[tuple[str, object]]:
    for key, value in config.to_dict().items():
        items = {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
        yield from ((k, v) for k, v in items.items() if v is not None)
