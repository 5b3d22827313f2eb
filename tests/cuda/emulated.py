"""Run emulated CUDA launchers: build the executable, send it a request and read the reply (emulator/request.h)."""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).parents[2]
SCHEDULES = ("forward", "reverse", "shuffled", "interleaved")
Tensors = Mapping[str, Tensor]
"""The tensors of a request by name."""


@dataclass(frozen=True)
class Site:
    """The traffic of one line of a kernel that accesses global memory.

    Attributes:
        place: File and line.
        store: True for a store, false for a load.
        requests: Number of warp instructions.
        accesses: Number of accesses of individual threads.
        access_bytes: Total size of these accesses.
        bytes: Bytes that the requests access. Bytes that several lanes of a request access count once.
        sectors: Number of 32-byte sectors that the requests touch.
        min_sectors: Number of sectors if the bytes of each request were contiguous and aligned.
    """

    place: str
    store: bool
    requests: int
    accesses: int
    access_bytes: int
    bytes: int
    sectors: int
    min_sectors: int

    @property
    def width(self) -> float:
        """Bytes per access."""
        return self.access_bytes / self.accesses


@dataclass(frozen=True)
class Started:
    """A kernel that a launcher started.

    Attributes:
        name: Demangled name with parameter types.
        blocks: Number of blocks in the grid.
        threads: Number of threads per block.
        cluster: Number of blocks per cluster.
        dependent: True if it may start before the previous kernel ends.
        loaded: Bytes loaded from global memory, counted as in Site.
        stored: Bytes stored to global memory, counted as in Site.
    """

    name: str
    blocks: int
    threads: int
    cluster: int
    dependent: bool
    loaded: int
    stored: int


