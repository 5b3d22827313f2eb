"""Predict the times of fused_norm's CUDA kernels on a GPU: `python -m bench.predict`. Predicted, not measured.

The launchers run on the emulator of tests/cuda, which reports the kernels with their grids and counts the bytes that
each loads and stores. bench/kernel_counts.yaml has the instructions and resources of the kernels' machine code
(tools/count_instructions.py). bench/gpu_model.py computes times from both. It was fitted to other kernels on an H100
(tests/cuda/test_gpu_model.py), with cold caches.

The cases are those that `bench.on_gpu` measures. "compiled" is torch.compile as measured on the H100.
"""

import argparse
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from bench.gpu_model import FITTED, GPUS, Gpu, Launch, Phase, call_parts
from bench.old_kernels import MEASURED
from bench.on_gpu.ops import fused_norm_cases
from bench.problems import FusedNormCase, name_of
from tests.cuda.emulated import Started
from tests.cuda.fused_norm_requests import Device, backward, forward
from tools.count_instructions import Counts, read_counts
from tools.gpu_budget import short_name

WHOLE, REDUCE, APPLY = "0", "1", "2"
"""The modes of a kernel, as numbers in its demangled name."""
COMBINE_ROUND_TRIPS = 2
"""Round trips to memory of a kernel that combines the results of tiles: one for these, one for the parameters."""
HEAD = (
    "map",
    "layout, dtype",
    "forward, µs",
    "ours / copy",
    "compiled / ours",
    "bound by",
    "forward + backward, µs",
    "compiled / ours",
    "bound by",
    "MB of both",
    "launches",
)


