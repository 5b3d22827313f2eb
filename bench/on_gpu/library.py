"""Compile fused_norm's launchers without torch and call them through ctypes.

A library is compiled by nvcc for one GPU, or by the host compiler for the emulator of tests/cuda. The file name has a
hash of the sources, so each library is compiled once. `python -m bench.on_gpu.library --arch 90` compiles in advance.
"""

import argparse
import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.on_gpu.stage import SkippedError

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "on_gpu"
SOURCES = (
    "bench/on_gpu/candidates.cu",
    "csrc/fused_norm/fused_norm.cu",
    "csrc/fused_norm/fused_norm_backward.cu",
)
THREADS = (256, 512, 128)
"""Threads per block, starting with the package's number."""

_EMULATOR = "tests/cuda/emulator"
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_CHOICES = {
    "layout": ("nchw", "channels_last"),
    "statistics": ("instance", "layer", "none"),
    "activation": ("none", "relu", "leaky_relu"),
    "pad_mode": ("reflect", "replicate", "zero"),
}
"""Names of the C++ enumerators, in their order."""


class LaunchError(Exception):
    """Raised if a launcher refuses a map or a launch fails."""


@dataclass(frozen=True)
class Device:
    """The properties of a GPU that the launch table depends on.

    Attributes:
        multiprocessors: Number of multiprocessors.
        cluster: Largest number of blocks per cluster; 1 without clusters.
        dependent_launches: True if a kernel may start before the previous one ends.
        max_steps: Largest number of steps per tile.
    """

    multiprocessors: int
    cluster: int
    dependent_launches: bool
    max_steps: int = 32


@dataclass(frozen=True)
class Plan:
    """A plan of the launch table; see csrc/fused_norm/plan.h."""

    kernel: int
    split: int
    channels: int
    steps: int
    step_pixels: int
    tiles: int
    cluster: int
    blocks: int
    workspace_doubles: int


@dataclass(frozen=True)
class Maps:
    """The inputs of the op. Only backward has `dpadded`, the gradient of the padded map."""

    x: Tensor
    weight: Tensor | None
    bias: Tensor | None
    residual: Tensor | None
    dpadded: Tensor | None = None

    @property
    def layout(self) -> str:
        """Either "nchw" or "channels_last"."""
        return "nchw" if self.x.is_contiguous() else "channels_last"

    @property
    def memory_format(self) -> torch.memory_format:
        """The layout as a memory format of torch."""
        return torch.contiguous_format if self.layout == "nchw" else torch.channels_last

    def empty(self, *size: int) -> Tensor:
        """Return an uninitialized map like x."""
        return torch.empty(size, dtype=self.x.dtype, device=self.x.device, memory_format=self.memory_format)


