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


SELECTED = (
    "far_from_zero or between_blocks or 16_bit or nonfinite or largest or empty or strides or sliced "
    "or instruction_set or vector_ends or within_a_plane or whole_map"
)
TESTS = [f"tests/ops/test_{name}.py" for name in ("instance_norm_stats", "fused_norm_native", "given_statistics")]
# Prints the level in use. If it is the one that was asked for, runs the tests.
PROGRAM = """
import sys
from fastmunit.ops.availability import extension
in_use = extension.build_config()["simd_in_use"]
print(in_use)
if in_use == sys.argv[1]:
    import pytest
    sys.exit(pytest.main(sys.argv[2:]))
"""


def python(level, program, *arguments):
    environment = {
        **os.environ, "FASTMUNIT_SIMD": level, "OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"
    }  # fmt: skip
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)


# On a processor with AVX512_BF16, the kernels of avx512 differ in conversions alone.
@pytest.mark.parametrize(
    "level", [pytest.param(level, marks=pytest.mark.slow if level == "avx512" else []) for level in LEVELS]
)
def test_each_level_is_exact(level):
    if level not in extension.build_config()["simd"]:
        pytest.skip(f"{level} is not in this build")
    if level == extension.build_config()["simd_in_use"]:
        pytest.skip(f"all tests run with {level}")
    options = ("-q", "-x", "-p", "no:cacheprovider", "-k", f"({SELECTED}) and not opcheck")
    run = python(level, PROGRAM, level, *options, *TESTS)
    assert run.returncode == 0, run.stdout + run.stderr
    in_use, _, written = run.stdout.partition("\n")
    if in_use != level:
        pytest.skip(in_use)
    assert " passed" in written
    assert "skipped" not in written


def test_unknown_level_is_an_error():
    code = """
import torch, fastmunit.functional as f
from fastmunit.ops.availability import extension
print(extension.build_config()["simd_in_use"])
f.instance_norm_stats(torch.zeros(1, 1, 2, 2))
"""
    run = python("sse9", code)
    assert run.stdout == "FASTMUNIT_SIMD=sse9 is none of avx512bf16, avx512, avx2 and baseline\n"
    assert run.returncode != 0
    assert "FASTMUNIT_SIMD=sse9 is none of" in run.stderr
