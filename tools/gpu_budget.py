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

    def occupancy(self, threads: int, dynamic_shared_bytes: int = 0) -> float:
        """Share of a multiprocessor's threads that can be resident, in blocks of `threads`."""
        has = MULTIPROCESSORS[self.arch]
        warps = -(-threads // 32)
        warp_registers = -(-self.registers * 32 // 256) * 256
        by_registers = has.registers // 4 // warp_registers * 4 // warps  # a quarter of them for a quarter of the warps
        shared = -(-(self.shared_bytes + dynamic_shared_bytes + RESERVED_SHARED_BYTES) // 128) * 128
        blocks = min(has.threads // 32 // warps, by_registers, has.shared_bytes // shared, has.blocks)
        return blocks * warps * 32 / has.threads


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


def _width(instruction: str) -> int:
    """Bits of a load or store."""
    for bits in (128, 64, 16, 8):
        if re.search(rf"\.[US]?{bits}(\.|$)", instruction):
            return bits
    return 32


def _short(name: str) -> str:
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


def _bytes_in_flight(instructions: list[str]) -> int:
    """Bytes of the loads from global memory in front of the first instruction that needs one of them."""
    loaded: set[str] = set()
    total = 0
    for instruction in instructions:
        opcode, _, operands = instruction.partition(" ")
        registers = re.findall(r"\bR\d+\b", operands)
        if opcode.startswith("LDG"):
            if loaded & set(registers[1:]):
                return total
            width = _width(opcode) // 8
            first = int(registers[0][1:])
            loaded |= {f"R{first + k}" for k in range(max(1, width // 4))}
            total += width
        elif loaded & set(registers):
            return total
    return total


def _count(kernel: Kernel, instructions: list[str]) -> None:
    """Fill in what a kernel's instructions say."""
    for instruction in instructions:
        opcode = instruction.split(" ")[0]
        if opcode.startswith(("LDG", "STG")):
            kernel.accesses[_width(opcode)] += 1
        kernel.doubles += bool(re.match(r"D(ADD|MUL|FMA|SETP|MNMX)\b", opcode))
        kernel.generic += bool(re.match(r"(LD|ST)\.", opcode))
        kernel.strong += opcode.startswith("STG") and "STRONG" in opcode
    kernel.in_flight = _bytes_in_flight(instructions)


def kernels_of(cubin: Path, arch: int) -> list[Kernel]:
    """The kernels of a cubin."""
    cuobjdump = find_cuobjdump()
    assert cuobjdump is not None, "there is no cuobjdump"
    kernels: dict[str, Kernel] = {}
    for name, line in re.findall(r"Function ([^\n:]+):\n([^\n]*)", _output(cuobjdump, "-res-usage", cubin)):
        usage = {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", line)}
        shared = usage["SHARED"] - (RESERVED_SHARED_BYTES if arch >= 90 else 0)
        kernels[name] = Kernel(name, arch, usage["REG"], usage["STACK"] + usage["LOCAL"], max(0, shared))
    code: dict[str, list[str]] = {}
    for line in _output(cuobjdump, "-sass", cubin).splitlines():
        if match := re.search(r"Function : (\S+)", line):
            instructions = code.setdefault(match[1], [])
        elif match := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([^;]*);", line):
            instructions.append(match[1])
    for name, instructions in code.items():
        _count(kernels[name], instructions)
    names = _output("c++filt", text="\n".join(kernels)).splitlines()
    for kernel, name in zip(kernels.values(), names, strict=True):
        kernel.name = _short(name)
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
        for name in ("doubles", "generic", "strong"):
            count, limit = getattr(kernel, name), getattr(self, name)
            checks[f"{count} {name}, at most {limit}"] = limit is None or count <= limit
        return [f"sm_{kernel.arch} {kernel.name}: {told}" for told, holds in checks.items() if not holds]


def read_budget(path: Path = BUDGET) -> dict[str, list[Budget]]:
    """The budgets by name of the source."""
    return {source: [Budget(**row) for row in rows] for source, rows in yaml.safe_load(path.read_text()).items()}


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
    budgets = read_budget()
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
    if arguments.markdown:
        print(markdown(found, budgets))
    print("\n".join(broken))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
