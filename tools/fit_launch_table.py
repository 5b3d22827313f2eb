"""Derive the launch table's thresholds, and the maps on which Triton is faster, from the results of bench.on_gpu.

    python -m tools.fit_launch_table FOLDER/on_gpu.json

The rule was written before anything was measured:

- The cost of a candidate is max(cold, 0.5 cold + 0.5 warm), divided by the cost of the launch table's own choice with
  256 threads in the same rounds. The weight of a shape is its share of the time of a MUNIT step in fused_norm: the
  number of its occurrences in the networks, times the cost of that choice.
- All shapes share one number of threads and one choice of dependent launches: those with the lowest cost.
- A class is a layout, dtype, kind of statistics and pass. It uses the variant with the lowest cost over its shapes.
- A shape has a second variant only if that is more than 10 % faster than the variant of its class, and the shape takes
  more than 5 % of the step's time in fused_norm.
- The threshold of small maps is the largest number of values of a map whose second variant has smaller tiles than its
  class.
- For maps of one layout, dtype and kind of statistics, Triton is used between the smallest and largest of adjacent
  sizes for which forward and backward together take at least 10 % less time than the native kernels.

Candidates with wrong results, or without a time for every shape of a class, are ignored.
"""

import argparse
import json
import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastmunit.testing import munit_maps

Row = Mapping[str, Any]

DEFAULT_THREADS, DEFAULT = 256, "as planned"
NO_DEPENDENT = "no dependent launches"
SECOND_WINS, SECOND_SHARE = 0.10, 0.05
TRITON_WINS = 0.10


@dataclass(frozen=True, order=True)
class Class:
    """A class of maps that the launch table treats alike."""

    layout: str
    dtype: str
    statistics: str
    passes: str

    def __str__(self) -> str:
        return f"{self.layout} {self.dtype} {self.statistics} {self.passes}"


@dataclass(frozen=True, order=True)
class Shape:
    """A map and the op on it."""

    of: Class
    op: str
    shape: tuple[int, ...]

    @property
    def values(self) -> int:
        """Number of values of the map."""
        return math.prod(self.shape)


def shape_of(row: Row) -> Shape:
    """Return the map of a row."""
    return Shape(Class(row["layout"], row["dtype"], row["statistics"], row["pass"]), row["op"], tuple(row["shape"]))


def cost(row: Row) -> float:
    """Return the microseconds by which candidates are compared."""
    return max(row["us_cold"], 0.5 * row["us_cold"] + 0.5 * row["us_warm"])


def rows_of(report: Mapping[str, Any], stage: str) -> list[Row]:
    """Return the rows of a stage that have a time; an empty list if the stage was not run."""
    return [row for of in report["stages"] if of["name"] == stage for row in of["rows"] if "us_cold" in row]


# --- Candidates -------------------------------------------------------------------------------------------------------


