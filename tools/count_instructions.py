"""What fused_norm's kernels execute and hold, read from their machine code for the model of bench/gpu_model.py.

    python tools/count_instructions.py > bench/kernel_counts.yaml    # after each change of the kernels

It compiles the kernels for compute capability 9.0. tests/cuda/test_budget.py holds the file to the machine code, and
`python -m bench.predict` reads it, so that a prediction takes no nvcc.

Instructions are those of the longest path of tools/sass.py, which a thread with a full tile takes: what runs until the
last load in front of the first barrier of its block loads the tile, what runs from there to the last barrier takes sums
or moments, and what runs behind writes.
"""

import re
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent))

from gpu_budget import ROOT, Kernel, compile_cubin, kernels_of, nvcc_release
from sass import Instruction, blocks_of, hot_blocks, longest_path, loops_of

COUNTS = ROOT / "bench" / "kernel_counts.yaml"
SOURCES = [ROOT / "csrc" / "fused_norm" / f"{name}.cu" for name in ("fused_norm", "fused_norm_backward")]
ARCH = 90
# Values of x that a thread holds at once, by whole name of the kernel. What is not here is not counted: machine code
# does not say how often the nested loops of kernels that go value by value run.
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
    """What the model knows of a kernel.

    Attributes:
        values: Of x, that a thread holds at once.
        registers: Of a thread.
        shared_bytes: Of a block.
        in_flight: Bytes of a thread's loads from global memory that are on their way together, at most.
        barriers: Of its block, that a thread comes to.
        load: Instructions that a thread executes until its last load in front of the first of them.
        sums: From there to the last barrier.
        write: Behind that.
        again: Of all these, those of the loop that loads another tile's values; 0 where there is none.
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
        """Blocks that a multiprocessor of a compute capability has room for."""
        return Kernel("", arch, self.registers, 0, self.shared_bytes).blocks(threads)


def _without_tables(code: list[Instruction]) -> list[Instruction]:
    """The instructions with jumps through tables as ends.

    Such a jump is the choice of a dtype of weight or bias, which one thread makes for each channel.
    """
    return [replace(one, opcode="EXIT") if one.name in ("BRX", "JMX") else one for one in code]


def most_in_flight(instructions: Iterable[Instruction]) -> int:
    """The most bytes of loads that are on their way together. Values arrive in order, at the latest when needed."""
    waiting: list[tuple[set[str], int]] = []
    most = 0
    for one in instructions:
        used = re.findall(r"\bR\d+\b", one.operands)
        loads = one.name == "LDG" and bool(used)
        needed = set(used[1:] if loads else used)
        last = max((at for at, (registers, _) in enumerate(waiting) if registers & needed), default=-1)
        del waiting[: last + 1]
        if loads:
            first = int(used[0][1:])
            waiting.append(({f"R{first + k}" for k in range(max(1, one.bits // 32))}, one.bits // 8))
            most = max(most, sum(count for _, count in waiting))
    return most


def counts_of(kernel: Kernel, values: int) -> Counts:
    """What the machine code says."""
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
        in_flight=most_in_flight(one for one, _ in executed),
        barriers=sum(times for one, times in executed if one.name == "BAR"),
        load=count(0, loaded),
        sums=count(loaded, summed),
        write=count(summed, None),
        # A loop that has to run once to load what a thread holds runs again for another tile.
        again=sum(blocks[k].executed for k, times in path if k in rounds and times == 1),
    )


def all_counts(kernels: Iterable[Kernel]) -> dict[str, Counts]:
    """The counts of those kernels that `VALUES` names, by their names."""
    found = {}
    for kernel in kernels:
        values = next((values for name, values in VALUES.items() if re.fullmatch(name, kernel.name)), None)
        if values is not None:
            found[kernel.name] = counts_of(kernel, values)
    return dict(sorted(found.items()))


def read_counts(path: Path = COUNTS) -> tuple[str, dict[str, Counts]]:
    """The release of nvcc that compiled the kernels, and their counts by name."""
    data = yaml.safe_load(path.read_text())
    return data["nvcc"], {name: Counts(**counts) for name, counts in data["kernels"].items()}


def main() -> None:
    """Print the file."""
    kernels = []
    with tempfile.TemporaryDirectory() as folder:
        for source in SOURCES:
            cubin = Path(folder) / "kernels.cubin"
            compile_cubin(source, ARCH, cubin)
            kernels += kernels_of(cubin, ARCH)
    print("# Written by tools/count_instructions.py, which says what this is.")
    print(f'nvcc: "{nvcc_release()}"')
    print("kernels:")
    for name, counts in all_counts(kernels).items():
        fields = ", ".join(f"{field}: {value}" for field, value in asdict(counts).items())
        print(f'  "{name}": {{{fields}}}')


if __name__ == "__main__":
    main()
