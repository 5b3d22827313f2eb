"""The estimate of the peak memory of a training: what its tensors take, and what the device adds."""

from __future__ import annotations

from dataclasses import dataclass

from fastmunit.config import Config
from fastmunit.planning import workspace
from fastmunit.planning.available import resident_memory
from fastmunit.planning.live_memory import GRADIENTS, SAVED, TEMPORARY, WEIGHTS, WORKSPACE, Peak
from fastmunit.planning.trace import Settings, TracedTraining

LIBRARIES = "Python and its libraries"
HEAP = "gaps between maps in the heap"
CONTEXT = "CUDA context"
GRIDS = "sample grids, in addition to the captured iteration"
BUFFER = "buffer for averaging gradients"

_MIB = 2**20
# Code that oneDNN generates, and libraries that are loaded at the first iteration. Measured on x86 with torch 2.14.
_CPU_KERNELS = 115 * _MIB
# glibc reuses freed memory below 32 MiB only for maps that fit into the gap. Measured as growth of processes beyond
# their tensors, divided by the maps that come and go.
_GAPS = 0.35
# No GPU's own bookkeeping is visible to torch. This is the usual order of magnitude.
_CUDA_CONTEXT = 500 * _MIB
# Workspaces of cuDNN and cuBLAS. With them the estimates are within 9 % of the four peaks measured on an H100.
_CUDA_WORKSPACE = 256 * _MIB
_CUDA_GRAPH_WORKSPACE = 384 * _MIB
_TRANSIENT = (SAVED, TEMPORARY, WORKSPACE)


@dataclass(frozen=True)
class Use:
    """The memory of a process that trains.

    Attributes:
        moment: When it takes the most, such as "an iteration".
        parts: Bytes at that moment, by what they are for.
    """

    moment: str
    parts: dict[str, int]

    @property
    def total(self) -> int:
        """All bytes."""
        return sum(self.parts.values())


class Estimator:
    """Estimates for one configuration with different settings.

    Args:
        config: Configuration of the training.
        device: Device type, "cpu" or "cuda"; other accelerators count as a GPU without CUDA graphs.
        processes: Number of processes, which share the batches.

    Raises:
        ConfigError: If the configuration is invalid.
    """

    def __init__(self, config: Config, device: str, processes: int = 1) -> None:
        self.config, self.device, self.processes = config, device, processes
        self._before = resident_memory()
        self._training = TracedTraining(config, workspace.on_cpu if device == "cpu" else _without_workspace)
        self._grids: Peak | None = None

    def use(self, settings: Settings) -> Use:
        """Return the memory of each process. `settings.batch_size` counts the images of all."""
        share = Settings(
            settings.batch_size // self.processes, settings.micro_batches, settings.recompute, settings.checkpointing
        )
        iteration = self._training.iteration(share)
        if self._grids is None:
            self._grids = self._training.sample_grids()
        parts, grids = dict(iteration.parts), dict(self._grids.parts)
        moments = {"an iteration": parts, "drawing sample grids": grids}
        if self._replays():  # the captured iteration keeps its memory
            parts[GRIDS] = sum(grids.get(part, 0) for part in (TEMPORARY, WORKSPACE))
        if self.processes > 1:
            weights = parts[WEIGHTS]
            kept = {part: size for part, size in parts.items() if part not in _TRANSIENT}
            moments["averaging gradients"] = {**kept, GRADIENTS: weights, BUFFER: weights}
        uses = [Use(moment, self._with_device(parts)) for moment, parts in moments.items()]
        return max(uses, key=lambda use: use.total)

    def growth(self, settings: Settings) -> int:
        """Return by how many bytes a process grows on the CPU while it trains, after its imports."""
        return self.use(settings).total - self._before

    def _replays(self) -> bool:
        return self.device == "cuda" and self.config.cuda_graph is not False and self.config.precision != "float16"

    def _with_device(self, parts: dict[str, int]) -> dict[str, int]:
        """Add what the device takes besides tensors."""
        if self.device == "cpu":
            gaps = int(_GAPS * sum(parts.get(part, 0) for part in _TRANSIENT))
            return {**parts, HEAP: gaps, LIBRARIES: self._before + _CPU_KERNELS}
        space = _CUDA_GRAPH_WORKSPACE if self._replays() else _CUDA_WORKSPACE
        return {**parts, WORKSPACE: space, CONTEXT: _CUDA_CONTEXT}


def _without_workspace(op: object, args: object, result: object) -> int:
    return 0
