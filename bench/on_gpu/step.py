"""Stages of a whole MUNIT iteration: 256², batch 1, bfloat16, channels_last, the public configuration."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from types import ModuleType
from typing import Any

import torch

from bench.on_gpu.stage import Context, Row, SkippedError, Task
from fastmunit import functional

PRECISION = "bfloat16"
_OVERRIDES = ("memory_format=channels_last",)  # what auto stands for in this precision
_TINY = (
    "gen.dim=4", "gen.n_res=1", "gen.mlp_dim=8", "gen.n_downsample=1", "dis.dim=4", "dis.n_layer=1", "dis.num_scales=1",
    "display_size=1",
)  # fmt: skip
_TINY_SIZE = 32


def tasks(context: Context) -> Sequence[Task]:
    """Return the steps without torch.compile: the reference's, then ours with and without graph and cuDNN search."""
    require_steps()
    found = [Task("reference_step, eager", partial(_reference, context))]
    for implementation, graph, benchmark in (
        ("auto", True, True),
        ("auto", False, True),
        ("triton", True, True),
        ("auto", True, False),
        ("auto", False, False),
    ):
        name = f"ours, {implementation}, {'graph' if graph else 'no graph'}, cudnn.benchmark {benchmark}"
        found.append(Task(name, partial(_ours, context, implementation, graph, benchmark)))
    return found


def compiled_tasks(context: Context) -> Sequence[Task]:
    """Return the reference step with its networks under torch.compile."""
    require_steps()
    return [
        Task(f"reference_step, torch.compile {mode}", partial(_reference, context, mode))
        for mode in ("reduce-overhead", "default")  # the faster one first: there may be no time for both
    ]


def require_steps() -> ModuleType:
    """Return bench.steps. Raises SkippedError if a package that configurations need is not installed."""
    try:
        from bench import steps
    except ImportError as error:
        raise SkippedError(f"whole steps need the packages that fastmunit.systems imports: {error}") from error
    return steps


def _size(context: Context) -> int:
    return _TINY_SIZE if context.dry_run else require_steps().SIZE


def _overrides(context: Context) -> tuple[str, ...]:
    return (*_OVERRIDES, *(_TINY if context.dry_run else ()))


def our_step(
    context: Context, *, graph: bool, search: bool = True, precision: str = PRECISION, batch: int = 1
) -> Callable[[], None]:
    """Return a call that runs our step on a new trainer, with or without a CUDA graph and cuDNN's search."""
    steps = require_steps()
    cuda_graph = "auto" if graph else "false"  # auto uses a graph on a GPU, but not in a dry run
    layout = () if precision == PRECISION else ("memory_format=auto",)
    options = (*layout, f"cuda_graph={cuda_graph}", f"cudnn_search={search}")
    trainer = steps.trainer_of(precision, *_overrides(context), *options)
    return partial(steps.our_step, trainer, *steps.images(batch, _size(context)))


def _ours(context: Context, implementation: Any, graph: bool, benchmark: bool) -> Iterator[Row]:
    with functional.use_implementation(implementation):
        _require(context, implementation)
        error = _losses_error(context, implementation)
        torch.backends.cudnn.benchmark = benchmark
        yield {
            "implementation": implementation,
            "graph": graph,
            "cudnn_benchmark": benchmark,
            "largest_loss_error": error,
            **timed(context, our_step(context, graph=graph, search=benchmark)),
        }


def _require(context: Context, implementation: str) -> None:
    """Raise SkippedError if an implementation cannot run."""
    from fastmunit.ops.availability import unavailable

    if implementation != "auto" and (reason := unavailable(implementation, context.device, "fused_norm")):
        raise SkippedError(reason)


@cache
def _losses_error(context: Context, implementation: str) -> float:
    """Return the largest relative error of the losses of a first step. A wrong step is not timed."""
    torch.backends.cudnn.benchmark = False
    return require_steps().check_losses(PRECISION, *_overrides(context), size=_size(context))


def _reference(context: Context, mode: str | None = None) -> Iterator[Row]:
    steps = require_steps()
    torch.backends.cudnn.benchmark = True
    trainer = steps.trainer_of(PRECISION, *_overrides(context), fused_adam=False)
    if mode is not None:
        torch.compiler.reset()
        # A dry run does not even trace: that takes seconds for all networks, and the tests of `compile: true` do it.
        steps.compile_as_a_user_would(
            trainer, **({"disable": True} if context.dry_run else context.compile_options(mode))
        )
    images = steps.images(size=_size(context))

    def step() -> None:
        torch.compiler.cudagraph_mark_step_begin()
        steps.plain_step(trainer, *images)

    yield {"cudnn_benchmark": True, **timed(context, step)}


def timed(context: Context, step: Callable[[], None]) -> Row:
    """Return the milliseconds of a step and, on a GPU, its peak memory."""
    if not context.dry_run:
        torch.cuda.reset_peak_memory_stats()
    rounds = context.timer.step_seconds(step)
    row: Row = {"ms": sorted(rounds)[len(rounds) // 2] * 1e3, "ms_of_rounds": [seconds * 1e3 for seconds in rounds]}
    if not context.dry_run:
        row["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return row
