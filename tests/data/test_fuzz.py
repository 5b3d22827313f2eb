"""Damaged images, decoded in another process, which a crashing decoder would end."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def read_damaged(seed: int, count: int, path: Path) -> tuple[int, int, int]:
    """Return the numbers of kinds of files, of readable undamaged files, and of readable damaged files."""
    command = [sys.executable, "-m", "tests.data.fuzz", str(seed), str(count), str(path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False, timeout=1800)
    assert run.returncode == 0, f"{path}: {run.stderr[-4000:]}"
    found = re.search(r"(\d+) kinds of files, (\d+) undamaged ones read; of \d+ damaged ones (\d+) read", run.stdout)
    assert found, run.stdout
    kinds, undamaged, damaged = map(int, found.groups())
    return kinds, undamaged, damaged


def test_damaged_images_are_read_or_named(tmp_path: Path) -> None:
    kinds, undamaged, damaged = read_damaged(0, 1200, tmp_path / "image")
    assert kinds > 70
    assert undamaged > 60  # damage reaches the decoders, not only the detection of the format
    assert 100 < damaged < 900


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_many_damaged_images_are_read_or_named(tmp_path: Path, seed: int) -> None:
    _, _, damaged = read_damaged(seed, 20_000, tmp_path / "image")
    assert damaged > 2_000
