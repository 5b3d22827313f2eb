"""Every CUDA source compiles without a warning for the architectures that tests/cuda/test_budget.py leaves out."""

import subprocess
from pathlib import Path

import pytest

from tools.gpu_budget import SOURCES, find_nvcc

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(find_nvcc() is None, reason="there is no nvcc")
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_compiles_without_warnings(source, tmp_path):
    command = [find_nvcc(), "-std=c++17", "-O3", "-c", source, "-o", tmp_path / "kernels.o"]
    command += ["-I", ROOT / "csrc"]
    command += [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in (75, 86, 89, 120)]
    command += ["-Xptxas=-warn-spills,-warn-lmem-usage,-Werror"]
    command += ["-Werror=all-warnings", "-Xcompiler=-Wall,-Wextra,-Werror"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_kernels_are_independent_of_torch():
    """Only the bindings and the module include headers of torch, Python or pybind11."""
    checked = 0
    for path in (ROOT / "csrc").rglob("*"):
        if not path.is_file() or path.parent.name == "torch" or path.name == "module.cpp":
            continue
        checked += 1
        includes = [line for line in path.read_text().splitlines() if line.startswith("#include")]
        assert not [line for line in includes if any(name in line for name in ("torch/", "ATen", "Python.h", "pybind"))]
    assert checked > 8
