"""What the machine code of the CUDA kernels says without a GPU: registers, spills, occupancy, width of memory accesses.

    python tools/gpu_budget.py    # compiles the CUDA sources, prints what each kernel uses, and what is over budget
    python tools/gpu_budget.py --arch 90 --source csrc/weighted_l1/weighted_l1.cu
    python tools/gpu_budget.py --markdown    # the table of docs/gpu.md

tests/cuda/budget.yaml has the budget; tests/cuda/test_budget.py holds the kernels to it.
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

sys.path.insert(0, str(Path(__file__).resolve().parent))

from sass import Instruction, hot_instructions, instructions_of, instructions_per_value

ROOT = Path(__file__).resolve().parents[1]
BUDGET = ROOT / "tests" / "cuda" / "budget.yaml"
# The CUDA sources, in the folders of their ops.
SOURCES = sorted((ROOT / "csrc").rglob("*.cu"))
NVCC_FLAGS = ["-std=c++17", "-O3", "-Xptxas=-warn-spills,-warn-lmem-usage,-Werror", "-Werror=all-warnings"]
# The reserved shared memory of a block, which is counted from compute capability 9.0 on as if it were the kernel's.
RESERVED_SHARED_BYTES = 1024


@dataclass(frozen=True)
class Multiprocessor:
    """What a multiprocessor has for its blocks (CUDA C++ Programming Guide, technical specifications)."""

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
    """A kernel's machine code.

    Attributes:
        name: As C++ writes it, without arguments.
        arch: Compute capability, 80 for 8.0.
        registers: Of a thread.
        local_bytes: Stack and spilled registers of a thread.
        shared_bytes: Of a block, without dynamic shared memory.
        accesses: Instructions on global memory by bits of a thread's access.
        doubles: Operations on float64.
        generic: Loads and stores whose address space the compiler does not know.
        strong: Stores that no later load may be moved ahead of.
        in_flight: Bytes of a thread's loads from global memory before the first instruction that needs one of them.
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
        """Operations on float64 in code that is not marked as rare; see sass.py."""
        return _doubles(hot_instructions(self.code))

    def instructions_per_value(self, values: int) -> float:
        """What a thread that holds `values` executes per value; see sass.py."""
        return instructions_per_value([self], values, 2 if "__half" in self.name or "bfloat16" in self.name else 4)

    def blocks(self, threads: int, dynamic_shared_bytes: int = 0) -> int:
        """Blocks of `threads` that a multiprocessor has room for."""
        has = MULTIPROCESSORS[self.arch]
        warps = -(-threads // 32)
        warp_registers = -(-self.registers * 32 // 256) * 256
        by_registers = has.registers // 4 // warp_registers * 4 // warps  # a quarter of them for a quarter of the warps
        shared = -(-(self.shared_bytes + dynamic_shared_bytes + RESERVED_SHARED_BYTES) // 128) * 128
        return min(has.threads // 32 // warps, by_registers, has.shared_bytes // shared, has.blocks)

    def occupancy(self, threads: int, dynamic_shared_bytes: int = 0) -> float:
        """Share of a multiprocessor's threads that can be resident, in blocks of `threads`."""
        warps = -(-threads // 32)
        return self.blocks(threads, dynamic_shared_bytes) * warps * 32 / MULTIPROCESSORS[self.arch].threads


def find_nvcc() -> str | None:
    """Path of nvcc, or None where there is none."""
    return shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


def find_cuobjdump() -> str | None:
    """Path of cuobjdump, the toolkit's or Triton's, or None where there is none."""
    triton = Path(sysconfig.get_path("purelib")) / "triton" / "backends" / "nvidia" / "bin" / "cuobjdump"
    return shutil.which("cuobjdump") or shutil.which("/usr/local/cuda/bin/cuobjdump") or shutil.which(triton)


def compile_cubin(source: Path, arch: int, target: Path) -> None:
    """Compile for one architecture.

    Raises:
        subprocess.CalledProcessError: There is an error, a warning, a spill or local memory; stderr says where.
    """
    nvcc = find_nvcc()
    assert nvcc is not None, "there is no nvcc"
    command = [nvcc, *NVCC_FLAGS, f"-arch=sm_{arch}", "-cubin", "-o", target, source]
    command += ["-I", ROOT / "csrc"]
    subprocess.run(command, check=True, capture_output=True, text=True)


def _output(*command: str | Path, text: str | None = None) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, input=text).stdout


def short_name(name: str) -> str:
    """A demangled name without namespaces, arguments and return type."""
    name = name.replace("(anonymous namespace)::", "").replace("fastmunit::cuda::", "").replace("fastmunit::", "")
    name = re.sub(r"\b(norm|stats|l1)::", "", name)
    name = re.sub(r"\((Layout|int|bool|[A-Za-z]+)\)(\d+|true|false)", r"\2", name)
    name = name.removeprefix("void ")
    depth = 0
    for at, character in enumerate(name):
        depth += (character == "<") - (character == ">")
        if character == "(" and depth == 0:
            return name[:at]
    return name


def _bytes_in_flight(instructions: list[Instruction]) -> int:
    """Bytes of the loads from global memory in front of the first instruction that needs one of them."""
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
    """Fill in what a kernel's instructions say."""
    for one in instructions:
        if one.name in ("LDG", "STG"):
            kernel.accesses[one.bits] += 1
        kernel.generic += one.name in ("LD", "ST")
        kernel.strong += one.name == "STG" and "STRONG" in one.opcode
    kernel.code = instructions
    kernel.in_flight = _bytes_in_flight(instructions)
    kernel.doubles = _doubles(instructions)


def kernels_of(cubin: Path, arch: int) -> list[Kernel]:
    """The kernels of a cubin."""
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
    """What kernels whose name matches may use.

    Attributes:
        kernel: Regular expression of the whole name.
        threads: Of a block.
        registers: At most.
        occupancy: At least, on compute capability 8.0, 9.0 and 10.0.
        wide: Accesses of 128 bits to global memory, at least.
        narrow: Narrower ones, at most: those of statistics, rests and the path of maps that are not aligned.
        dynamic_shared_bytes: Of a block.
        doubles: Operations on float64, at most; any number where it is None, as are the next.
        generic: Loads and stores of an unknown address space, at most. A read of another block's shared memory is one.
        strong: Stores that no later load may be moved ahead of, at most.
        in_flight: Bytes of a thread's loads before one is needed, at least.
        blocks: Of `threads`, that a multiprocessor has room for, at least.
        hot_doubles: Operations on float64 in code that is not marked as rare, at most.
        values: Values of x that a thread holds; 0 where instructions are not counted.
        instructions: Per value, at most, of this kernel alone; see executed_per_thread of sass.py.
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
        """What the kernel uses more than this."""
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
        return [f"sm_{kernel.arch} {kernel.name}: {told}" for told, holds in checks.items() if not holds]


@dataclass(frozen=True)
class Call:
    """What the kernels of one call may execute together.

    Attributes:
        kernels: Regular expression of the whole names. Kernels with the same text in its groups belong to one call.
        values: Values of x that a thread of each of them holds.
        instructions: Per value, at most, summed over the kernels.
    """

    kernels: str
    values: int
    instructions: float

    def together(self, kernels: list[Kernel]) -> dict[tuple[str, ...], list[Kernel]]:
        """The kernels of each call."""
        calls: dict[tuple[str, ...], list[Kernel]] = {}
        for kernel in kernels:
            if match := re.fullmatch(self.kernels, kernel.name):
                calls.setdefault(match.groups(), []).append(kernel)
        return calls

    def broken_by(self, kernels: list[Kernel]) -> list[str]:
        """The calls that execute more than this."""
        calls = self.together(kernels)
        broken = [] if calls else [f"{self.kernels}: there are no such kernels"]
        for of_call in calls.values():
            count = sum(kernel.instructions_per_value(self.values) for kernel in of_call)
            names = " + ".join(kernel.name for kernel in of_call)
            if count > self.instructions:
                broken.append(
                    f"sm_{of_call[0].arch} {names}: {count:.1f} instructions per value, at most {self.instructions}"
                )
        return broken


def read_budget(path: Path = BUDGET) -> dict[str, list[Budget]]:
    """The budgets by name of the source."""
    sources = yaml.safe_load(path.read_text())["kernels"]
    return {source: [Budget(**row) for row in rows] for source, rows in sources.items()}


def read_calls(path: Path = BUDGET) -> dict[str, list[Call]]:
    """What calls may execute, by name of the source."""
    return {source: [Call(**row) for row in rows] for source, rows in yaml.safe_load(path.read_text())["calls"].items()}


def check(kernels: list[Kernel], budgets: list[Budget]) -> list[str]:
    """What is over budget, has none, or has one that no kernel is for."""
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
    """A line for each kernel."""
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
    """Such as "13.0", or None where there is no nvcc."""
    nvcc = find_nvcc()
    match = None if nvcc is None else re.search(r"release (\d+\.\d+)", _output(nvcc, "--version"))
    return match[1] if match else None


def markdown_cells(kernels: list[Kernel], budget: Budget) -> list[str]:
    """What the kernels of one architecture that a budget is for use at most (of accesses of 128 bits: at least)."""
    mine = [kernel for kernel in kernels if re.fullmatch(budget.kernel, kernel.name)]
    narrow = [sum(count for bits, count in kernel.accesses.items() if bits < 128) for kernel in mine]
    return [
        str(max(kernel.registers for kernel in mine)),
        f"{min(kernel.occupancy(budget.threads, budget.dynamic_shared_bytes) for kernel in mine):.2f}",
        str(min(kernel.accesses[128] for kernel in mine)),
        str(max(narrow)),
    ]


def markdown_name(budget: Budget) -> str:
    """A budget's kernels in a table."""
    return "`" + budget.kernel.replace("|", "\\|") + "`"


def markdown(found: dict[str, dict[int, list[Kernel]]], budgets: dict[str, list[Budget]]) -> str:
    """The table of docs/gpu.md: in each cell, what is used on each architecture."""
    lines = [
        "| kernel | threads | registers | occupancy | accesses of 128 bits | narrower |",
        "|---|---|---|---|---|---|",
    ]
    for source, of_arch in found.items():
        for budget in budgets[source]:
            cells = zip(*(markdown_cells(kernels, budget) for kernels in of_arch.values()), strict=True)
            lines.append(
                f"| {markdown_name(budget)} | {budget.threads} | "
                + " | ".join(" / ".join(cell) for cell in cells)
                + " |"
            )
    return "\n".join(lines)


def main() -> int:
    """Print the kernels and what is over budget."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, nargs="*", default=[])
    parser.add_argument("--arch", type=int, nargs="*", default=[80, 90, 100])
    parser.add_argument("--markdown", action="store_true", help="print the table of docs/gpu.md instead of all kernels")
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
