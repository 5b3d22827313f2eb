"""Model of the time that CUDA kernels take: bytes, issue slots, round trips to memory, and what a block waits for.

A kernel is a sequence of phases, such as loading, moments, writing, which a block runs one after the other. A phase
takes the longest of

- bytes / bandwidth,
- executed instructions of the multiprocessor with the most blocks / its schedulers / instructions per cycle,
- round trips to memory: bytes that a block loads / its bytes in flight, for each wave of resident blocks,

and what its blocks wait for at barriers, in each wave. `FITTED` has the numbers that were fitted to measurements of an
H100, once for all kernels.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tests.cuda.fused_norm_requests import Device

WARP = 32
SCHEDULERS = 4  # of a multiprocessor; each issues up to one instruction of a warp per cycle


@dataclass(frozen=True)
class Fitted:
    """Numbers of the model that no specification says.

    Attributes:
        call_us: Microseconds of a measured call that moves nothing: events, graph and launch. From the copies of
            docs/benchmarks.md, all of which the line call_us + bytes / bandwidth meets.
        bandwidth_share: Part of the memory's peak bandwidth that those copies reach: 2.3 of 3.35 TB/s.
        instructions_per_cycle: That a scheduler issues while it has work. Fitted to the eight measured calls.
        round_trip_us: From a load to its value where the level-two cache has to make room. Fitted to the same.
        cache_bandwidth_ratio: Bandwidth of the level-two cache over the peak of the memory: 5 to 3.35 TB/s. A guess.
        cached_round_trip_us: The same where that cache has the value: 270 cycles, twice that under load. A guess.
        launch_us: Of each further launch of a call: the end of one kernel and the start of the next. A guess.
        dependent_launch_us: The same where the next one is launched ahead and waits. A guess.
        block_sum_us: A sum over a block with its barriers: 300 cycles, counted.
        scalars_us: Mean, scale and shift, by one thread in float64: some 500 cycles, counted.
        cluster_us: A barrier of a cluster and the reads of other blocks' moments behind it. A guess.
    """

    call_us: float = 4.8
    bandwidth_share: float = 2.3 / 3.35
    instructions_per_cycle: float = 0.7
    round_trip_us: float = 0.85
    cache_bandwidth_ratio: float = 5 / 3.35
    cached_round_trip_us: float = 0.3
    launch_us: float = 1.25
    dependent_launch_us: float = 0.6
    block_sum_us: float = 0.17
    scalars_us: float = 0.3
    cluster_us: float = 0.6


FITTED = Fitted()


@dataclass(frozen=True)
class Gpu:
    """Specification of a GPU.

    Attributes:
        arch: Compute capability, 90 for 9.0.
        device: What launch tables ask.
        peak_terabytes_per_second: Bandwidth of its memory.
        gigahertz: Clock of its multiprocessors.
        cache_bytes: Of its level-two cache.
    """

    arch: int
    device: Device
    peak_terabytes_per_second: float
    gigahertz: float
    cache_bytes: int

    def memory_us(self, count: float, *, cached: bool = False) -> float:
        """Return the microseconds that it takes to move `count` bytes."""
        share = FITTED.cache_bandwidth_ratio if cached else FITTED.bandwidth_share
        return count / (self.peak_terabytes_per_second * share) * 1e-6

    def issue_us(self, instructions: float) -> float:
        """Return the microseconds that a multiprocessor takes to issue instructions of warps."""
        return instructions / (SCHEDULERS * FITTED.instructions_per_cycle * self.gigahertz) * 1e-3

    def copy_us(self, count: float) -> float:
        """Return the microseconds of a call that copies, `count` bytes read and written."""
        return FITTED.call_us + self.memory_us(count)


GPUS = {
    "A100": Gpu(80, Device(108, 163 * 1024, 1), 1.94, 1.41, 40 * 2**20),
    "H100": Gpu(90, Device(132, 227 * 1024, 16), 3.35, 1.755, 50 * 2**20),
    "H200": Gpu(90, Device(132, 227 * 1024, 16), 4.8, 1.755, 50 * 2**20),
    "RTX 4090": Gpu(89, Device(128, 99 * 1024, 1), 1.008, 2.52, 72 * 2**20),
}


@dataclass(frozen=True)
class Phase:
    """Part of a kernel.

    Attributes:
        instructions: That a thread executes.
        bytes_moved: That all blocks read and write together.
        cached: Whether the level-two cache has these bytes.
        round_trips: Loads of a thread that it makes one behind the other.
        wait_us: At barriers and for single threads.
    """

    instructions: float = 0
    bytes_moved: float = 0
    cached: bool = False
    round_trips: int = 0
    wait_us: float = 0


@dataclass(frozen=True)
class Launch:
    """Launch of a kernel.

    Attributes:
        blocks: Of the grid.
        threads: Of a block.
        resident: Blocks that a multiprocessor has room for.
        phases: What a block does, in order.
        dependent: Whether it is launched ahead of the end of the one before.
    """

    blocks: int
    threads: int
    resident: int
    phases: Sequence[Phase]
    dependent: bool = False

    def parts(self, gpu: Gpu) -> Counter[str]:
        """Return the microseconds by what takes them, without those of the launch."""
        multiprocessors = gpu.device.multiprocessors
        waves = math.ceil(self.blocks / (multiprocessors * self.resident))
        warps = math.ceil(self.blocks / multiprocessors) * math.ceil(self.threads / WARP)
        parts: Counter[str] = Counter()
        for phase in self.phases:
            round_trip = FITTED.cached_round_trip_us if phase.cached else FITTED.round_trip_us
            least = {
                "bytes": gpu.memory_us(phase.bytes_moved, cached=phase.cached),
                "issue slots": gpu.issue_us(phase.instructions * warps),
                "round trips": waves * phase.round_trips * round_trip,
            }
            longest = max(least, key=lambda name: least[name])
            parts.update({longest: least[longest], "barriers": waves * phase.wait_us})
        return parts


def call_parts(launches: Sequence[Launch], gpu: Gpu) -> Counter[str]:
    """Return the microseconds of a measured call of several kernels, by what takes them."""
    starts = [FITTED.dependent_launch_us if launch.dependent else FITTED.launch_us for launch in launches[1:]]
    return sum((launch.parts(gpu) for launch in launches), Counter({"launches": FITTED.call_us + sum(starts)}))


def call_us(launches: Sequence[Launch], gpu: Gpu) -> float:
    """Return the microseconds of a measured call of several kernels."""
    return sum(call_parts(launches, gpu).values())
