"""The CSV file of logged losses."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from fastmunit.errors import FastmunitError
from fastmunit.files import write_text
from fastmunit.runs.checkpoints.run_folder import remove
from fastmunit.runs.reports.curves import Curves

_LEADING = ("iteration", "seconds", "lr")


class LossLog:
    """The CSV file of a run, with one row per logged iteration, and its curves.

    Rows are appended whole. When a run resumes, rows after the checkpoint are dropped, and so is a row that a crash cut
    short: no iteration appears twice. A loss keeps its column, whose cells are empty where it was not logged.

    Args:
        path: Path of the CSV file.
        resume_at: Iterations of the checkpoint that the run continues from; 0 starts a new file.

    Attributes:
        path: As given.
        curves: The logged losses, thinned.

    Raises:
        FastmunitError: If the file of the continued run is damaged, or cannot be read or removed.
    """

    def __init__(self, path: Path, resume_at: int = 0) -> None:
        self.path = path
        self.curves = Curves()
        self._columns: list[str] = []
        if resume_at and path.is_file():
            self._truncate_after(resume_at)
        else:
            remove(path)

    def append(self, iteration: int, seconds: float, lr: float, losses: Mapping[str, float]) -> None:
        """Append one row.

        Raises:
            FastmunitError: If the file cannot be written.
        """
        if not self.path.exists():
            self._columns = []
        earlier, self._columns = self._columns, list(dict.fromkeys([*_LEADING, *self._columns, *losses]))
        header = "" if earlier else _row(self._columns)
        if earlier and earlier != self._columns:
            self._rewrite(read_rows(self.path))
        values = (str(iteration), f"{seconds:.2f}", f"{lr:.6g}")
        cells = dict(zip(_LEADING, values, strict=True)) | {name: f"{value:.6g}" for name, value in losses.items()}
        row = _row([cells.get(name, "") for name in self._columns])
        try:
            self.path.parent.mkdir(exist_ok=True)  # logs/ may be removed at any time
            with self.path.open("a", encoding="utf-8", newline="") as file:
                file.write(header + row)
        except OSError as error:
            raise FastmunitError(f"cannot write {self.path}: {error.strerror}. Free some space and resume.") from error
        self.curves.add(iteration, losses)

    def _truncate_after(self, iteration: int) -> None:
        rows = []
        for row in read_rows(self.path):
            try:
                number = int(row["iteration"])
                values = {name: float(row[name]) for name in row if name not in _LEADING and row[name] != ""}
            except ValueError as error:
                raise FastmunitError(
                    f"{self.path}: the row {','.join(row.values())[:200]!r} has a value that is not a number "
                    f"({str(error)[:200]}): correct or remove the row, or move the file away to start a new one."
                ) from error
            if number <= iteration:
                rows.append(row)
                self.curves.add(number, values)
        self._columns = list(rows[0]) if rows else []
        self._rewrite(rows)

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        if self._columns:
            body = "".join(_row([row.get(name, "") for name in self._columns]) for row in rows)
            write_text(self.path, _row(self._columns) + body)
        else:
            remove(self.path)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read the rows of a loss log by column, except for rows that were cut short.

    Raises:
        FastmunitError: If the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
        reader = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
        names = reader.fieldnames or []
        return [row for row in reader if None not in row and None not in row.values() and "iteration" in names]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FastmunitError(
            f"{path} cannot be read ({error}): correct it, or move it away to start a new one."
        ) from error


def _row(values: list[str]) -> str:
    return ",".join(values) + "\n"
