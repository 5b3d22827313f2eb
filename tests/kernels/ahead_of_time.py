"""Compilation of Triton kernels without a GPU, as their launchers launch them, and reading of the machine code."""

import os
import re
import subprocess
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


class _Driver:
    """The parts of a driver that Triton needs to compile. Each compute capability is a separate device."""

    def __init__(self, capability):
        self.capability = capability

    def get_current_target(self):
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self):
        return self.capability

    def get_current_stream(self, device):
        return 0


@contextmanager
def launches_compiled_for(capability):
    """Compile every launch in the with-block instead of running it, and add it to the list that is returned."""
    compiled = []
    run = JITFunction.run

    def compile_only(self, *args, grid, warmup, **options):
        compiled.append((grid, run(self, *args, grid=grid, warmup=True, **options)))

    previous = driver._active
    driver.set_active(_Driver(capability))
    JITFunction.run = compile_only
    try:
        yield compiled
    finally:
        JITFunction.run = run
        driver._active = previous


@dataclass(frozen=True)
class Resources:
    """The resources of a compiled kernel.

    Attributes:
        registers: Number of registers per thread.
        spills: Number of instructions that read or write local memory.
        shared: Bytes of shared memory per block.
        threads: Number of threads per block.
        instructions: Number of all instructions in the code.
        float64: Number of instructions that compute in float64.
        in_flight: Bytes that a thread reads from global memory before it uses the first of them.
        accesses: Number of instructions by kind ("LDG" reads, "STG" writes global memory) and width in bits.
    """

    registers: int
    spills: int
    shared: int
    threads: int
    instructions: int
    float64: int
    in_flight: int
    accesses: Counter


def _width(instruction):
    for width in (128, 64, 16, 8):
        if re.search(rf"\.[US]?{width}(?:\.|$)", instruction):
            return width
    return 32


def bytes_in_flight(lines):
    """Count the bytes of global reads before the first instruction that uses one of them, in the order of the code."""
    waiting, read = set(), 0
    for line in lines:
        name, _, operands = re.sub(r"^@!?U?P\w+\s+", "", line).partition(" ")
        target, _, sources = operands.partition(",")
        used = operands if name.startswith("ST") else sources
        if waiting & {int(register) for register in re.findall(r"\bR(\d+)\b", used)}:
            break
        if name.startswith("LDG"):
            first, width = int(re.search(r"R(\d+)", target).group(1)), _width(name)
            waiting |= set(range(first, first + max(1, width // 32)))
            read += width // 8
    return read


def resources(kernel, folder):
    """Return the resources of a compiled kernel, from its machine code."""
    path = Path(folder) / "kernel.cubin"
    path.write_bytes(kernel.asm["cubin"])

    def tool(*command):
        name, *arguments = command
        return subprocess.run([TOOLS / name, *arguments, path], capture_output=True, text=True, check=True).stdout

    usage = dict(re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", tool("cuobjdump", "-res-usage")))
    lines = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+([^;]*\S)\s*;", tool("nvdisasm", "-c"), re.MULTILINE)
    instructions = [re.match(r"(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", line).group(1) for line in lines]
    assert instructions, "no machine code was read"
    accesses = Counter((name.split(".")[0], _width(name)) for name in instructions if name.startswith(("LDG", "STG")))
    spills = sum(name.startswith(("LDL", "STL")) for name in instructions)
    float64 = sum(bool(re.match(r"D(ADD|MUL|FMA|SETP|MNMX)|MUFU\..*64", name)) for name in instructions)
    count = sum(name != "NOP" for name in instructions)
    threads = 32 * kernel.metadata.num_warps
    return Resources(
        int(usage["REG"]), spills, kernel.metadata.shared, threads, count, float64, bytes_in_flight(lines), accesses
    )


def tools_missing():
    """Return the reason why machine code cannot be compiled or read here, or None."""
    for name in ("ptxas", "cuobjdump", "nvdisasm"):
        if not os.access(TOOLS / name, os.X_OK):
            return f"triton was installed without {name}"
    return None
