"""The report of a run: a JSON file that is complete at any time, and a summary."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.on_gpu.stage import Row
from fastmunit.files import write_text

FILE_NAME = "on_gpu.json"


@dataclass
class StageReport:
    """The results of a stage.

    Attributes:
        name: Name of the stage.
        status: "running", "done", "out of time", "skipped", "failed", "crashed" or "interrupted".
        reason: The reason if it is not "done".
        seconds: Time that it took.
        seconds_allowed: Time limit.
        rows: Results of its tasks. A row with a `status` is of a task that was "skipped", had a "wrong" result,
            "failed", "crashed", "hung", was "out of time" or "out of memory", and has a `reason`.
        left_out: Names of the tasks that did not start.
    """

    name: str
    seconds_allowed: float = 0.0
    status: str = "running"
    reason: str | None = None
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


class Report:
    """The results of all stages so far, written to a file.

    Args:
        folder: Folder of the file, which is created.
        dry_run: True if times are made up.
        minutes: Time limit of the run.
    """

    def __init__(self, folder: Path, *, dry_run: bool, minutes: float) -> None:
        self.path = folder / FILE_NAME
        self.stages: list[StageReport] = []
        self._head = {"dry_run": dry_run, "minutes": minutes}

    def begin(self, name: str, seconds_allowed: float) -> StageReport:
        """Add a stage."""
        self.stages.append(StageReport(name, round(seconds_allowed, 3)))
        return self.stages[-1]

    def write(self) -> None:
        """Write the file. Raises FastmunitError if that fails."""
        content = {**self._head, "stages": [asdict(stage) for stage in self.stages]}
        write_text(self.path, json.dumps(_finite(content), indent=1, allow_nan=False) + "\n")

    def summary(self) -> Iterator[str]:
        """Yield a line per comparison with compiled code and per step, then a line per stage."""
        for row in (row for stage in self.stages for row in stage.rows):
            is_ours = row.get("implementation") in ("native", "triton")
            if (is_ours and "compiled_over_this_cold" in row) or "ms" in row:
                yield line_of({key: row.get(key) for key in _SUMMARY})
        for stage in self.stages:
            bad = sum("status" in row for row in stage.rows)
            counts = f"{len(stage.rows)} rows" + (f", {bad} of them without a result" if bad else "")
            left = f", {len(stage.left_out)} tasks left out" if stage.left_out else ""
            why = f": {stage.reason}" if stage.reason else ""
            yield f"{stage.name}: {stage.status} in {stage.seconds:.1f} s, {counts}{left}{why}"


_SUMMARY = (
    "task",
    "implementation",
    "us_cold",
    "times_copy_cold",
    "compiled_over_this_cold",
    "ms",
    "images_per_second",
    "peak_mib",
)


def line_of(row: Row) -> str:
    """Return a row as a line."""
    return " | ".join(f"{key} {_short(value)}" for key, value in row.items() if value is not None)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _finite(value: Any) -> Any:
    """Return a value for JSON: numbers that are not finite become text."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
