"""The kernels are exact with every instruction set of the build that this processor supports (FASTMUNIT_SIMD)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastmunit.ops.availability import extension

ROOT = Path(__file__).parents[2]
LEVELS = ("avx512bf16", "avx512", "avx2", "baseline")
pytestmark = pytest.mark.skipif(extension is None, reason="the native extension is not built")


def python(level, *arguments):
    environment = {**os.environ, "FASTMUNIT_SIMD": level, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)


def in_use(level):
    run = python(
        level, "-c", "from fastmunit.ops import availability as a; print(a.extension.build_config()['simd_in_use'])"
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


@pytest.mark.parametrize("level", LEVELS)
def test_each_level_is_exact(level):
    if level not in extension.build_config()["simd"]:
        pytest.skip(f"{level} is not in this build")
    if in_use(level) != level:
        pytest.skip(in_use(level))
    names = (
        "far_from_zero or between_blocks or 16_bit or nonfinite or largest or empty or strides or sliced "
        "or instruction_set or vector_ends or within_a_plane"
    )
    tests = ("tests/ops/test_instance_norm_stats.py", "tests/ops/test_fused_norm_native.py")
    run = python(
        level, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests, "-k", f"({names}) and not opcheck"
    )
    assert run.returncode == 0, run.stdout
    assert " passed" in run.stdout
    assert "skipped" not in run.stdout


def test_unknown_level_is_an_error():
    assert in_use("sse9") == "FASTMUNIT_SIMD=sse9 is none of avx512bf16, avx512, avx2 and baseline"
    code = "import torch, fastmunit.functional as f; f.instance_norm_stats(torch.zeros(1, 1, 2, 2))"
    run = python("sse9", "-c", code)
    assert run.returncode != 0
    assert "FASTMUNIT_SIMD=sse9 is none of" in run.stderr
