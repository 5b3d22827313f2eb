"""The CUDA kernels of instance_norm_stats, run on the CPU by the emulator beside this file."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from fastmunit import reference
from fastmunit.testing import DTYPES, assert_as_exact_as, make_map

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    target = tmp_path_factory.mktemp("emulated") / "instance_norm_stats.so"
    command = [compiler, "-std=c++17", "-O1", "-shared", "-fPIC", "-pthread", "-I", HERE / "emulator"]
    command += ["-I", ROOT / "csrc" / "include", HERE / "instance_norm_stats.cpp", "-o", target]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(target))


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [*(((2, 3, 7, 9), dtype) for dtype in DTYPES), ((1, 2, 91, 92), torch.float32), ((1, 35, 9, 16), torch.float32)],
    ids=str,
)
def test_matches_float64(library, shape, dtype, layout):
    x = make_map(shape, dtype, layout, mean=0.5, std=2.0)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    dmean, drstd = (make_map((*shape[:2], 1, 1), wide, seed=seed).flatten(1) for seed in (1, 2))

    def plain(x):
        x = x.detach().requires_grad_()
        mean, rstd = reference.instance_norm_stats(x)
        gradients = (dmean.to(mean.dtype), drstd.to(mean.dtype))
        return mean.detach(), rstd.detach(), torch.autograd.grad((mean, rstd), x, gradients)[0]

    mean, rstd = (torch.full(shape[:2], torch.nan, dtype=wide) for _ in range(2))
    dx = torch.full_like(x, torch.nan)
    pixels = shape[2] * shape[3]
    partials = torch.full((2 * shape[0] * shape[1] * (pixels // 128 + 1),), torch.nan, dtype=torch.float64)
    run = getattr(library, f"run_{str(dtype).removeprefix('torch.')}")
    run(
        ctypes.c_int(layout == "channels_last"),
        *(ctypes.c_void_p(tensor.data_ptr()) for tensor in (x, dmean, drstd)),
        *(ctypes.c_int64(size) for size in (shape[0], shape[1], pixels)),
        ctypes.c_double(1e-5),
        *(ctypes.c_void_p(tensor.data_ptr()) for tensor in (partials, mean, rstd, dx)),
    )
    low, exact = plain(x), plain(x.double())
    assert_as_exact_as(mean, low[0], exact[0], "mean", scale=float(x.double().abs().max()))
    assert_as_exact_as(rstd, low[1], exact[1], "rstd")
    assert_as_exact_as(dx, low[2], exact[2], "dx")
