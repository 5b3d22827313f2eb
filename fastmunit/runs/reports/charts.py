"""Loss curves as inline SVG, without any library in the page."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 520, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 28


@dataclass(frozen=True)
class Series:
    """One curve: its name in the legend and a value for each x (None where there is none)."""

    name: str
    values: Sequence[float | None]


def line_chart(title: str, x: Sequence[int], series: Sequence[Series]) -> str:
    """Draw curves over iterations as an HTML figure with a legend; report.html's script adds the values on hover.

    The y axis starts at 0 and is cut above the bulk of the values (1.5 × the 98th percentile), so that a spike at the
    start does not flatten the rest.
    """
    values = sorted(v for s in series for v in s.values if v is not None)
    if not x or not values:
        return ""
    bulk = max(0.0, min(values[-1], 1.5 * values[math.ceil(0.98 * len(values)) - 1]))
    step = _nice_step(max(bulk, -values[0]) / 4 or 1.0)
    top = step * max(1, math.ceil(bulk / step))
    low = -step * math.ceil(-values[0] / step) if values[0] < 0 else 0.0
    plot_width, plot_height = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
    x_first, x_last = 0, max(x[-1], 1)

    def place(iteration: float, value: float) -> tuple[float, float]:
        clipped = min(max(value, low), top)
        return (
            _LEFT + plot_width * (iteration - x_first) / (x_last - x_first),
            _TOP + plot_height * (1 - (clipped - low) / (top - low)),
        )

    parts = []
    for k in range(round((top - low) / step) + 1):
        value = low + k * step
        _, y = place(0, value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.4g}</text>')
    x_step = max(1, round(_nice_step(x_last / 5)))
    for iteration in range(0, x_last + 1, x_step):
        px, _ = place(iteration, low)
        parts.append(f'<text x="{px:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{_short(iteration)}</text>')
    legend = []
    for k, s in enumerate(series):
        points = [place(i, v) for i, v in zip(x, s.values, strict=True) if v is not None]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        parts.append(f'<polyline class="line{k % 4}" points="{path}"/>')
        if points:
            px, py = points[-1]
            parts.append(f'<circle class="line{k % 4}" cx="{px:.1f}" cy="{py:.1f}" r="2.5"/>')
        last = next((v for v in reversed(s.values) if v is not None), math.nan)
        legend.append(f'<span class="key line{k % 4}"></span>{html.escape(s.name)} <b>{last:.3g}</b>')
    data = {
        "x": list(x),
        "left": _LEFT,
        "span": plot_width,
        "last": x_last,
        "series": [{"name": s.name, "values": [_rounded(v) for v in s.values]} for s in series],
    }
    attribute = html.escape(json.dumps(data, separators=(",", ":")), quote=True)
    return (
        f'<figure class="chart" data-chart="{attribute}"><figcaption>{html.escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title, quote=True)}">'
        f'{"".join(parts)}<line class="cursor" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}" visibility="hidden"/></svg>'
        f'<p class="legend">{" &nbsp; ".join(legend)}</p><div class="tip" hidden></div></figure>'
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def _nice_step(rough: float) -> float:
    """The 1, 2, 2.5 or 5 × 10^k next above `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))


def _short(count: int) -> str:
    if count >= 1_000_000:
        return f"{count / 1e6:g}M"
    return f"{count / 1000:g}k" if count >= 10_000 else str(count)
