"""Runs emulated CUDA launchers: builds their executable, sends it a request, reads its reply (emulator/request.h)."""

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
# What a launcher's tensors are called in its request, and how far behind a 256-byte boundary each begins, in bytes.
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Site:
    """Traffic of one line of a kernel that accesses global memory.

    Attributes:
        place: File and line.
        store: Whether it stores.
        requests: Instructions of warps.
        accesses: Accesses of single threads.
        access_bytes: Of these.
        bytes: That the requests asked for; what several lanes of one ask for counts once.
        sectors: Of 32 bytes, that the requests touch.
        least_sectors: That they would touch if the bytes of each lay side by side from a boundary on.
    """

    place: str
    store: bool
    requests: int
    accesses: int
    access_bytes: int
    bytes: int
    sectors: int
    least_sectors: int

    @property
    def width(self) -> float:
        """Bytes of an access."""
        return self.access_bytes / self.accesses


@dataclass(frozen=True)
class Started:
    """A kernel that a launcher started.

    Attributes:
        name: As C++ writes it, with arguments.
        blocks: Of the grid.
        threads: Of a block.
        cluster: Blocks that share their memory.
        dependent: Whether it may start before the kernel in front of it ends.
        loaded: Bytes of global memory, as in Site.
        stored: The same.
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
    """What a launcher wrote, how many kernels it started, and which, with their traffic, where that was counted."""

    outputs: dict[str, bytes] = field(default_factory=dict)
    launches: int = 0
    kernels: list[Started] = field(default_factory=list)
    sites: list[Site] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Bytes that the kernels asked for."""
        return sum(site.bytes for site in self.sites)

    @property
    def sector_bytes(self) -> int:
        """Bytes of the sectors that they touched."""
        return 32 * sum(site.sectors for site in self.sites)


class EmulationError(Exception):
    """The emulator or a sanitizer stopped the kernel; the message is what it said."""


@cache
def executable(name: str, sanitize: str = "", include: Path | None = None) -> Path:
    """Build the executable of the CUDA source `name`.cu, or of `name`.cpp beside this file.

    Args:
        name: Of the executable.
        sanitize: What -fsanitize is given: "", "address,undefined" or "thread".
        include: Folder of other headers than those of csrc, as it is laid out.
    """
    cmake, ninja = shutil.which("cmake"), shutil.which("ninja")
    if cmake is None or ninja is None or shutil.which("c++") is None:
        pytest.skip("the emulated kernels need CMake, Ninja and a C++ compiler")
    kind = "emulator" if include is None else include.parent.name
    folder = ROOT / "build" / "-".join(filter(None, [kind, *sanitize.split(",")]))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:  # tests run in several processes
        fcntl.flock(lock, fcntl.LOCK_EX)
        options = ["-DFASTMUNIT_EMULATOR=ON", f"-DFASTMUNIT_SANITIZE={sanitize}", "-G", "Ninja"]
        options += [] if include is None else [f"-DFASTMUNIT_SOURCES={include}"]
        configured = folder / "options.txt"  # a folder of an earlier version may lack some of them
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
    """The values of a dense tensor in the order in which they lie."""
    order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    flat = tensor.permute(order)
    assert flat.is_contiguous(), "only dense tensors can be sent"
    return flat.reshape(-1)


def request(
    values: Mapping[str, int | float],
    texts: Mapping[str, str],
    inputs: Tensors,
    outputs: Tensors,
    shifts: Mapping[str, int] | None = None,
) -> bytes:
    """The bytes of a request; outputs are tensors of the shape, dtype and strides wanted."""
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
    """Run `program` on a request, with `environment` beside what it inherits.

    Raises:
        EmulationError: It stopped.
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
    """Run the launcher of `op` and fill `outputs`, which start as NaN whatever they hold.

    Args:
        op: Name of the executable.
        values: Numbers of the request.
        texts: Words of the request.
        inputs: Dense tensors on the CPU.
        outputs: Dense tensors on the CPU, overwritten.
        shifts: Bytes behind a 256-byte boundary at which an array begins, by name.
        schedule: One of `SCHEDULES`.
        sanitize: See `executable`.
        count: Whether to count traffic.
        include: See `executable`.
        environment: Beside that of this process.

    Returns:
        What the launcher wrote and did.

    Raises:
        EmulationError: The emulator or a sanitizer stopped it.
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
    """The dtype's name in requests and test ids."""
    return str(dtype).removeprefix("torch.")
