"""report.html: one self-contained page with the progress, sample grids, loss curves and configuration of a run."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from fastmunit.config import Config
from fastmunit.runs.callbacks import Status
from fastmunit.runs.reports.charts import Series, line_chart
from fastmunit.runs.reports.loss_log import Curves
from fastmunit.runs.reports.page import SCRIPT, STYLE

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
}


@dataclass(frozen=True)
class Picture:
    """A picture in the report: its caption and its bytes (PNG or JPEG)."""

    caption: str
    data: bytes


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
) -> str:
    """Build the page.

    Args:
        title: heading.
        state: "running" (the page then reloads itself), "finished", "stopped" or "failed".
        status: where the run stands.
        config: its configuration.
        curves: losses over iterations.
        facts: name → value of further facts (device, parameters, …).
        commands: what one can do next → the command line for it.
        results: pictures shown first.
        grids: the latest sample grids.
        rows: what the rows of a sample grid show.
        earlier: sample grids of earlier moments, oldest first.
        problem: why the run failed.

    Returns:
        HTML that needs no other file and no network.
    """
    refresh = f'<meta http-equiv="refresh" content="{REFRESH_SECONDS}">' if state == "running" else ""
    sections = [
        _header(title, state, status),
        f'<p class="card problem">{html.escape(problem)}</p>' if problem else "",
        _facts(status, facts, state),
        _pictures("Results", "", results),
        _pictures("Samples", f"Rows: {', '.join(rows)}.", grids)
        if grids
        else '<h2>Samples</h2><p class="note">The first sample grids come after '
        f"{config.image_display_iter} iterations.</p>",
        _pictures("Earlier", "The same display images at earlier moments of the run.", earlier),
        _charts(curves),
        _commands(commands),
        _config(config),
    ]
    written = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">{refresh}'
        f'<meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style></head><body><main>{''.join(sections)}<footer>Written {written}.</footer></main>"
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def loss_groups(names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Group loss names for charts: chart title → {curve label: loss name}; "…_a" and "…_b" share a chart."""
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
    """Seconds as 42 s, 3 min 20 s, 5 h 12 min or 2 d 4 h."""
    whole = round(seconds)
    for unit, size, smaller, small in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // small} {smaller}"
    return f"{whole} s"


def _header(title: str, state: str, status: Status) -> str:
    return (
        f'<header><h1>{html.escape(title)}</h1><span class="state {state}">{state}</span></header>'
        f'<div class="track"><i style="width:{100 * min(1.0, status.fraction):.1f}%"></i></div>'
    )


def _facts(status: Status, facts: Mapping[str, str], state: str) -> str:
    bounded_by_time = status.fraction > status.iterations / status.max_iter
    total = "" if bounded_by_time else f" of {status.max_iter:,}"
    rows = {"iterations": f"{status.iterations:,}{total}", "training time": duration(status.seconds)}
    if status.iterations_per_second:
        rows["iterations / s"] = f"{status.iterations_per_second:.3g}"
        rows["images / s"] = f"{status.images_per_second:.3g}"
    if status.seconds_left is not None and state == "running":
        rows["time left"] = duration(status.seconds_left)
    rows |= {"learning rate": f"{status.learning_rate:.3g}"} | dict(facts)
    cells = "".join(f"<div><dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd></div>" for k, v in rows.items())
    return f'<dl class="facts">{cells}</dl>'


def _pictures(heading: str, note: str, pictures: Sequence[Picture]) -> str:
    if not pictures:
        return ""
    figures = "".join(
        f'<figure class="card"><figcaption>{html.escape(p.caption)}</figcaption>'
        f'<img class="small" alt="{html.escape(p.caption, quote=True)}" src="data:{_mime(p.data)};base64,'
        f'{base64.b64encode(p.data).decode()}"></figure>'
        for p in pictures
    )
    note = f'<p class="note">{html.escape(note)}</p>' if note else ""
    return f'<h2>{html.escape(heading)}</h2>{note}<div class="cards">{figures}</div>'


def _mime(data: bytes) -> str:
    return "image/png" if data.startswith(b"\x89PNG") else "image/jpeg"


def _charts(curves: Curves) -> str:
    figures = []
    for title, members in loss_groups(curves.names).items():
        series = [Series(label, curves.means(name)) for label, name in members.items()]
        if any(value for s in series for value in s.values):  # a disabled loss stays 0 and needs no chart
            figures.append(line_chart(title, curves.iterations, series))
    if not figures:
        return '<h2>Losses</h2><p class="note">No losses logged yet.</p>'
    return f'<h2>Losses</h2><div class="cards">{"".join(figures)}</div>'


def _commands(commands: Mapping[str, str]) -> str:
    rows = "".join(f"<p class='note'>{html.escape(k)}</p><pre>{html.escape(v)}</pre>" for k, v in commands.items())
    return f'<h2>Next</h2><div class="card">{rows}</div>' if rows else ""


def _config(config: Config) -> str:
    rows = []
    for key, value in config.to_dict().items():
        items = {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
        rows += [
            f"<tr><td>{html.escape(k)}</td><td>{html.escape(str(v))}</td></tr>"
            for k, v in items.items()
            if v is not None
        ]
    third = -(-len(rows) // 3)
    tables = "".join(f"<table>{''.join(rows[i : i + third])}</table>" for i in range(0, len(rows), third))
    return f'<h2>Configuration</h2><div class="card columns">{tables}</div>'