class _Request(ctypes.Structure):
    """The struct `Request` of candidates.cu."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in ("dtype", *_CHOICES, "pixel_shuffle", "pad")),
        *((name, ctypes.c_int32) for name in ("multiprocessors", "cluster", "dependent_launches", "max_steps")),
        *((name, ctypes.c_int64) for name in ("batch", "channels", "height", "width")),
        *((name, ctypes.c_double) for name in ("negative_slope", "eps")),
        *((name, ctypes.c_void_p) for name in ("x", "weight", "bias", "residual")),
        ("weight_strides", ctypes.c_int64 * 2),
        ("bias_strides", ctypes.c_int64 * 2),
        ("residual_strides", ctypes.c_int64 * 4),
        *((name, ctypes.c_void_p) for name in ("padded", "mean", "rstd", "workspace")),
        ("workspace_doubles", ctypes.c_int64),
        ("stream", ctypes.c_void_p),
    ]


class _Gradients(ctypes.Structure):
    """The struct `Gradients` of candidates.cu."""

    _fields_ = [
        ("dpadded", ctypes.c_void_p),
        ("dpadded_strides", ctypes.c_int64 * 4),
        *((name, ctypes.c_void_p) for name in ("dx", "dweight", "dbias", "dresidual")),
    ]


class Library:
    """The launchers in a compiled library.

    Args:
        path: Path of the library.
    """

    def __init__(self, path: Path) -> None:
        self._functions = ctypes.CDLL(str(path))
        self._functions.candidates_forward.restype = ctypes.c_char_p
        self._functions.candidates_backward.restype = ctypes.c_char_p
        self._functions.candidates_plan.restype = ctypes.c_char_p

    @property
    def threads(self) -> int:
        """Threads per block."""
        return self._functions.candidates_block_threads()

    def active_clusters(self, size: int) -> int | None:
        """Return the number of clusters of `size` blocks that the GPU can run together, or None on the emulator."""
        found = self._functions.candidates_active_clusters(size)
        return None if found < 0 else found

    def plan(self, device: Device, maps: Maps, options: dict[str, Any]) -> Plan:
        """Return the plan for a map. Raises LaunchError."""
        request, _ = _request(device, maps, options)
        gradients = None if maps.dpadded is None else ctypes.byref(_gradients(maps, options)[0])
        numbers = (ctypes.c_int64 * len(Plan.__dataclass_fields__))()
        _check(self._functions.candidates_plan(ctypes.byref(request), gradients, numbers))
        return Plan(*numbers)

    def forward(self, device: Device, maps: Maps, options: dict[str, Any], plan: Plan) -> tuple[Tensor, Tensor, Tensor]:
        """Return the padded map, mean and rstd. Raises LaunchError."""
        request, padded = _request(device, maps, options)
        groups = {"instance": request.batch * request.channels, "layer": request.batch, "none": 0}[
            options["statistics"]
        ]
        mean, rstd = (maps.x.new_empty(groups, dtype=torch.float64) for _ in range(2))
        workspace = _start(request, maps.x, mean, rstd, plan)
        _check(self._functions.candidates_forward(ctypes.byref(request)))
        del workspace  # its next use is ordered after the launch by the stream
        return padded, mean, rstd

    def backward(
        self, device: Device, maps: Maps, options: dict[str, Any], plan: Plan, mean: Tensor, rstd: Tensor
    ) -> list[Tensor]:
        """Return the gradients of x and, if present, weight, bias and residual. Raises LaunchError."""
        request, _ = _request(device, maps, options)
        gradients, results = _gradients(maps, options)
        workspace = _start(request, maps.x, mean, rstd, plan)
        _check(self._functions.candidates_backward(ctypes.byref(request), ctypes.byref(gradients)))
        del workspace
        return results


def _start(request: _Request, x: Tensor, mean: Tensor, rstd: Tensor, plan: Plan) -> Tensor:
    """Set the statistics, workspace and stream of a request. Return the workspace; keep it until the launch."""
    workspace = x.new_empty(plan.workspace_doubles, dtype=torch.float64)
    request.mean, request.rstd, request.workspace = mean.data_ptr(), rstd.data_ptr(), workspace.data_ptr()
    request.workspace_doubles = plan.workspace_doubles
    request.stream = torch.cuda.current_stream().cuda_stream if x.is_cuda else None
    return workspace


def _size(maps: Maps, options: dict[str, Any]) -> tuple[int, int, int, int]:
    """Return the shape of the result before padding."""
    n, c, h, w = maps.x.shape
    return (n, c // 4, 2 * h, 2 * w) if options["pixel_shuffle"] else (n, c, h, w)


def _request(device: Device, maps: Maps, options: dict[str, Any]) -> tuple[_Request, Tensor]:
    """Return the request without the fields that `_start` sets, and the padded map that forward writes."""
    n, c, h, w = _size(maps, options)
    pad = options["pad"]
    request = _Request(dtype=_DTYPES.index(maps.x.dtype), pixel_shuffle=int(options["pixel_shuffle"]), pad=pad)
    chosen = {"layout": maps.layout, "pad_mode": "reflect", **options}
    for name, choices in _CHOICES.items():
        setattr(request, name, choices.index(chosen[name]))
    for name, value in vars(device).items():
        setattr(request, name, int(value))
    request.batch, request.channels, request.height, request.width = n, c, h, w
    request.negative_slope, request.eps = 0.2, 1e-5
    padded = maps.dpadded if maps.dpadded is not None else maps.empty(n, c, h + 2 * pad, w + 2 * pad)
    request.x, request.padded = maps.x.data_ptr(), padded.data_ptr()
    for name, parameter in (("weight", maps.weight), ("bias", maps.bias)):
        if parameter is not None:
            assert parameter.dtype == torch.float32
            strides = parameter.stride() if parameter.dim() == 2 else (0, 1)
            setattr(request, name, parameter.data_ptr())
            setattr(request, f"{name}_strides", (ctypes.c_int64 * 2)(*strides))
    if maps.residual is not None:
        request.residual = maps.residual.data_ptr()
        request.residual_strides = (ctypes.c_int64 * 4)(*maps.residual.stride())
    return request, padded


def _gradients(maps: Maps, options: dict[str, Any]) -> tuple[_Gradients, list[Tensor]]:
    """Return the additional arguments of backward, and the gradients that it writes."""
    assert maps.dpadded is not None
    strides = (ctypes.c_int64 * 4)(*maps.dpadded.stride())
    gradients = _Gradients(dpadded=maps.dpadded.data_ptr(), dpadded_strides=strides)
    results = {"dx": maps.empty(*maps.x.shape)}
    for name, parameter in (("dweight", maps.weight), ("dbias", maps.bias)):
        if parameter is not None:
            results[name] = torch.empty_like(parameter, memory_format=torch.contiguous_format)
    if maps.residual is not None:
        results["dresidual"] = maps.empty(*_size(maps, options))
    for name, result in results.items():
        setattr(gradients, name, result.data_ptr())
    return gradients, list(results.values())


def _check(error: bytes | None) -> None:
    if error is not None:
        raise LaunchError(error.decode())


class Builds:
    """The libraries for several numbers of threads, which are compiled in parallel.

    Args:
        arch: Compute capability such as 90, or None for the emulator.
        folder: Folder of the libraries.

    Raises:
        SkippedError: If a library is not compiled and there is no compiler.
    """

    def __init__(self, arch: int | None, folder: Path = FOLDER) -> None:
        self._folder = folder
        self._arch = arch
        self._running: dict[int, tuple[subprocess.Popen[str], Path]] = {}
        self._compiler = _nvcc() if arch is not None else shutil.which("c++")
        if self._compiler is None and not all(self.path(threads).exists() for threads in THREADS):
            raise SkippedError(f"there is no {'C++ compiler' if arch is None else 'nvcc'}, and no library in {folder}")

    def path(self, threads: int) -> Path:
        """Return the path of the library with `threads` threads per block."""
        target = "emulator" if self._arch is None else f"sm_{self._arch}"
        return self._folder / f"candidates-{threads}-{target}-{_hash_of_sources()}.so"

    def start(self, threads: int) -> None:
        """Start to compile a library, if it is not compiled."""
        if threads in self._running or self.path(threads).exists():
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(suffix=".so", dir=self._folder)
        os.close(handle)
        command = self._command(threads, name)
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self._running[threads] = (process, Path(name))

    def wait(self, threads: int) -> Library:
        """Wait until a library is compiled and return it.

        Raises:
            RuntimeError: If it does not compile; the message has the output of the compiler.
        """
        self.start(threads)
        path = self.path(threads)
        if not path.exists():
            process, unfinished = self._running.pop(threads)
            output, _ = process.communicate()
            if process.returncode != 0:
                unfinished.unlink(missing_ok=True)
                raise RuntimeError(f"the launchers with {threads} threads do not compile:\n{output}")
            unfinished.chmod(0o755)
            unfinished.replace(path)  # atomic: there is never an incomplete library
        return Library(path)

    def _command(self, threads: int, target: str) -> list[str]:
        assert self._compiler is not None
        common = [
            self._compiler,
            "-std=c++17",
            "-shared",
            f"-DFASTMUNIT_BLOCK_THREADS={threads}",
            "-Icsrc",
            "-o",
            target,
        ]
        if self._arch is None:
            return [*common, "-O1", "-fPIC", "-Wno-unknown-pragmas", f"-I{_EMULATOR}", "-xc++", *SOURCES]
        return [*common, "-O3", "-Xcompiler=-fPIC", f"-arch=sm_{self._arch}", "--threads=3", *SOURCES]


def _nvcc() -> str | None:
    return shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


@cache
def _hash_of_sources() -> str:
    folders = (ROOT / "csrc" / "common", ROOT / "csrc" / "cuda", ROOT / "csrc" / "fused_norm", ROOT / _EMULATOR)
    files = [file for folder in folders for file in folder.iterdir() if file.is_file()]
    content = hashlib.sha256()
    for file in sorted({*files, *(ROOT / source for source in SOURCES), Path(__file__)}):
        content.update(file.read_bytes())
    return content.hexdigest()[:16]


def main() -> int:
    """Compile the libraries for a GPU on another machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", type=int, required=True, help="compute capability, such as 90 for 9.0")
    builds = Builds(parser.parse_args().arch)
    for threads in THREADS:
        builds.start(threads)
    for threads in THREADS:
        builds.wait(threads)
        print(builds.path(threads))
    return 0


if __name__ == "__main__":
    sys.exit(main())