class Candidates:
    """The costs of candidates.

    Attributes:
        costs: Costs relative to the launch table's own choice, by shape, then by threads and name of the variant.
        params: Parameters of the candidates in the report, by the same keys.
        shares: Shares of a step's time in fused_norm, by shape.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self.costs: dict[Shape, dict[tuple[int, str], float]] = defaultdict(dict)
        self.params: dict[Shape, dict[tuple[int, str], Row]] = defaultdict(dict)
        times: dict[Shape, float] = {}
        by_task: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            by_task[row["task"]].append(row)
        for of_task in by_task.values():
            default = next((row for row in of_task if _is_default(row)), None)
            if default is None:
                continue  # its result was wrong, so there is nothing to compare with
            shape = shape_of(default)
            times.setdefault(shape, cost(default) * _times_per_step(shape))
            for row in of_task:
                for variant in row["variants"]:
                    key = row["params"]["threads"], variant
                    self.costs[shape].setdefault(key, cost(row) / cost(default))
                    self.params[shape].setdefault(key, row["params"])
        total = sum(times.values())
        self.shares = {shape: seconds / total for shape, seconds in times.items()}

    @property
    def classes(self) -> dict[Class, list[Shape]]:
        """The shapes of each class."""
        found: dict[Class, list[Shape]] = defaultdict(list)
        for shape in sorted(self.costs):
            found[shape.of].append(shape)
        return dict(sorted(found.items()))

    def of_all(self, key: tuple[int, str], shapes: Sequence[Shape]) -> float:
        """Return the cost of a variant over shapes; infinite if it was not measured for one of them."""
        return sum(self.shares[shape] * self.costs[shape].get(key, math.inf) for shape in shapes)

    def best(self, threads: int, shapes: Sequence[Shape]) -> tuple[int, str]:
        """Return the variant with the lowest cost over shapes; of equal ones, the first that was measured."""
        keys = [key for shape in shapes for key in self.costs[shape] if key[0] == threads]
        return min(keys or [(threads, DEFAULT)], key=lambda key: self.of_all(key, shapes))

    def best_threads(self) -> int:
        """Return the number of threads with the lowest cost, each class with its best variant."""
        found = {key[0] for of in self.costs.values() for key in of}
        order = sorted(found, key=lambda threads: threads != DEFAULT_THREADS)
        return min(order, key=lambda t: sum(self.of_all(self.best(t, of), of) for of in self.classes.values()))

    def dependent_launches(self, threads: int) -> bool:
        """Return true if dependent launches cost no more than others, over the shapes with times for both."""
        both = [of for of in self.costs if {(threads, DEFAULT), (threads, NO_DEPENDENT)} <= self.costs[of].keys()]
        return self.of_all((threads, DEFAULT), both) <= self.of_all((threads, NO_DEPENDENT), both)


def _is_default(row: Row) -> bool:
    return row["params"]["threads"] == DEFAULT_THREADS and DEFAULT in row["variants"]


def _times_per_step(shape: Shape) -> int:
    """Return how often a map occurs in the networks of a MUNIT step at 256², each counted once, but at least 1."""
    sizes = [
        m.count
        for m in munit_maps()
        if (m.statistics, (m.channels, m.height, m.width)) == (shape.of.statistics, shape.shape[1:])
        and m.residual == ("residual" in shape.op)
    ]
    return max(1, sum(sizes))


def thresholds(candidates: Candidates) -> Iterator[str]:
    """Yield the numbers of the launch table."""
    if not candidates.costs:
        yield "no candidates were measured"
        return
    threads = candidates.best_threads()
    yield f"threads per block: {threads}"
    yield f"dependent launches: {'yes' if candidates.dependent_launches(threads) else 'no'}"
    small: dict[Class, int] = {}
    for of, shapes in candidates.classes.items():
        best = candidates.best(threads, shapes)
        gain = sum(candidates.shares[s] for s in shapes) / candidates.of_all(best, shapes) - 1
        yield f"{of}: {best[1]}, {_described(candidates.params[shapes[0]][best])}, {gain:+.0%} speed"
        for shape in shapes:
            second = min(
                (key for key in candidates.costs[shape] if key[0] == threads), key=candidates.costs[shape].__getitem__
            )
            wins = 1 - candidates.costs[shape][second] / candidates.costs[shape][best]
            if wins > SECOND_WINS and candidates.shares[shape] > SECOND_SHARE:
                params = candidates.params[shape][second]
                yield f"  {shape.op} {shape.shape}: {second[1]}, {_described(params)}, {wins:.0%} less time"
                if params["tile"] < candidates.params[shape][best]["tile"]:
                    small[of] = max(small.get(of, 0), shape.values)
    for of, values in small.items():
        yield f"{of}: smaller tiles for maps of at most {values} values"


def _described(params: Row) -> str:
    return f"tile {params['tile']:g} of the largest, clusters of at most {params['cluster_limit']}"


# --- Triton -----------------------------------------------------------------------------------------------------------


def choices(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield the entries of the table of `auto`: the maps on which Triton is faster."""
    device = {key: value for row in rows_of_device(report) for key, value in row.items()}
    capability = (device.get("major", 0), device.get("minor", 0))
    machine = f"bench.on_gpu, {device.get('name', 'a dry run')}, torch {device.get('torch')}, {device.get('date')}"
    for of, sizes in sorted(_times_by_size(report).items()):
        for run in _runs({size: all(_wins(*times) for times in of_size) for size, of_size in sizes.items()}):
            times = (f"{triton:.1f} against {native:.1f} µs" for size in run for native, triton in sizes[size])
            source = f"{machine}: {', '.join(times)}"
            yield (
                f'Choice(capability={capability}, function="fused_norm", layout="{of.layout}", dtype="{of.dtype}", '
                f'statistics="{of.statistics}", min_values={min(run)}, max_values={max(run)}, '
                f'implementation="triton", source="{source}")'
            )


def rows_of_device(report: Mapping[str, Any]) -> list[Row]:
    """Return the rows that describe the device."""
    return [row for of in report["stages"] if of["name"] == "floor" for row in of["rows"] if row["task"] == "device"]


def _wins(native: float, triton: float) -> bool:
    return triton <= (1 - TRITON_WINS) * native


def _times_by_size(report: Mapping[str, Any]) -> dict[Class, dict[int, list[tuple[float, float]]]]:
    """Return the costs of the native and Triton kernels by number of values of the map."""
    times: dict[Shape, dict[str, float]] = defaultdict(dict)
    for stage, implementation in (("native kernels", "native"), ("triton kernels", "triton")):
        for row in rows_of(report, stage):
            if row.get("function") == "fused_norm" and row["implementation"] == implementation:
                times[shape_of(row)][implementation] = cost(row)
    found: dict[Class, dict[int, list[tuple[float, float]]]] = defaultdict(dict)
    for shape, of in times.items():
        if shape.of.passes == "forward+backward" and len(of) == 2:
            found[shape.of].setdefault(shape.values, []).append((of["native"], of["triton"]))
    return found


def _runs(sizes: Mapping[int, bool]) -> Iterator[list[int]]:
    """Yield runs of adjacent sizes that are true."""
    run: list[int] = []
    for size, wins in sorted(sizes.items()):
        if wins:
            run.append(size)
        elif run:
            yield run
            run = []
    if run:
        yield run


def main() -> int:
    """Print the thresholds and the choices."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="FOLDER/on_gpu.json of bench.on_gpu")
    report = json.loads(parser.parse_args().report.read_text())
    if report["dry_run"]:
        print("this is a dry run with made-up times: nothing here applies to a GPU")
    print("\n".join(thresholds(Candidates(rows_of(report, "candidates")))))
    found = list(choices(report))
    print("\n".join(["", "where Triton is faster:", *(found or ["nowhere"])]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
