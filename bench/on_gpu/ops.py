"""Stages of the fused ops: check each result, then time it with cold and warm caches, together with a copy."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from bench.harness import check_results, copy_of
from bench.on_gpu.stage import Context, Row, Task, first_line
from bench.on_gpu.timer import Launches, Times
from bench.problems import (
    GAN_SIDES,
    L1_SHAPES,
    Function,
    FusedNormCase,
    Problem,
    gan_loss_problem,
    instance_norm_stats_problem,
    name_of,
)
from bench.problems import weighted_l1_problem as weighted_l1
from fastmunit.errors import ImplementationError
from fastmunit.testing import Map, munit_maps, uninitialized_memory_is_nan

FORMS = ((torch.float32, "nchw"), (torch.bfloat16, "channels_last"))
"""Dtypes and layouts in which systems train."""


def tasks(context: Context, *, implementations: Sequence[str], with_compiled: bool = False) -> list[Task]:
    """Return a task per op, map, layout and pass, starting with fused_norm.

    Args:
        context: Settings of the stage.
        implementations: Our implementations to check and time.
        with_compiled: Also time plain PyTorch, eager and under torch.compile, in the same rounds.
    """
    measure = partial(rows, context, implementations=implementations, with_compiled=with_compiled)
    found = [
        Task(
            f"{case.name} {case.passes} {case.shape} {case.layout} {name_of(case.dtype)}",
            partial(_of_case, case, partial(measure, partial(case.problem, context.device))),
        )
        for case in _cases(context)
    ]
    return found + [Task(name, partial(measure, problem)) for name, problem in _other_problems(context)]


def _of_case(case: FusedNormCase, measured: Callable[[], Iterator[Row]]) -> Iterator[Row]:
    """Yield the rows of a case, which name the case."""
    for row in measured():
        yield {**head_of(case), **row}


def head_of(case: FusedNormCase) -> Row:
    """Return the fields that identify a case of fused_norm."""
    return {
        "function": "fused_norm",
        "op": case.name,
        "statistics": case.options["statistics"],
        "shape": list(case.shape),
        "layout": case.layout,
        "dtype": name_of(case.dtype),
        "pass": case.passes,
    }


def _cases(context: Context) -> list[FusedNormCase]:
    """Return the cases of fused_norm; in a dry run, one map per kind of op."""
    cases = fused_norm_cases(context.size)
    if not context.dry_run:
        return list(cases)
    return list({(case.name, case.layout, case.passes): case for case in cases}.values())


def fused_norm_cases(size: int) -> Iterator[FusedNormCase]:
    """Yield the benchmark cases for images of `size`²: each map in all of `FORMS` and passes."""
    for each in _selected(munit_maps(size)):
        for dtype, layout in FORMS:
            for backward in (False, True):
                yield _case(each, dtype, layout, backward)


def _selected(maps: Sequence[Map]) -> list[Map]:
    """Return maps with statistics and the discriminators' largest, most important first, as time may run out."""
    plain = [m for m in maps if m.statistics == "instance" and m.weight == "none" and not m.residual]
    layer = [m for m in maps if m.statistics == "layer"]
    discriminators = [m for m in maps if m.network == "discriminator" and m.pad][:3]  # of the first scale
    residual = [m for m in maps if m.weight == "style" and m.residual and m.pad]
    return [*plain, *layer, *discriminators[:1], *residual, *discriminators[1:]]


def _case(each: Map, dtype: torch.dtype, layout: str, backward: bool) -> FusedNormCase:
    channels = (each.channels,)
    per_sample = (1, each.channels)
    parameters: dict[str, tuple[tuple[int, ...] | None, tuple[int, ...] | None]] = {
        "none": (None, None),
        "channel": (channels, channels),
        "style": (per_sample, per_sample),
    }
    pixel_shuffle = each.statistics == "layer"  # written by an upsampling convolution
    name = f"{'bias' if each.statistics == 'none' else each.statistics} + {each.activation} + pad {each.pad}"
    return FusedNormCase(
        name=name + " + residual" * each.residual + " + pixel shuffle" * pixel_shuffle,
        shape=(1, each.channels, each.height, each.width),
        dtype=dtype,
        layout=layout,
        options={
            "statistics": each.statistics,
            "activation": each.activation,
            "pad": each.pad,
            "pixel_shuffle": pixel_shuffle,
        },
        backward=backward,
        parameters=(None, channels) if each.statistics == "none" else parameters[each.weight],
        parameters_learn=True,
        residual=each.residual,
    )


