"""The stage that times fused_norm with other launch tables, together with a copy of the same bytes."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from bench.harness import copy_of
from bench.on_gpu.library import THREADS, Builds, Device, LaunchError, Library, Maps, Plan
from bench.on_gpu.ops import error_of, fused_norm_cases, head_of
from bench.on_gpu.stage import Context, Row, Task, first_line
from bench.on_gpu.timer import Launches, Times
from bench.problems import Function, FusedNormCase, Problem, name_of

CLUSTERS = (2, 4, 8, 16)
DEFAULT = "as planned"

# The maps and the GPU of a dry run, chosen so that every kind of plan occurs.
_DRY_SIZE = 32
_DRY_THREADS = (256, 128)
_DRY_DEVICE = Device(multiprocessors=4, cluster=8, dependent_launches=True)


@dataclass(frozen=True)
class Variant:
    """A change of the launch table.

    Attributes:
        name: Name in the report.
        tile: Number of steps per tile, relative to the plan.
        cluster: Largest number of blocks per cluster.
        dependent: Allow dependent launches.
    """

    name: str
    tile: float = 1.0
    cluster: int = 8
    dependent: bool = True

    def device(self, device: Device, steps: int) -> Device:
        """Return the device for the launch table; `steps` is the planned number of steps per tile."""
        return replace(
            device,
            cluster=min(self.cluster, device.cluster),
            dependent_launches=self.dependent and device.dependent_launches,
            max_steps=device.max_steps if self.tile == 1 else max(1, round(steps * self.tile)),
        )


VARIANTS = (
    Variant(DEFAULT),
    Variant("no clusters", cluster=1),
    Variant("half tiles", tile=1 / 2),
    Variant("clusters of 4", cluster=4),
    Variant("no dependent launches", dependent=False),
    Variant("quarter tiles", tile=1 / 4),
    Variant("clusters of 2", cluster=2),
    Variant("half tiles, no clusters", tile=1 / 2, cluster=1),
    Variant("no clusters, no dependent launches", cluster=1, dependent=False),
)
"""In order of expected speed."""


@dataclass(frozen=True)
class Candidate:
    """A variant of one library on one map.

    Attributes:
        variant: The change of the launch table.
        variants: Names of the changes with the same plan.
        threads: Threads per block.
        device: The GPU as the launch table sees it.
        plan: The plan of the launch table.
        function: A Forward or a Backward.
    """

    variant: Variant
    variants: Sequence[str]
    threads: int
    device: Device
    plan: Plan
    function: Function

    @property
    def name(self) -> str:
        """A name that is unique for a map."""
        return f"{self.threads} threads, {self.variant.name}"

    def params(self) -> Row:
        """Return the parameters for `tools/fit_launch_table.py`, and the plan of the launch table."""
        return {
            "threads": self.threads,
            "tile": self.variant.tile,
            "cluster_limit": self.device.cluster,
            "dependent_launches": self.device.dependent_launches,
            **{key: value for key, value in vars(self.plan).items() if key != "workspace_doubles"},
        }


def tasks(context: Context) -> Sequence[Task]:
    """Return the tasks: compile, then all variants with the package's number of threads, then with others.

    Raises:
        SkippedError: If the libraries are not compiled and there is no compiler.
    """
    builds = Builds(None if context.dry_run else _arch())
    sizes = _DRY_THREADS if context.dry_run else THREADS
    found = [
        Task("compile", partial(_compile, builds, sizes)),
        Task("active clusters", partial(_active_clusters, builds)),
    ]
    first, *others = sizes
    cases = _cases(context)
    for threads, of_threads in (([first], cases), ([first, *others], cases[:4] if context.dry_run else cases)):
        for case in of_threads:
            of_case = f"{case.name} {_pass_of(case)} {case.shape} {case.layout} {name_of(case.dtype)}"
            name = f"{'/'.join(map(str, threads))} threads, {of_case}"
            found.append(Task(name, partial(rows, context, builds, case, threads)))
    return found


def _pass_of(case: FusedNormCase) -> str:
    return "backward" if case.backward else "forward"


def _arch() -> int:
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor


def _device(context: Context) -> Device:
    if context.dry_run:
        return _DRY_DEVICE
    properties = torch.cuda.get_device_properties(0)
    has_clusters = properties.major >= 9
    return Device(properties.multi_processor_count, 8 if has_clusters else 1, has_clusters)


def _cases(context: Context) -> list[FusedNormCase]:
    """Return the benchmark cases; in a dry run, one map per kind of op."""
    cases = fused_norm_cases(_DRY_SIZE if context.dry_run else context.size)
    if not context.dry_run:
        return list(cases)
    found: dict[tuple[str, str, bool], FusedNormCase] = {}
    for case in cases:
        found.setdefault((case.name, case.layout, case.backward), case)
    return list(found.values())


def _compile(builds: Builds, sizes: Sequence[int]) -> Iterator[Row]:
    """Start to compile all libraries; wait for the first, whose variants are timed first."""
    begun = time.monotonic()
    for threads in sizes:
        builds.start(threads)
    library = builds.wait(sizes[0])
    yield {"threads": library.threads, "seconds": time.monotonic() - begun}


def _active_clusters(builds: Builds) -> Iterator[Row]:
    """Yield the number of clusters of each size that the GPU can run together, and the largest size that fits."""
    library = builds.wait(THREADS[0])
    found = {size: library.active_clusters(size) for size in CLUSTERS}
    if None in found.values():
        yield {"status": "skipped", "reason": "a dry run has no device"}
        return
    largest = max((size for size, clusters in found.items() if clusters), default=1)
    yield {"active_clusters": {str(size): clusters for size, clusters in found.items()}, "largest_cluster": largest}


class Forward:
    """The forward pass of a library for maps of one kind, as a function of x, weight, bias and residual."""

    def __init__(self, library: Library, device: Device, case: FusedNormCase, plan: Plan) -> None:
        self._launch = partial(library.forward, device, options=case.options, plan=plan)

    def __call__(self, *tensors: Tensor | None) -> Tensor:
        """Return the padded map."""
        return self._launch(_maps(tensors))[0]


class Backward:
    """The backward pass of a library for maps of one kind, as a function of all tensors of its problem."""

    def __init__(self, library: Library, device: Device, case: FusedNormCase, plan: Plan) -> None:
        self._launch = partial(library.backward, device, options=case.options, plan=plan)

    def __call__(self, tensors: Sequence[Tensor | None]) -> list[Tensor]:
        """Return the gradients of x and, if present, of weight, bias and residual."""
        *maps, mean, rstd = tensors
        assert mean is not None
        assert rstd is not None
        return self._launch(_maps(_inner(maps)), mean=mean, rstd=rstd)


def _maps(tensors: Sequence[Tensor | None]) -> Maps:
    x, *others = tensors
    assert x is not None
    return Maps(x, *others)


def _inner(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Return x, weight, bias, residual and gradient of a problem as the op receives them."""
    x, weight, bias, residual, upstream = tensors
    return [x, weight, bias, None if residual is None else residual[:, :, 1:-1, 1:-1], upstream]


