from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmunit.errors import FastmunitError
from fastmunit.runs.reports.curves import Curves
from fastmunit.runs.reports.loss_log import LossLog


@given(
    values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300),
    capacity=st.integers(1, 20),
)
def test_curves_stay_small_and_keep_the_mean(values: list[float], capacity: int) -> None:
    curves = Curves(capacity)
    for k, value in enumerate(values):
        curves.add(k + 1, {"loss": value})
    points = curves.means("loss")
    assert len(points) <= capacity + 1
    assert curves.iterations[-1] == len(values)
    assert curves.iterations == sorted(set(curves.iterations))
    widths = [b - a for a, b in zip([0, *curves.iterations], curves.iterations, strict=False)]
    total = math.fsum(width * (point or 0.0) for width, point in zip(widths, points, strict=True))
    assert total == pytest.approx(math.fsum(values), rel=1e-9, abs=1e-3)


def test_means_are_those_of_the_logged_values() -> None:
    curves = Curves(2)
    for k in range(8):
        curves.add(k + 1, {"always": k, "sometimes": 5.0} if k % 4 == 0 else {"always": k, "never": math.nan})
    assert (curves.means("always"), curves.means("sometimes")) == ([1.5, 5.5], [5, 5])
    assert curves.names == ["always", "sometimes"]


BAD_ROWS = {
    "text": b"2,x,0.1,y\n",
    "iteration": b"two,2.0,0.1,1.5\n",
    "not UTF-8": b"2,2.0,0.1,\xff\n",
    "a long field": b"2,2.0,0.1," + b"1" * 131_073 + b"\n",
    "a long quoted field": b'2,2.0,0.1,"' + b"1,\n" * 50_000 + b'"\n',
    "a long text": b"2,2.0,0.1," + b"x" * 131_000 + b"\n",
    "digits": b"1" * 5000 + b",2.0,0.1,1.5\n",
}


@pytest.mark.parametrize("row", BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_damaged_rows_are_named(tmp_path: Path, row: bytes) -> None:
    log = LossLog(tmp_path / "losses.csv")
    log.append(1, 0.5, 1e-4, {"loss_gen_total": 1})
    content = log.path.read_bytes() + row
    log.path.write_bytes(content)
    with pytest.raises(FastmunitError, match=r"losses\.csv.* (is not a number|cannot be read)") as raised:
        LossLog(log.path, resume_at=1)
    assert len(str(raised.value)) < 800
    assert log.path.read_bytes() == content


def test_resuming_drops_later_and_broken_rows(tmp_path: Path) -> None:
    log = LossLog(tmp_path / "losses.csv")
    for k in range(1, 6):
        log.append(k, 0.5 * k, 1e-4, {"loss_gen_total": k, "loss_dis_total": 2 * k})
    with log.path.open("a") as file:
        file.write("6,3.0,0.0001,6")  # killed while writing
    resumed = LossLog(log.path, resume_at=3)
    resumed.append(4, 2.5, 1e-4, {"loss_gen_total": 40, "loss_dis_total": 80})
    rows = list(csv.DictReader(log.path.open()))
    assert [row["iteration"] for row in rows] == ["1", "2", "3", "4"]
    assert rows[-1]["loss_dis_total"] == "80"
    assert resumed.curves.means("loss_gen_total") == [1, 2, 3, 40]


def test_new_losses_become_new_columns(tmp_path: Path) -> None:
    log = LossLog(tmp_path / "losses.csv")
    log.append(1, 0.1, 1e-4, {"loss_a": 1})
    log.append(2, 0.2, 1e-4, {"loss_a": 2, "loss_b": 3})
    rows = list(csv.DictReader(log.path.open()))
    assert [row["loss_b"] for row in rows] == ["", "3"]
    assert LossLog(log.path, resume_at=2).curves.means("loss_b") == [None, 3]


def test_losses_that_end_keep_their_columns(tmp_path: Path) -> None:
    log = LossLog(tmp_path / "losses.csv")
    log.append(1, 0.1, 1e-4, {"loss_r1": 1, "loss_a": 2})
    resumed = LossLog(log.path, resume_at=1)
    resumed.append(2, 0.2, 1e-4, {"loss_a": 4})
    resumed.append(3, 0.3, 1e-4, {"loss_b": 6, "loss_a": 5})
    rows = list(csv.DictReader(log.path.open()))
    assert [(row["loss_r1"], row["loss_a"], row["loss_b"]) for row in rows] == [
        ("1", "2", ""),
        ("", "4", ""),
        ("", "5", "6"),
    ]
    again = LossLog(log.path, resume_at=3).curves
    assert again.means("loss_r1") == resumed.curves.means("loss_r1") == [1, None, None]


@pytest.mark.parametrize("text", ["", "\n", "iteration", "nonsense\n1\n", "a,b\n1,2\n"])
def test_a_file_without_losses_is_replaced(tmp_path: Path, text: str) -> None:
    path = tmp_path / "losses.csv"
    path.write_text(text)
    log = LossLog(path, resume_at=5)
    log.append(6, 1.0, 1e-4, {"loss": 1})
    assert [row["iteration"] for row in csv.DictReader(path.open())] == ["6"]


def test_a_new_run_starts_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "losses.csv"
    LossLog(path).append(1, 1.0, 1e-4, {"loss": 1})
    LossLog(path).append(1, 1.0, 1e-4, {"loss": 2})
    assert [row["loss"] for row in csv.DictReader(path.open())] == ["2"]