def _other_problems(context: Context) -> list[tuple[str, Callable[[], Problem]]]:
    size = context.size
    shapes = [(c, -(-h * size // 256), -(-w * size // 256)) for c, h, w in L1_SHAPES]
    found: list[tuple[str, Callable[[], Problem]]] = []
    for dtype, layout in FORMS:
        name = f"weighted_l1 forward+backward {layout} {name_of(dtype)}"
        found.append((name, partial(weighted_l1, shapes, 1, dtype, layout, context.device)))
    for system in GAN_SIDES:
        name = f"gan_loss forward+backward {system} bfloat16"
        found.append((name, partial(gan_loss_problem, system, 1, torch.bfloat16, "lsgan", context.device)))
    for dtype, layout in FORMS:
        for backward in (False, True):
            shape = (1, 64, size, size)
            name = f"instance_norm_stats forward{'+backward' * backward} {shape} {layout} {name_of(dtype)}"
            problem = partial(
                instance_norm_stats_problem, shape, dtype, layout, backward=backward, device=context.device
            )
            found.append((name, problem))
    return found


def rows(
    context: Context, make: Callable[[], Problem], *, implementations: Sequence[str], with_compiled: bool
) -> Iterator[Row]:
    """Check and time an op. Yield a row per competitor that was timed and per implementation of ours that was not."""
    problem = make()
    functions: dict[str, Function] = {}
    errors: dict[str, float] = {}
    for implementation in implementations:
        function = partial(problem.ours, implementation=implementation)
        status, reason = None, None
        try:
            errors[implementation] = error_of(problem, function)
        except ImplementationError as error:
            status, reason = "skipped", first_line(error)
        except AssertionError as error:
            status, reason = "wrong", first_line(error)
        if status is None:
            functions[implementation] = function
        else:
            yield {"implementation": implementation, "status": status, "reason": reason}
    if with_compiled:
        torch.compiler.reset()
        functions["eager"] = problem.reference
        compiled = torch.compile(problem.reference, **context.compile_options())
        try:
            problem.results(compiled)
            functions["compiled"] = compiled
        except Exception as error:  # a compiler may fail in any way; the others are still timed
            yield {"implementation": "compiled", "status": "failed", "reason": first_line(error)}
    if functions:
        yield from _timed(context, problem, functions, errors)


def error_of(problem: Problem, function: Function) -> float:
    """Return the largest error of the results of `function`, relative to float64.

    Raises:
        AssertionError: If a result is less exact than that of plain PyTorch, has values that were never written, or
            differs between two runs.
    """
    with uninitialized_memory_is_nan():
        results = problem.results(function)
    again = problem.results(function)
    exact = problem.exact()
    check_results(problem.op, results, problem.results(problem.reference), exact, problem.scales)
    for index, (first, second) in enumerate(zip(results, again, strict=True)):
        assert torch.equal(first, second), f"{problem.op}, result {index}: two runs differ"
    scales = problem.scales or [None] * len(exact)
    return max(_relative(*each) for each in zip(results, exact, scales, strict=True))


def _relative(result: Tensor, exact: Tensor, scale: float | None) -> float:
    scale = float(exact.abs().max()) if scale is None else scale
    return float((result.double() - exact).abs().max()) / max(scale, torch.finfo(result.dtype).tiny)


def _timed(
    context: Context, problem: Problem, functions: dict[str, Function], errors: dict[str, float]
) -> Iterator[Row]:
    """Time the competitors and the copy in the same rounds."""
    sets = [problem] + [problem.fresh() for _ in range(context.timer.sets(problem.bytes_moved) - 1)]
    launches = {
        name: Launches([partial(each.results, function) for each in sets], problem.bytes_moved)
        for name, function in functions.items()
    }
    launches["copy"] = Launches([copy_of(problem.bytes_moved) for _ in sets], problem.bytes_moved)
    times = context.timer.times(launches)
    for name, seconds in times.items():
        yield {
            "implementation": name,
            "us_cold": seconds.cold * 1e6,
            "us_warm": seconds.warm * 1e6,
            **_ratios(seconds, times),
            "error": errors.get(name),
            "bytes_moved": problem.bytes_moved,
            "buffer_sets": len(sets),
        }


def _ratios(seconds: Times, times: dict[str, Times]) -> Row:
    """Return ours / copy, and compiled and eager / ours."""
    row: Row = {
        "times_copy_cold": seconds.cold / times["copy"].cold,
        "times_copy_warm": seconds.warm / times["copy"].warm,
    }
    for other in ("compiled", "eager"):
        if other in times:
            row[f"{other}_over_this_cold"] = times[other].cold / seconds.cold
            row[f"{other}_over_this_warm"] = times[other].warm / seconds.warm
    return row
