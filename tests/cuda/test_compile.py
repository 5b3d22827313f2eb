"""Every CUDA source compiles for the default architectures without a warning."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))


def nvcc():
    return shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


@pytest.mark.slow
@pytest.mark.skipif(nvcc() is None, reason="no nvcc")
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_compiles_without_warnings(source, tmp_path):
    command = [nvcc(), "-std=c++17", "-c", source, "-o", tmp_path / "kernels.o", "-I", ROOT / "csrc" / "include"]
    command += ["-gencode=arch=compute_80,code=sm_80", "-gencode=arch=compute_90,code=[sm_90,compute_90]"]
    command += ["-Werror=all-warnings", "-Xcompiler=-Wall,-Wextra,-Werror"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_kernels_know_no_torch():
    """No file of csrc but the bindings and the module includes a torch, Python or pybind11 header."""
    checked = 0
    for path in (ROOT / "csrc").rglob("*"):
        if not path.is_file() or path.parent.name == "torch" or path.name == "module.cpp":
            continue
        checked += 1
        includes = [line for line in path.read_text().splitlines() if line.startswith("#include")]
        assert not [line for line in includes if any(name in line for name in ("torch/", "ATen", "Python.h", "pybind"))]
    assert checked > 8
