"""Runs the tests of in_interpreter/ in subprocesses, because Triton reads TRITON_INTERPRET when it is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FILES = sorted((Path(__file__).parent / "in_interpreter").glob("test_*.py"))
LONGEST = "test_fused_norm"


@pytest.mark.first
@pytest.mark.parametrize(
    ("longest", "marked"),
    [
        pytest.param(True, "not slow", id=LONGEST),
        pytest.param(False, "not slow", id="others"),
        pytest.param(True, "slow", id=f"{LONGEST}, slow", marks=pytest.mark.slow),
        pytest.param(False, "slow", id="others, slow", marks=pytest.mark.slow),
    ],
)
def test_in_interpreter(longest, marked):
    pytest.importorskip("triton", reason="Triton is not installed")
    pytest.importorskip("fastmunit.kernels", reason="the Triton kernels are not installed")
    environment = {
        **os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"
    }  # fmt: skip
    files = [file for file in FILES if (file.stem == LONGEST) == longest]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", marked, *files]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
    assert " passed" in run.stdout


def test_every_kernel_has_a_file():
    ops = ("fused_norm", "gan_loss", "instance_norm_stats", "weighted_l1")
    assert [file.name for file in FILES] == [f"test_{op}.py" for op in ops]
