"""Published figures of tables 1 and 2 of the MUNIT paper (Huang et al., ECCV 2018, arXiv:1804.04732), and their order.

The figures are unverified: the paper's text was not available when they were entered. Issue 72 of NVlabs/MUNIT quotes
one of them, MUNIT's 0.109 on shoes, and the tests verify that the averages of table 2 are those of its six directions.
There is no second source for the others.
"""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """A row of table 1: percentage of judges who prefer the system to MUNIT, and LPIPS, on two data sets."""

    shoes_quality: float | None
    shoes_diversity: float
    handbags_quality: float | None
    handbags_diversity: float


TABLE_1: dict[str, Row] = {
    "UNIT": Row(37.4, 0.011, 37.3, 0.023),
    "CycleGAN": Row(36.0, 0.010, 40.8, 0.012),
    "CycleGAN* with noise": Row(29.5, 0.016, 45.1, 0.011),
    "MUNIT without x reconstruction": Row(6.0, 0.213, 29.0, 0.191),
    "MUNIT without c reconstruction": Row(20.7, 0.172, 9.3, 0.185),
    "MUNIT without s reconstruction": Row(28.6, 0.070, 24.6, 0.139),
    "MUNIT": Row(50.0, 0.109, 50.0, 0.175),
    "BicycleGAN (paired)": Row(56.7, 0.104, 51.2, 0.140),
    "real data": Row(None, 0.293, None, 0.371),
}
"""Edges to shoes and edges to handbags. The quality of MUNIT is 50 % by definition."""


class Score(NamedTuple):
    """A cell of table 2: conditional inception score (CIS) and inception score (IS)."""

    cis: float
    inception: float


TABLE_2: dict[str, dict[str, Score]] = {
    "CycleGAN": {
        "house cats to big cats": Score(0.078, 0.795),
        "big cats to house cats": Score(0.109, 0.887),
        "house cats to dogs": Score(0.044, 0.895),
        "dogs to house cats": Score(0.121, 0.921),
        "big cats to dogs": Score(0.058, 0.762),
        "dogs to big cats": Score(0.047, 0.620),
        "average": Score(0.076, 0.813),
    },
    "CycleGAN* with noise": {
        "house cats to big cats": Score(0.034, 0.701),
        "big cats to house cats": Score(0.124, 0.848),
        "house cats to dogs": Score(0.070, 0.901),
        "dogs to house cats": Score(0.137, 0.978),
        "big cats to dogs": Score(0.019, 0.589),
        "dogs to big cats": Score(0.022, 0.558),
        "average": Score(0.068, 0.762),
    },
    "UNIT": {
        "house cats to big cats": Score(0.096, 0.666),
        "big cats to house cats": Score(0.164, 0.817),
        "house cats to dogs": Score(0.045, 0.827),
        "dogs to house cats": Score(0.193, 0.982),
        "big cats to dogs": Score(0.094, 0.910),
        "dogs to big cats": Score(0.096, 0.754),
        "average": Score(0.115, 0.826),
    },
    "MUNIT": {
        "house cats to big cats": Score(0.911, 0.923),
        "big cats to house cats": Score(0.956, 0.954),
        "house cats to dogs": Score(1.231, 1.255),
        "dogs to house cats": Score(1.035, 1.034),
        "big cats to dogs": Score(1.205, 1.233),
        "dogs to big cats": Score(0.897, 0.901),
        "average": Score(1.039, 1.050),
    },
}
"""CIS and IS are mean KL divergences, not their exponentials."""


class Ordering(NamedTuple):
    """A pair of systems that the paper ranks: `better` is ahead of `worse` by `measure`."""

    table: int
    measure: str
    better: str
    worse: str


def orderings() -> list[Ordering]:
    """Return the rankings of MUNIT against each other row. For table 1, those that both data sets share."""
    found = []
    reference = TABLE_1["MUNIT"]
    for name, row in TABLE_1.items():
        if name == "MUNIT":
            continue
        diversity = (
            row.shoes_diversity - reference.shoes_diversity,
            row.handbags_diversity - reference.handbags_diversity,
        )
        if diversity[0] * diversity[1] > 0:
            found.append(_between(1, "diversity", name, diversity[0] > 0))
        if row.shoes_quality is not None and row.handbags_quality is not None:
            quality = (row.shoes_quality - 50, row.handbags_quality - 50)
            if quality[0] * quality[1] > 0:
                found.append(_between(1, "quality", name, quality[0] > 0))
    for measure in ("cis", "inception"):
        for name, cells in TABLE_2.items():
            if name != "MUNIT":
                mine, other = getattr(TABLE_2["MUNIT"]["average"], measure), getattr(cells["average"], measure)
                found.append(_between(2, "CIS" if measure == "cis" else "IS", name, other > mine))
    return found


def _between(table: int, measure: str, name: str, before_munit: bool) -> Ordering:
    return Ordering(table, measure, *((name, "MUNIT") if before_munit else ("MUNIT", name)))