def kernels_of(case: FusedNormCase, device: Device) -> tuple[list[Started], list[Started]]:
    """Return the kernels that the launchers of forward and of backward start on a GPU."""
    n, c, h, w = case.shape
    options = case.options
    memory_format = torch.channels_last if case.layout == "channels_last" else torch.contiguous_format
    x = torch.zeros((n, 4 * c, h // 2, w // 2) if options.get("pixel_shuffle") else case.shape, dtype=case.dtype)
    x = x.contiguous(memory_format=memory_format)
    weight, bias = (None if size is None else torch.ones(size) for size in case.parameters)
    residual = None
    if case.residual:
        residual = torch.zeros((n, c, h + 2, w + 2), dtype=case.dtype).contiguous(memory_format=memory_format)
        residual = residual[:, :, 1:-1, 1:-1]
    padded, mean, rstd, first = forward(x, weight, bias, residual, options, device, count=True)
    needed = (case.parameters_learn, case.parameters_learn)
    given = (padded, None, x, mean, rstd, weight, bias, case.residual, options, device, needed)
    *_, second = backward(*given, count=True)
    return first.kernels, second.kernels


def launch_of(kernel: Started, counts: Counts, case: FusedNormCase, gpu: Gpu) -> Launch:
    """Return the launch of a kernel for the model.

    A kernel has three phases: it loads, computes sums and stores. Threads with less than a full tile skip stores, but
    not loads and sums. The second kernel that reads a map finds it in the level-two cache if it fits. A kernel without
    a mode combines the results of tiles, with a warp or a block per group.
    """
    found = re.search(r"Mode\)(\d)", kernel.name)
    wait = counts.barriers * FITTED.block_sum_us / 2  # a sum over a block has two barriers
    resident = counts.resident(gpu.arch, kernel.threads)
    if found is None:
        instructions = counts.load + counts.sums + counts.write
        phase = Phase(instructions, kernel.loaded, True, COMBINE_ROUND_TRIPS, wait + FITTED.scalars_us)
        return Launch(kernel.blocks, kernel.threads, resident, (phase,), kernel.dependent)
    mode = found[1]
    is_second = mode == APPLY and case.options["statistics"] != "none"
    if mode != REDUCE and not is_second:
        wait += FITTED.scalars_us
    if kernel.cluster > 1:
        wait += FITTED.cluster_us
    threads = kernel.blocks * kernel.threads
    values = math.prod(case.shape) / threads
    rounds = math.ceil(values / counts.values) if counts.again else 1
    further = 1 + (rounds - 1) * counts.again / (counts.load + counts.sums + counts.write)
    filled = min(1.0, values / (rounds * counts.values))
    round_trips = max(1, round(kernel.loaded / threads / counts.in_flight))
    phases = (
        Phase(further * counts.load, kernel.loaded, is_second and kernel.loaded <= gpu.cache_bytes, round_trips),
        Phase(further * counts.sums, wait_us=wait),
        Phase(further * filled * counts.write, kernel.stored),
    )
    return Launch(kernel.blocks, kernel.threads, resident, phases, kernel.dependent)


@dataclass(frozen=True)
class Prediction:
    """The predicted time of a case.

    Attributes:
        case: Map and pass.
        gpu: Name of the GPU.
        kernels: Kernels of the call.
        parts: Microseconds by cause.
    """

    case: FusedNormCase
    gpu: str
    kernels: Sequence[Started]
    parts: Counter[str]

    @property
    def us(self) -> float:
        """The time of a call in microseconds."""
        return sum(self.parts.values())

    @property
    def over_copy(self) -> float:
        """The time divided by that of a copy that reads each input and writes each output once."""
        return self.us / GPUS[self.gpu].copy_us(self.case.problem("meta").bytes_moved)

    @property
    def compiled_over_ours(self) -> float | None:
        """The time of torch.compile divided by it, or None if that was not measured on this GPU."""
        case, options = self.case, self.case.options
        if self.gpu != "H100" or options["statistics"] != "instance" or case.residual:
            return None
        for row in MEASURED:
            channels, side = row.shape
            if (1, channels, side, side) == case.shape and (row.layout, row.backward) == (case.layout, case.backward):
                return row.compiled_us / self.us
        return None

    @property
    def bound(self) -> str:
        """The two largest causes and their shares of the time."""
        return ", ".join(f"{name} {us / self.us:.0%}" for name, us in self.parts.most_common(2))


def predict(case: FusedNormCase, gpu: str, kernels: Sequence[Started], counts: Mapping[str, Counts]) -> Prediction:
    """Return the prediction of a case with the given kernels."""
    launches = [launch_of(kernel, counts[short_name(kernel.name)], case, GPUS[gpu]) for kernel in kernels]
    return Prediction(case, gpu, kernels, call_parts(launches, GPUS[gpu]))


def rows(gpu: str, size: int) -> Iterator[tuple[str, ...]]:
    """Yield the rows of the table of a GPU, without times if the instructions of a kernel are not counted."""
    counts = read_counts()[1]
    for case in fused_norm_cases(size):
        if case.backward:
            continue
        first, second = kernels_of(case, GPUS[gpu].device)
        times = ["–"] * 7
        if all(short_name(kernel.name) in counts for kernel in first + second):
            one = predict(case, gpu, first, counts)
            both = predict(replace(case, backward=True), gpu, first + second, counts)
            ratios = [f"{of:.2f}" if (of := each.compiled_over_ours) else "–" for each in (one, both)]
            times = [f"{one.us:.1f}", f"{one.over_copy:.2f}", ratios[0], one.bound]
            times += [f"{both.us:.1f}", ratios[1], both.bound]
        yield (
            f"{case.name}, {case.shape[1]} x {case.shape[2]} x {case.shape[3]}",
            f"{case.layout.replace('nchw', 'NCHW')}, {name_of(case.dtype)}",
            *times,
            f"{sum(kernel.loaded + kernel.stored for kernel in first + second) / 1e6:.1f}",
            f"{len(first)} + {len(second)}",
        )


def main() -> None:
    """Print a table per GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", choices=GPUS, nargs="*", default=list(GPUS))
    parser.add_argument("--size", type=int, default=256, help="height and width of the images")
    arguments = parser.parse_args()
    for gpu in arguments.gpu:
        print(f"{gpu}, predicted, not measured\n")
        print("| " + " | ".join(HEAD) + " |\n" + "|---" * len(HEAD) + "|")
        for cells in rows(gpu, arguments.size):
            print("| " + " | ".join(cells) + " |")
        print()


if __name__ == "__main__":
    main()
