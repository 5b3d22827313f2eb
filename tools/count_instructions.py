"""Count instructions and resources of fused_norm's kernels in their machine code, for the model in bench/gpu_model.py.

    python -m tools.count_instructions > bench/kernel_counts.yaml    # after each change of the kernels

The kernels are compiled for compute capability 9.0. `python -m bench.predict` reads the file, so predictions need no
nvcc. tests/cuda/test_budget.py checks that the file matches the machine code.

The instructions are those of the longest path (tools/sass.py), which a thread with a full tile executes. The path has
three parts: instructions up to the last load before the first barrier load the tile; those up to the last barrier
compute sums or moments; the others write the result.
"""

import re
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import yaml

from tools.gpu_budget import ROOT, Kernel, compile_cubin, kernels_of, nvcc_release
from tools.sass import Instruction, blocks_of, hot_blocks, longest_path, loops_of

COUNTS = ROOT / "bench" / "kernel_counts.yaml"
SOURCES = [ROOT / "csrc" / "fused_norm" / f"{name}.cu" for name in ("fused_norm", "fused_norm_backward")]
ARCH = 90
# Values of x per thread, by the whole name of the kernel. Other kernels are not counted: machine code does not tell how
# often the nested loops of kernels that work value by value run.
VALUES = {
    r"forward_rows<float, .*>": 32,
    r"forward_pixels<float, .*>": 32,
    r"forward_pixels<__nv_bfloat16, .*>": 64,
    r"backward_rows<float, .*>": 16,
    r"backward_pixels<float, .*>": 16,
    r"backward_pixels<__nv_bfloat16, .*>": 32,
    r"combine_moments|backward_combine": 1,
}


@dataclass(frozen=True)
class Counts:
    """The input of the model for a kernel.

    Attributes:
        values: Values of x that a thread holds at a time.
        registers: Registers per thread.
        shared_bytes: Static shared memory per block.
        in_flight: Largest number of bytes of a thread's loads from global memory that are in flight together.
        barriers: Number of barriers that a thread executes.
        load: Instructions that a thread executes up to its last load before the first barrier.
        sums: Instructions from there to the last barrier.
        write: Instructions after the last barrier.
        again: Instructions of the loop that processes a tile in rounds, included above; 0 if there is none.
    """

    values: int
    registers: int
    shared_bytes: int
    in_flight: int
    barriers: int
    load: int
    sums: int
    write: int
    again: int

    def resident(self, arch: int, threads: int) -> int:
        """Return the number of blocks that fit on a multiprocessor of a compute capability."""
        return Kernel("", arch, self.registers, 0, self.shared_bytes).blocks(threads)


def _without_tables(code: list[Instruction]) -> list[Instruction]:
    """Return the instructions with jumps through tables replaced by exits.

    Such a jump selects the dtype of weight or bias, which one thread does per channel.
    """
    return [replace(one, opcode="EXIT") if one.name in ("BRX", "JMX") else one for one in code]


def max_bytes_in_flight(instructions: Iterable[Instruction]) -> int:
    """Return the largest number of bytes in flight. Loads complete in order, at the latest when needed."""
    waiting: list[tuple[set[str], int]] = []
    largest = 0
    for one in instructions:
        used = re.findall(r"\bR\d+\b", one.operands)
        loads = one.name == "LDG" and bool(used)
        needed = set(used[1:] if loads else used)
        last = max((at for at, (registers, _) in enumerate(waiting) if registers & needed), default=-1)
        del waiting[: last + 1]
        if loads:
            first = int(used[0][1:])
            waiting.append(({f"R{first + k}" for k in range(max(1, one.bits // 32))}, one.bits // 8))
            largest = max(largest, sum(count for _, count in waiting))
    return largest


def counts_of(kernel: Kernel, values: int) -> Counts:
    """Return the counts of a kernel's machine code."""
    value_bytes = 2 if "bfloat16" in kernel.name else 4
    blocks = blocks_of(_without_tables(kernel.code))
    path = longest_path(blocks, values, value_bytes)
    executed = [(one, times) for k, times in path for one in blocks[k].instructions if one.name != "NOP"]
    barriers = [at for at, (one, _) in enumerate(executed) if one.name == "BAR"] or [len(executed)]
    loads = [at for at, (one, _) in enumerate(executed[: barriers[0]]) if one.name == "LDG"]
    loaded, summed = loads[-1] + 1 if loads else 0, barriers[-1]

    def count(begin: int, end: int | None) -> int:
        return sum(times for _, times in executed[begin:end])

    rounds = {k for loop in loops_of(blocks, hot_blocks(blocks)) for k in loop}
    return Counts(
        values,
        kernel.registers,
        kernel.shared_bytes,
        in_flight=max_bytes_in_flight(one for one, _ in executed),
        barriers=sum(times for one, times in executed if one.name == "BAR"),
        load=count(0, loaded),
        sums=count(loaded, summed),
        write=count(summed, None),
        # A loop that runs once to load the values of a thread runs again for the next round.
        again=sum(blocks[k].executed for k, times in path if k in rounds and times == 1),
    )


def all_counts(kernels: Iterable[Kernel]) -> dict[str, Counts]:
    """Return the counts of the kernels in `VALUES` by name."""
    found = {}
    for kernel in kernels:
        values = next((values for name, values in VALUES.items() if re.fullmatch(name, kernel.name)), None)
        if values is not None:
            found[kernel.name] = counts_of(kernel, values)
    return dict(sorted(found.items()))


def read_counts(path: Path = COUNTS) -> tuple[str, dict[str, Counts]]:
    """Return the release of nvcc that compiled the kernels, and their counts by name."""
    data = yaml.safe_load(path.read_text())
    return data["nvcc"], {name: Counts(**counts) for name, counts in data["kernels"].items()}


def main() -> None:
    """Print the YAML file."""
    kernels = []
    with tempfile.TemporaryDirectory() as folder:
        for source in SOURCES:
            cubin = Path(folder) / "kernels.cubin"
            compile_cubin(source, ARCH, cubin)
            kernels += kernels_of(cubin, ARCH)
    print("# Written by `python -m tools.count_instructions`, which documents the fields.")
    print(f'nvcc: "{nvcc_release()}"')
    print("kernels:")
    for name, counts in all_counts(kernels).items():
        fields = ", ".join(f"{field}: {value}" for field, value in asdict(counts).items())
        print(f'  "{name}": {{{fields}}}')


if __name__ == "__main__":
    main()