@dataclass
class Reply:
    """The outputs of a launcher and the number of its launches; if traffic was counted, also the kernels and sites."""

    outputs: dict[str, bytes] = field(default_factory=dict)
    launches: int = 0
    kernels: list[Started] = field(default_factory=list)
    sites: list[Site] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Bytes that the kernels access."""
        return sum(site.bytes for site in self.sites)

    @property
    def sector_bytes(self) -> int:
        """Bytes of the sectors that the kernels touch."""
        return 32 * sum(site.sectors for site in self.sites)


class EmulationError(Exception):
    """Raised if the emulator or a sanitizer stops a kernel; the message is its output."""


@cache
def executable(name: str, sanitize: str = "", include: Path | None = None) -> Path:
    """Build the executable for the CUDA source `name`.cu, or for `name`.cpp in this folder.

    Args:
        name: Name of the executable.
        sanitize: Value of -fsanitize: "", "address,undefined" or "thread".
        include: Folder of headers to use instead of csrc, with the same layout.
    """
    cmake, ninja = shutil.which("cmake"), shutil.which("ninja")
    if cmake is None or ninja is None or shutil.which("c++") is None:
        pytest.skip("the emulated kernels need CMake, Ninja and a C++ compiler")
    kind = "emulator" if include is None else include.parent.name
    folder = ROOT / "build" / "-".join(filter(None, [kind, *sanitize.split(",")]))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:  # tests may run in several processes
        fcntl.flock(lock, fcntl.LOCK_EX)
        options = ["-DFASTMUNIT_EMULATOR=ON", f"-DFASTMUNIT_SANITIZE={sanitize}", "-G", "Ninja"]
        options += [] if include is None else [f"-DFASTMUNIT_SOURCES={include}"]
        configured = folder / "options.txt"  # the folder may be of an earlier version with other options
        if not configured.exists() or configured.read_text() != "\n".join(options):
            _run([cmake, "-S", ROOT, "-B", folder, *options])
            configured.write_text("\n".join(options))
        _run([cmake, "--build", folder, "--target", name])
    return folder / "tests" / "cuda" / name


def _run(command: list[str | Path]) -> None:
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "warning" not in run.stdout, run.stdout


def in_memory_order(tensor: Tensor) -> Tensor:
    """Return the values of a dense tensor in memory order."""
    order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    flat = tensor.permute(order)
    assert flat.is_contiguous(), "expected a dense tensor"
    return flat.reshape(-1)


def request(
    values: Mapping[str, int | float],
    texts: Mapping[str, str],
    inputs: Tensors,
    outputs: Tensors,
    shifts: Mapping[str, int] | None = None,
) -> bytes:
    """Return the bytes of a request. Outputs are tensors with the expected shapes, dtypes and strides."""
    shifts = shifts or {}
    parts = [f"value {name} {value}\n".encode() for name, value in values.items()]
    parts += [f"text {name} {text}\n".encode() for name, text in texts.items()]
    for name, tensor in inputs.items():
        data = in_memory_order(tensor.detach()).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        parts += [f"input {name} {len(data)} {shifts.get(name, 0)}\n".encode(), data, b"\n"]
    for name, tensor in outputs.items():
        parts.append(f"output {name} {tensor.numel() * tensor.element_size()} {shifts.get(name, 0)}\n".encode())
    return b"".join([*parts, b"run\n"])


def send(program: Path, data: bytes, environment: Mapping[str, str] | None = None) -> Reply:
    """Run `program` on a request, with `environment` in addition to the inherited one.

    Raises:
        EmulationError: If the emulator or a sanitizer stops it.
    """
    everything = {
        **os.environ,
        "ASAN_OPTIONS": "detect_leaks=0",
        "TSAN_OPTIONS": "report_bugs=1",
        **(environment or {}),
    }
    run = subprocess.run([program], input=data, capture_output=True, check=False, env=everything)
    if run.returncode != 0:
        raise EmulationError(run.stderr.decode(errors="replace"))
    reply = Reply()
    left = run.stdout
    while left:
        line, _, left = left.partition(b"\n")
        kind, *words = line.decode().split()
        if kind == "output":
            size = int(words[1])
            reply.outputs[words[0]], left = left[:size], left[size:]
        elif kind == "launches":
            reply.launches = int(words[0])
        elif kind == "kernel":
            blocks, threads, cluster, dependent, loaded, stored, *name = words
            counts = int(loaded), int(stored)
            reply.kernels.append(
                Started(" ".join(name), int(blocks), int(threads), int(cluster), dependent == "1", *counts)
            )
        else:
            file, number, access, *counts = words
            place = f"{Path(file).name}:{number}"
            reply.sites.append(Site(place, access == "store", *(int(count) for count in counts)))
    return reply


def emulate(
    op: str,
    values: Mapping[str, int | float],
    texts: Mapping[str, str],
    inputs: Tensors,
    outputs: Tensors,
    *,
    shifts: Mapping[str, int] | None = None,
    schedule: str = "forward",
    sanitize: str = "",
    count: bool = False,
    include: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Reply:
    """Run the launcher of `op` and fill `outputs`. The launcher sees outputs filled with NaN, whatever they contain.

    Args:
        op: Name of the executable.
        values: Numbers of the request.
        texts: Words of the request.
        inputs: Dense tensors on the CPU.
        outputs: Dense tensors on the CPU, which are overwritten.
        shifts: Offset of an array from a 256-byte boundary in bytes, by name.
        schedule: One of `SCHEDULES`.
        sanitize: See `executable`.
        count: Count traffic.
        include: See `executable`.
        environment: Variables in addition to those of this process.

    Returns:
        The reply of the launcher.

    Raises:
        EmulationError: If the emulator or a sanitizer stops the launcher.
    """
    texts = {**texts, "schedule": schedule, "count": "traffic" if count else "no"}
    program = executable(op, sanitize, include)
    reply = send(program, request(values, texts, inputs, outputs, shifts), environment)
    for name, tensor in outputs.items():
        if tensor.numel():
            flat = torch.frombuffer(bytearray(reply.outputs[name]), dtype=torch.uint8).view(tensor.dtype)
            order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
            tensor.permute(order).copy_(flat.view([tensor.shape[dim] for dim in order]))
    return reply


def name_of(dtype: torch.dtype) -> str:
    """Return the name of a dtype in requests and test ids."""
    return str(dtype).removeprefix("torch.")
