"""Read the resource use of the CUDA kernels from their machine code, without a GPU, and compare it with the budget.

    python -m tools.gpu_budget    # compile the CUDA sources; print the use of each kernel and everything over budget
    python -m tools.gpu_budget --arch 90 --source csrc/weighted_l1/weighted_l1.cu
    python -m tools.gpu_budget --markdown    # print the table of docs/project/gpu.md

Resources are registers, spills, occupancy and the width of memory accesses. The budget is tests/cuda/budget.yaml;
tests/cuda/test_budget.py enforces it.
"""

import argparse
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from tools.sass import Instruction, hot_instructions, instructions_of, instructions_per_value

ROOT = Path(__file__).resolve().parents[1]
BUDGET = ROOT / "tests" / "cuda" / "budget.yaml"
SOURCES = sorted((ROOT / "csrc").rglob("*.cu"))
NVCC_FLAGS = ["-std=c++17", "-O3", "-Xptxas=-warn-spills,-warn-lmem-usage,-Werror", "-Werror=all-warnings"]
# Shared memory that CUDA reserves per block. From compute capability 9.0 on, it is reported as part of the kernel's.
RESERVED_SHARED_BYTES = 1024


@dataclass(frozen=True)
class Multiprocessor:
    """The limits of a multiprocessor (CUDA C++ Programming Guide, technical specifications)."""

    threads: int
    blocks: int
    shared_bytes: int
    registers: int = 65536


MULTIPROCESSORS = {
    75: Multiprocessor(1024, 16, 64 * 1024),
    80: Multiprocessor(2048, 32, 164 * 1024),
    86: Multiprocessor(1536, 16, 100 * 1024),
    89: Multiprocessor(1536, 24, 100 * 1024),
    90: Multiprocessor(2048, 32, 228 * 1024),
    100: Multiprocessor(2048, 32, 228 * 1024),
    120: Multiprocessor(1536, 24, 100 * 1024),
}


