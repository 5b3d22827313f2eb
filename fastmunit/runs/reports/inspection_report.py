"""The HTML page of an inspection: the worst inputs first, with maps of what may be invented."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, NamedTuple

from fastmunit.data.failures import unreadable
from fastmunit.runs.reports import html
from fastmunit.runs.reports.heat_map import NEGATIVE, POSITIVE, heat_map
from fastmunit.runs.reports.html import Picture
from fastmunit.runs.reports.image_grid import jpeg, to_rgb

if TYPE_CHECKING:
    from fastmunit.metrics.inspection import Inspection, Pictures

_MAX_NAMED_FAILURES = 5
_IMAGES = {"input": "input", "output": "output", "back": "translated back"}
_MAPS = {
    "cycle": ("cycle error", "what the outputs do not retain of the input, as a translation back shows: mean |x' - x|"),
    "edges": ("edge disagreement", "red: edges that only the outputs have; blue: edges that only the input has"),
    "variation": ("variation over styles", "what the input leaves open: standard deviation over the outputs"),
}
_SCORES = {
    "cycle_error": "cycle error",
    "edge_disagreement": "edge disagreement",
    "edges_added": "edges added",
    "edges_lost": "edges lost",
    "variation": "variation",
}


class _Legend(NamedTuple):
    title: str
    text: str
    colors: str
    ends: tuple[str, str]


class _Row(NamedTuple):
    rank: int
    path: str
    name: str
    percentile: str
    scores: dict[str, str]
    pictures: list[Picture]


def render(title: str, facts: Mapping[str, str], inspections: Sequence[Inspection]) -> str:
    """Render the page as HTML that needs no other file and no network.

    Args:
        title: Heading.
        facts: Names and values of facts about the inspection, such as the checkpoint.
        inspections: Results, one per direction.
    """
    return html.render(
        "inspection.html.j2",
        title=title,
        facts=facts,
        inspections=inspections,
        rows_of=_rows,
        legends_of=_legends,
        ranked_by=_ranked_by,
        map_titles={name: heading for name, (heading, _) in _MAPS.items()},
        unreadable=unreadable,
        max_named_failures=_MAX_NAMED_FAILURES,
    )


def _rows(inspection: Inspection) -> list[_Row]:
    shown = zip(inspection.inputs, inspection.pictures, strict=False)  # only the first have pictures
    return [
        _Row(
            rank,
            one.file,
            PurePath(one.file).name,
            f"{100 * one.mean_percentile:.0f} %",
            {label: f"{one.scores[key]:.3f}" for key, label in _SCORES.items() if key in one.scores},
            _pictures(pictures, inspection.scales),
        )
        for rank, (one, pictures) in enumerate(shown, 1)
    ]


def _pictures(pictures: Pictures, scales: Mapping[str, float]) -> list[Picture]:
    images = [Picture(_IMAGES[name], jpeg(to_rgb(image))) for name, image in pictures.images.items()]
    base = pictures.images["input"]
    maps = [
        Picture(_MAPS[name][0], jpeg(heat_map(base, values, scales[name]))) for name, values in pictures.maps.items()
    ]
    return [*images, *maps]


def _legends(inspection: Inspection) -> list[_Legend]:
    legends = []
    for aspect in inspection.aspects:
        title, text = _MAPS[aspect.name]
        limit = f"{inspection.scales[aspect.name]:.2g}"
        signed = aspect.name == "edges"
        colors = ["#e6e6e6", *POSITIVE]
        colors = [*reversed(NEGATIVE), *colors] if signed else colors
        legends.append(_Legend(title, text, ", ".join(colors), (f"-{limit}" if signed else "0", limit)))
    return legends


def _ranked_by(inspection: Inspection) -> str:
    from fastmunit.metrics.inspection import ranking

    return " and ".join(_MAPS[aspect.name][0] for aspect in ranking(inspection.aspects))
