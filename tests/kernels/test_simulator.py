"""Runs the tests of in_simulator/ in the simulator ttsem: out-of-bounds accesses, races, and exact bfloat16."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "in_simulator"
pytestmark = [
    pytest.mark.first,
    pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed"),
    pytest.mark.skipif(
        find_spec("ttsem") is None,
        reason="ttsem is not installed: pip install --no-deps --ignore-requires-python ttsem==0.1.0",
    ),
]


@pytest.fixture(scope="module")
def simulated():
    """Run both files in one process and return what pytest wrote."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment |= {"OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    files = [HERE / "test_kernels.py", HERE / "test_planted_bugs.py"]
    command = [sys.executable, "-m", "ttsem.sanitize", "pytest", "-q", "-p", "no:cacheprovider", "-rA", *files]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 1, run.stdout + run.stderr
    return run.stdout


def failures(written, name):
    return [line for line in written.splitlines() if line.startswith(("FAILED", "ERROR")) and name in line]


def test_kernels_in_simulator(simulated):
    assert not failures(simulated, "test_kernels.py"), simulated
    assert re.search(r"\b1[0-9] passed", simulated), simulated


@pytest.mark.parametrize(
    ("bug", "message"),
    [
        ("test_out_of_bounds_write", "past the end"),
        ("test_race_between_programs", "race|same element|program instances"),
        ("test_out_of_bounds_read_of_a_reflected_index", "past the end"),
        ("test_unwritten_output", "assert False"),
    ],
)
def test_planted_bug_is_caught(simulated, bug, message):
    assert failures(simulated, bug), simulated
    section = simulated.split(f" {bug} ")[1].split("\n____")[0]
    assert re.search(message, section), section