def problem_of(case: FusedNormCase, context: Context, library: Library) -> Problem:
    """Return the problem of a case; for a case with backward, only the backward pass."""
    problem = case.problem(context.device)
    if not case.backward:
        return problem
    forward = replace(case, backward=False)
    device = _device(context)
    maps = _maps(_inner(problem.tensors)[:4])
    plan = library.plan(device, maps, case.options)
    _, mean, rstd = library.forward(device, maps, case.options, plan)

    def run(function: Function, tensors: Sequence[Tensor | None]) -> Sequence[Tensor]:
        if isinstance(function, Backward):
            return function(tensors)
        return problem.run(function, tensors[:5])[1:]

    return replace(
        problem,
        op=f"{case.name} backward",
        tensors=[*problem.tensors, mean, rstd],
        run=run,
        bytes_moved=problem.bytes_moved - forward.problem("meta").bytes_moved,
        scales=None if problem.scales is None else problem.scales[1:],
    )


def candidates(library: Library, device: Device, problem: Problem, case: FusedNormCase) -> list[Candidate]:
    """Return the variants of a library that have different plans for a map."""
    maps = _maps(_inner(problem.tensors[:5]))
    kind = Backward if case.backward else Forward
    steps = library.plan(device, maps, case.options).steps
    found: dict[object, list[tuple[Variant, Device, Plan]]] = {}
    for variant in VARIANTS:
        changed = variant.device(device, steps)
        plan = library.plan(changed, maps, case.options)
        found.setdefault((plan, plan.split and changed.dependent_launches), []).append((variant, changed, plan))
    return [
        Candidate(
            variant, [other.name for other, _, _ in same], library.threads, gpu, plan, kind(library, gpu, case, plan)
        )
        for same in found.values()
        for variant, gpu, plan in same[:1]
    ]


def rows(context: Context, builds: Builds, case: FusedNormCase, threads: Sequence[int]) -> Iterator[Row]:
    """Check and time the candidates for a map. Yield a row per candidate, with its time or the reason why it has none.

    With several numbers of threads, only the default of the first is timed, and all candidates of the others.
    """
    first, *others = (builds.wait(each) for each in threads)
    problem = problem_of(case, context, first)
    found = candidates(first, _device(context), problem, case)
    if others:
        found = found[:1]
    for library in others:
        found += candidates(library, _device(context), problem, case)
    correct: dict[str, tuple[Candidate, float]] = {}
    for candidate in found:
        try:
            correct[candidate.name] = (candidate, error_of(problem, candidate.function))
        except AssertionError as error:
            yield {**_head(case, candidate), "status": "wrong", "reason": first_line(error)}
        except LaunchError as error:
            yield {**_head(case, candidate), "status": "failed", "reason": first_line(error)}
    times = _times(context, problem, {name: candidate.function for name, (candidate, _) in correct.items()})
    for name, (candidate, error) in correct.items():
        yield {
            **_head(case, candidate),
            "us_cold": times[name].cold * 1e6,
            "us_warm": times[name].warm * 1e6,
            "us_copy_cold": times["copy"].cold * 1e6,
            "us_copy_warm": times["copy"].warm * 1e6,
            "max_error": error,
        }


def _head(case: FusedNormCase, candidate: Candidate) -> Row:
    return {
        "variant": candidate.name,
        "variants": list(candidate.variants),
        "params": candidate.params(),
        **head_of(case),
        "pass": _pass_of(case),
    }


def _times(context: Context, problem: Problem, functions: dict[str, Callable[..., object]]) -> dict[str, Times]:
    """Time the candidates and the copy in the same rounds."""
    sets = [problem] + [problem.fresh() for _ in range(context.timer.sets(problem.bytes_moved) - 1)]
    launches = {
        name: Launches([partial(each.results, function) for each in sets], problem.bytes_moved)
        for name, function in functions.items()
    }
    launches["copy"] = Launches([copy_of(problem.bytes_moved) for _ in sets], problem.bytes_moved)
    return context.timer.times(launches)