@dataclass
class Kernel:
    """The machine code of a kernel.

    Attributes:
        name: Demangled name without parameters.
        arch: Compute capability, such as 80 for 8.0.
        registers: Registers per thread.
        local_bytes: Bytes of stack and spilled registers per thread.
        shared_bytes: Static shared memory per block.
        accesses: Number of instructions on global memory, by bits per thread.
        doubles: Number of float64 operations.
        generic: Number of loads and stores whose address space the compiler does not know.
        strong: Number of stores that later loads must not be moved ahead of.
        in_flight: Bytes that a thread loads from global memory before the first instruction that needs one of them.
        code: All instructions.
    """

    name: str
    arch: int
    registers: int
    local_bytes: int
    shared_bytes: int
    accesses: Counter[int] = field(default_factory=Counter)
    doubles: int = 0
    generic: int = 0
    strong: int = 0
    in_flight: int = 0
    code: list[Instruction] = field(default_factory=list, repr=False)

    @property
    def hot_doubles(self) -> int:
        """Number of float64 operations in code that is not marked as rare; see sass.py."""
        return _doubles(hot_instructions(self.code))

    def instructions_per_value(self, values: int) -> float:
        """Return the instructions per value that a thread with `values` values executes; see sass.py."""
        return instructions_per_value([self], values, 2 if "__half" in self.name or "bfloat16" in self.name else 4)

    def blocks(self, threads: int, dynamic_shared_bytes: int = 0) -> int:
        """Return the number of blocks of `threads` threads that fit on a multiprocessor."""
        limits = MULTIPROCESSORS[self.arch]
        warps = -(-threads // 32)
        warp_registers = -(-self.registers * 32 // 256) * 256
        by_registers = (
            limits.registers // 4 // warp_registers * 4 // warps
        )  # each quarter serves a quarter of the warps
        shared = -(-(self.shared_bytes + dynamic_shared_bytes + RESERVED_SHARED_BYTES) // 128) * 128
        return min(limits.threads // 32 // warps, by_registers, limits.shared_bytes // shared, limits.blocks)

    def occupancy(self, threads: int, dynamic_shared_bytes: int = 0) -> float:
        """Return the share of a multiprocessor's threads that can be resident in blocks of `threads` threads."""
        warps = -(-threads // 32)
        return self.blocks(threads, dynamic_shared_bytes) * warps * 32 / MULTIPROCESSORS[self.arch].threads


def find_nvcc() -> str | None:
    """Return the path of nvcc, or None if there is none."""
    return shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


def find_cuobjdump() -> str | None:
    """Return the path of the toolkit's or Triton's cuobjdump, or None if there is none."""
    triton = Path(sysconfig.get_path("purelib")) / "triton" / "backends" / "nvidia" / "bin" / "cuobjdump"
    return shutil.which("cuobjdump") or shutil.which("/usr/local/cuda/bin/cuobjdump") or shutil.which(triton)


def compile_cubin(source: Path, arch: int, target: Path) -> None:
    """Compile a source for one architecture.

    Raises:
        subprocess.CalledProcessError: If there is an error, a warning, a spill or local memory; see its stderr.
    """
    nvcc = find_nvcc()
    assert nvcc is not None, "there is no nvcc"
    command = [nvcc, *NVCC_FLAGS, f"-arch=sm_{arch}", "-cubin", "-o", target, source, "-I", ROOT / "csrc"]
    subprocess.run(command, check=True, capture_output=True, text=True)


def extract_cubins(library: Path, arch: int, folder: Path) -> list[Path]:
    """Write the machine code of a shared library for one architecture into a folder, one file per source."""
    cuobjdump = find_cuobjdump()
    assert cuobjdump is not None, "there is no cuobjdump"
    subprocess.run([cuobjdump, "-xelf", f"sm_{arch}", library], cwd=folder, check=True, capture_output=True)
    return sorted(folder.glob("*.cubin"))


def _output(*command: str | Path, text: str | None = None) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, input=text).stdout


def short_name(name: str) -> str:
    """Return a demangled name without namespaces, parameters and return type."""
    name = name.replace("(anonymous namespace)::", "").replace("fastmunit::cuda::", "").replace("fastmunit::", "")
    name = re.sub(r"\b(norm|stats|l1|gan)::", "", name)
    name = re.sub(r"\((Layout|int|bool|[A-Za-z]+)\)(\d+|true|false)", r"\2", name)
    name = name.removeprefix("void ")
    depth = 0
    for at, character in enumerate(name):
        depth += (character == "<") - (character == ">")
        if character == "(" and depth == 0:
            return name[:at]
    return name


def _bytes_in_flight(instructions: list[Instruction]) -> int:
    """Return the bytes of the loads from global memory before the first instruction that needs one of them."""
    loaded: set[str] = set()
    total = 0
    for one in instructions:
        registers = re.findall(r"\bR\d+\b", one.operands)
        if one.name == "LDG":
            if loaded & set(registers[1:]):
                return total
            first = int(registers[0][1:])
            loaded |= {f"R{first + k}" for k in range(max(1, one.bits // 32))}
            total += one.bits // 8
        elif loaded & set(registers):
            return total
    return total


def _doubles(instructions: list[Instruction]) -> int:
    return sum(one.name in ("DADD", "DMUL", "DFMA", "DSETP", "DMNMX") for one in instructions)


def _count(kernel: Kernel, instructions: list[Instruction]) -> None:
    """Set the attributes of a kernel that follow from its instructions."""
    for one in instructions:
        if one.name in ("LDG", "STG"):
            kernel.accesses[one.bits] += 1
        kernel.generic += one.name in ("LD", "ST")
        kernel.strong += one.name == "STG" and "STRONG" in one.opcode
    kernel.code = instructions
    kernel.in_flight = _bytes_in_flight(instructions)
    kernel.doubles = _doubles(instructions)


def kernels_of(cubin: Path, arch: int) -> list[Kernel]:
    """Return the kernels of a cubin."""
    cuobjdump = find_cuobjdump()
    assert cuobjdump is not None, "there is no cuobjdump"
    kernels: dict[str, Kernel] = {}
    for name, line in re.findall(r"Function ([^\n:]+):\n([^\n]*)", _output(cuobjdump, "-res-usage", cubin)):
        usage = {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", line)}
        shared = usage["SHARED"] - (RESERVED_SHARED_BYTES if arch >= 90 else 0)
        kernels[name] = Kernel(name, arch, usage["REG"], usage["STACK"] + usage["LOCAL"], max(0, shared))
    for name, instructions in instructions_of(_output(cuobjdump, "-sass", cubin)).items():
        _count(kernels[name], instructions)
    names = _output("c++filt", text="\n".join(kernels)).splitlines()
    for kernel, name in zip(kernels.values(), names, strict=True):
        kernel.name = short_name(name)
    return list(kernels.values())


@dataclass(frozen=True)
class Budget:
    """The limits of all kernels whose name matches, on compute capability 8.0, 9.0 and 10.0.

    A limit of None is not checked.

    Attributes:
        kernel: Regular expression for the whole name.
        threads: Threads per block.
        registers: Maximum registers per thread.
        occupancy: Minimum occupancy.
        wide: Minimum number of 128-bit accesses to global memory.
        narrow: Maximum number of narrower accesses: those of statistics, remainders and unaligned maps.
        dynamic_shared_bytes: Dynamic shared memory per block.
        doubles: Maximum number of float64 operations.
        generic: Maximum number of accesses to an unknown address space, such as reads of another block's shared memory.
        strong: Maximum number of stores that later loads must not be moved ahead of.
        in_flight: Minimum bytes that a thread loads before one of them is needed.
        blocks: Minimum number of blocks of `threads` threads per multiprocessor.
        hot_doubles: Maximum number of float64 operations in code that is not marked as rare.
        values: Values of x per thread; 0 if instructions are not counted.
        instructions: Maximum number of instructions per value of this kernel; see executed_per_thread in sass.py.
    """

    kernel: str
    threads: int
    registers: int
    occupancy: float
    wide: int = 0
    narrow: int = 0
    dynamic_shared_bytes: int = 0
    doubles: int | None = None
    generic: int | None = None
    strong: int | None = None
    in_flight: int = 0
    blocks: int = 0
    hot_doubles: int | None = None
    values: int = 0
    instructions: float | None = None

    def broken_by(self, kernel: Kernel) -> list[str]:
        """Return a message per limit that the kernel breaks."""
        narrow = sum(count for bits, count in kernel.accesses.items() if bits < 128)
        occupancy = kernel.occupancy(self.threads, self.dynamic_shared_bytes)
        checks = {
            f"{kernel.registers} registers, at most {self.registers}": kernel.registers <= self.registers,
            f"{kernel.local_bytes} bytes of local memory": kernel.local_bytes == 0,
            f"occupancy {occupancy:.2f}, at least {self.occupancy}": occupancy >= self.occupancy,
            f"{kernel.accesses[128]} accesses of 128 bits, at least {self.wide}": kernel.accesses[128] >= self.wide,
            f"{narrow} narrower accesses, at most {self.narrow}": narrow <= self.narrow,
            f"{kernel.in_flight} bytes of loads in flight, at least {self.in_flight}": kernel.in_flight
            >= self.in_flight,
        }
        blocks = kernel.blocks(self.threads, self.dynamic_shared_bytes)
        checks[f"{blocks} blocks per multiprocessor, at least {self.blocks}"] = blocks >= self.blocks
        for name in ("doubles", "generic", "strong", "hot_doubles"):
            limit = getattr(self, name)
            if limit is not None:
                count = getattr(kernel, name)
                checks[f"{count} {name}, at most {limit}"] = count <= limit
        if self.instructions is not None:
            count = kernel.instructions_per_value(self.values)
            checks[f"{count:.1f} instructions per value, at most {self.instructions}"] = count <= self.instructions
        return [f"sm_{kernel.arch} {kernel.name}: {message}" for message, holds in checks.items() if not holds]


@dataclass(frozen=True)
class Call:
    """The limit on instructions of all kernels of a call together.

    Attributes:
        kernels: Regular expression for whole names. Kernels with equal text in its groups belong to the same call.
        values: Values of x per thread of each kernel.
        instructions: Maximum number of instructions per value, summed over the kernels.
    """

    kernels: str
    values: int
    instructions: float

    def together(self, kernels: list[Kernel]) -> dict[tuple[str, ...], list[Kernel]]:
        """Return the kernels of each call, by the text of the groups."""
        calls: dict[tuple[str, ...], list[Kernel]] = {}
        for kernel in kernels:
            if match := re.fullmatch(self.kernels, kernel.name):
                calls.setdefault(match.groups(), []).append(kernel)
        return calls

    def broken_by(self, kernels: list[Kernel]) -> list[str]:
        """Return a message per call that exceeds the limit."""
        calls = self.together(kernels)
        broken = [] if calls else [f"{self.kernels}: there are no such kernels"]
        for members in calls.values():
            count = sum(kernel.instructions_per_value(self.values) for kernel in members)
            names = " + ".join(kernel.name for kernel in members)
            if count > self.instructions:
                broken.append(
                    f"sm_{members[0].arch} {names}: {count:.1f} instructions per value, at most {self.instructions}"
                )
        return broken


def read_budget(path: Path = BUDGET) -> dict[str, list[Budget]]:
    """Return the budgets by name of the source."""
    sources = yaml.safe_load(path.read_text())["kernels"]
    return {source: [Budget(**row) for row in rows] for source, rows in sources.items()}


def read_calls(path: Path = BUDGET) -> dict[str, list[Call]]:
    """Return the limits of calls by name of the source."""
    return {source: [Call(**row) for row in rows] for source, rows in yaml.safe_load(path.read_text())["calls"].items()}


def check(kernels: list[Kernel], budgets: list[Budget]) -> list[str]:
    """Return a message per broken limit, per kernel without exactly one budget and per budget without a kernel."""
    broken: list[str] = []
    used = set()
    for kernel in kernels:
        rows = [budget for budget in budgets if re.fullmatch(budget.kernel, kernel.name)]
        if len(rows) != 1:
            broken.append(f"{kernel.name}: {len(rows)} rows of the budget are for this kernel instead of 1")
        for budget in rows:
            used.add(budget)
            broken += budget.broken_by(kernel)
    return broken + [f"{budget.kernel}: there is no such kernel" for budget in budgets if budget not in used]


def table(kernels: list[Kernel], budgets: list[Budget]) -> str:
    """Return a table with a line per kernel."""
    lines = [f"{'kernel':<72} arch  regs  shared  occupancy  128 bit  narrower"]
    for kernel in kernels:
        row = next((budget for budget in budgets if re.fullmatch(budget.kernel, kernel.name)), None)
        occupancy = "?" if row is None else f"{kernel.occupancy(row.threads, row.dynamic_shared_bytes):.2f}"
        narrow = sum(count for bits, count in kernel.accesses.items() if bits < 128)
        lines.append(
            f"{kernel.name:<72} {kernel.arch:>4} {kernel.registers:>5} {kernel.shared_bytes:>7} {occupancy:>10} "
            f"{kernel.accesses[128]:>8} {narrow:>9}"
        )
    return "\n".join(lines)


def nvcc_release() -> str | None:
    """Return the release of nvcc, such as "13.0", or None if there is no nvcc."""
    nvcc = find_nvcc()
    match = None if nvcc is None else re.search(r"release (\d+\.\d+)", _output(nvcc, "--version"))
    return match[1] if match else None


def markdown_cells(kernels: list[Kernel], budget: Budget) -> list[str]:
    """Return the maxima, for occupancy and 128-bit accesses the minima, over a budget's kernels on one architecture."""
    mine = [kernel for kernel in kernels if re.fullmatch(budget.kernel, kernel.name)]
    narrow = [sum(count for bits, count in kernel.accesses.items() if bits < 128) for kernel in mine]
    return [
        str(max(kernel.registers for kernel in mine)),
        f"{min(kernel.occupancy(budget.threads, budget.dynamic_shared_bytes) for kernel in mine):.2f}",
        str(min(kernel.accesses[128] for kernel in mine)),
        str(max(narrow)),
    ]


def markdown_name(budget: Budget) -> str:
    """Return the name of a budget's kernels in a Markdown table."""
    return "`" + budget.kernel.replace("|", "\\|") + "`"


def markdown(kernels: dict[str, dict[int, list[Kernel]]], budgets: dict[str, list[Budget]]) -> str:
    """Return the table of docs/project/gpu.md. Each cell has the values of all architectures."""
    lines = [
        "| kernel | threads | registers | occupancy | accesses of 128 bits | narrower |",
        "|---|---|---|---|---|---|",
    ]
    for source, by_arch in kernels.items():
        for budget in budgets[source]:
            cells = zip(*(markdown_cells(members, budget) for members in by_arch.values()), strict=True)
            lines.append(
                f"| {markdown_name(budget)} | {budget.threads} | "
                + " | ".join(" / ".join(cell) for cell in cells)
                + " |"
            )
    return "\n".join(lines)


def main() -> int:
    """Print the kernels and everything over budget. Return 1 if there is anything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, nargs="*", default=[])
    parser.add_argument("--arch", type=int, nargs="*", default=[80, 90, 100])
    parser.add_argument("--markdown", action="store_true", help="print the table of docs/project/gpu.md")
    arguments = parser.parse_args()
    budgets, calls = read_budget(), read_calls()
    sources = arguments.source or [path for path in SOURCES if path.stem in budgets]
    broken: list[str] = []
    found: dict[str, dict[int, list[Kernel]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for source in sources:
            for arch in arguments.arch:
                cubin = Path(folder) / "kernels.cubin"
                compile_cubin(source, arch, cubin)
                kernels = kernels_of(cubin, arch)
                rows = budgets.get(source.stem, [])
                found.setdefault(source.stem, {})[arch] = kernels
                if not arguments.markdown:
                    print(table(kernels, rows))
                broken += check(kernels, rows)
                broken += [line for call in calls.get(source.stem, []) for line in call.broken_by(kernels)]
    if arguments.markdown:
        print(markdown(found, budgets))
    print("\n".join(broken))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
