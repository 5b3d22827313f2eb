"""Training in several processes, each with its share of every batch.

The weights are those of one process, up to rounding. A script calls `setup` first and is started by torchrun. Every
system then averages gradients and losses over the processes by itself; `share` selects a process's images from a batch.
Without torchrun nothing changes.

Example::

    import fastmunit

    device = fastmunit.distributed.setup()
    trainer = fastmunit.MUNIT(config).to(device)
    trainer.step(trainer.share(images_a).to(device), trainer.share(images_b).to(device))
"""

from fastmunit.distributed.batch import apart, draw, gather, positions, require_divisible, share
from fastmunit.distributed.collectives import all_agree, average, barrier, gather_objects
from fastmunit.distributed.overlap import OverlappedAverage
from fastmunit.distributed.processes import (
    DEFAULT_TIMEOUT,
    doing,
    has_group,
    is_active,
    launched,
    local_world_size,
    rank,
    remember,
    remembered,
    restarted,
    setup,
    shutdown,
    world_size,
)
from fastmunit.distributed.work import (
    Together,
    announces_failure,
    block,
    each,
    each_for_first,
    exchange,
    first_per_machine,
    on_first,
    require_same,
)

__all__ = [
    "DEFAULT_TIMEOUT",
    "OverlappedAverage",
    "Together",
    "all_agree",
    "announces_failure",
    "apart",
    "average",
    "barrier",
    "block",
    "doing",
    "draw",
    "each",
    "each_for_first",
    "exchange",
    "first_per_machine",
    "gather",
    "gather_objects",
    "has_group",
    "is_active",
    "launched",
    "local_world_size",
    "on_first",
    "positions",
    "rank",
    "remember",
    "remembered",
    "require_divisible",
    "require_same",
    "restarted",
    "setup",
    "share",
    "shutdown",
    "world_size",
]
