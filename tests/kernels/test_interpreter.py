"""Triton kernels on the CPU, in a process apart, because Triton reads TRITON_INTERPRET when it is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKS = sorted((Path(__file__).parent / "interpreted").glob("check_*.py"))


@pytest.mark.parametrize("check", CHECKS, ids=lambda path: path.stem)
def test_in_interpreter(check):
    pytest.importorskip("triton", reason="Triton is not installed")
    pytest.importorskip("fastmunit.kernels", reason="the Triton kernels are not installed")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(check)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
    assert " passed" in run.stdout
