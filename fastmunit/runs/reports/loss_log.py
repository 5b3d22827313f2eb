"""Losses over time: every logged value in a CSV file, and a thinned copy in memory for the report's curves."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path

from fastmunit.errors import FastmunitError
from fastmunit.files import write_text
from fastmunit.runs.checkpoints.run_folder import remove

_LEADING = ("iteration", "seconds", "lr")


class Curves:
    """Means of the logged losses over equal spans of the run, so that memory stays bounded however long it is.

    Args:
        capacity: most points kept a curve (even); beyond it neighbours are merged two by two.
    """

    def __init__(self, capacity: int = 400) -> None:
        self._capacity = capacity + capacity % 2
        self._per_point = 1
        self._points: list[tuple[int, int, dict[str, float]]] = []  # last iteration, rows, sums

    def add(self, iteration: int, losses: Mapping[str, float]) -> None:
        """Add one logged row."""
        finite = {name: value for name, value in losses.items() if math.isfinite(value)}
        if self._points and self._points[-1][1] < self._per_point:
            _, rows, sums = self._points[-1]
            merged = {name: sums.get(name, 0.0) + value for name, value in finite.items()}
            self._points[-1] = (iteration, rows + 1, merged)
            return
        if len(self._points) >= self._capacity:
            pairs = zip(self._points[::2], self._points[1::2], strict=True)
            self._points = [
                (last, rows + more, {name: sums.get(name, 0.0) + value for name, value in others.items()})
                for (_, rows, sums), (last, more, others) in pairs
            ]
            self._per_point *= 2
        self._points.append((iteration, 1, dict(finite)))

    @property
    def names(self) -> list[str]:
        """Names of the losses, in the order first seen."""
        return list(dict.fromkeys(name for _, _, sums in self._points for name in sums))

    @property
    def iterations(self) -> list[int]:
        """Last iteration of each point."""
        return [iteration for iteration, _, _ in self._points]

    def means(self, name: str) -> list[float | None]:
        """Mean of one loss at each point; None where it was not logged."""
        return [sums[name] / rows if name in sums else None for _, rows, sums in self._points]


class LossHistory:
    """The CSV file of a run, one row a logged iteration.

    Rows are appended whole; when a run resumes, rows after the snapshot (and a row cut short by a crash) are dropped,
    so no iteration appears twice.

    Args:
        path: the CSV file.
        resume_at: iterations of the snapshot that the run continues from; 0 starts a new file.

    Raises:
        FastmunitError: the file of the run that continues is damaged, or cannot be read or removed.
    """

    def __init__(self, path: Path, resume_at: int = 0) -> None:
        self.path = path
        self.curves = Curves()
        self._columns: list[str] = []
        if resume_at and path.is_file():
            self._keep_until(resume_at)
        else:
            remove(path)

    def append(self, iteration: int, seconds: float, lr: float, losses: Mapping[str, float]) -> None:
        """Add one row.

        Raises:
            FastmunitError: the file cannot be written.
        """
        header = ""
        if not self.path.exists():
            self._columns = []
        if self._columns != [*_LEADING, *losses]:
            if self._columns:
                self._change_columns([*_LEADING, *losses])
            else:
                header = _row([*_LEADING, *losses])
            self._columns = [*_LEADING, *losses]
        row = _row([str(iteration), f"{seconds:.2f}", f"{lr:.6g}", *(f"{value:.6g}" for value in losses.values())])
        try:
            self.path.parent.mkdir(exist_ok=True)  # logs/ may be removed at any time
            with self.path.open("a", encoding="utf-8", newline="") as file:
                file.write(header + row)
        except OSError as error:
            raise FastmunitError(f"cannot write {self.path}: {error.strerror}. Free some space and resume.") from error
        self.curves.add(iteration, losses)

    def _keep_until(self, iteration: int) -> None:
        rows = []
        for row in read_rows(self.path):
            try:
                number = int(row["iteration"])
                values = {name: float(row[name]) for name in row if name not in _LEADING and row[name] != ""}
            except ValueError as error:
                raise FastmunitError(
                    f"{self.path}: the row {','.join(row.values())[:200]!r} is not of numbers ({str(error)[:200]}): "
                    "correct or remove the row, or move the file away to begin a new one."
                ) from error
            if number <= iteration:
                rows.append(row)
                self.curves.add(number, values)
        self._columns = list(rows[0]) if rows else []
        self._rewrite(rows)

    def _change_columns(self, columns: list[str]) -> None:
        self._columns = columns
        self._rewrite(read_rows(self.path))

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        if self._columns:
            body = "".join(_row([row.get(name, "") for name in self._columns]) for row in rows)
            write_text(self.path, _row(self._columns) + body)
        else:
            remove(self.path)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file of losses by column; those cut short are left out.

    Raises:
        FastmunitError: the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
        reader = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
        names = reader.fieldnames or []
        return [row for row in reader if None not in row and None not in row.values() and "iteration" in names]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FastmunitError(
            f"{path} cannot be read ({error}): mend it, or move it away to begin a new one."
        ) from error


def _row(values: list[str]) -> str:
    return ",".join(values) + "\n"
