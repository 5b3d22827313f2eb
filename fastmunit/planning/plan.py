"""The plan of a training: whether it fits in memory, and which settings would."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from fastmunit import distributed
from fastmunit.config import Config
from fastmunit.planning.estimate import Estimator, Use
from fastmunit.planning.trace import Settings
from fastmunit.systems import registry

MARGIN = 1.15
"""A training counts as fitting if this many times its estimate does: estimates are off by up to 15 %."""

_LARGEST_GROWTH = 16


@dataclass(frozen=True)
class Choice:
    """Settings with the memory that they take.

    Attributes:
        changes: Keys of the configuration to set, with their values.
        use: The memory of each process.
        effect: What the change means for the training.
    """

    changes: dict[str, str]
    use: Use
    effect: str = ""


@dataclass(frozen=True)
class Plan:
    """The memory of a training.

    Attributes:
        use: The memory of each process with the configuration as it is.
        available: Bytes for each process.
        fits: True if the configuration as it is fits.
        larger: Larger batches that fit, if it does.
        smaller: Settings that fit, if it does not, the least change first.
    """

    use: Use
    available: int
    fits: bool
    larger: list[Choice]
    smaller: list[Choice]


def plan(config: Config, available: int, device: str = "cpu", processes: int = 1) -> Plan:
    """Estimate the memory of a training without building its networks or reading images.

    Args:
        config: Configuration of the training.
        available: Bytes that each process may use, with its libraries.
        device: Device type, such as "cpu" or "cuda".
        processes: Number of processes, which share each batch.

    Raises:
        ConfigError: If the configuration is invalid, or its batch does not divide by the processes.
        CheckpointError: If a file that it names is missing.
    """
    system = registry.system_of(config)
    system.check(config)
    system.check_training(config)
    distributed.require_divisible(config.batch_size, system.batch_parts(config), processes)
    estimator = Estimator(config, device, processes)
    settings = Settings(config.batch_size, config.micro_batches, config.recompute, config.checkpointing)
    use = estimator.use(settings)
    fits = _fits(use, available)
    larger = list(_larger(estimator, settings, available)) if fits else []
    smaller = [] if fits else list(_smaller(estimator, settings, available))
    if not (fits or smaller):
        smaller = list(_last_resorts(estimator, settings, available))
    return Plan(use, available, fits, larger, smaller)


def _fits(use: Use, available: int) -> bool:
    return MARGIN * use.total <= available


def _larger(estimator: Estimator, settings: Settings, available: int) -> Iterator[Choice]:
    """Yield batches of 2, 4, … times the size as long as they fit."""
    factor = 2
    while factor <= _LARGEST_GROWTH:
        batch = factor * settings.batch_size
        use = estimator.use(replace(settings, batch_size=batch))
        if not _fits(use, available):
            return
        yield Choice({"batch_size": str(batch)}, use)
        factor *= 2


def _smaller(estimator: Estimator, settings: Settings, available: int) -> Iterator[Choice]:
    """Yield the first change of each kind that fits."""
    for candidates in (
        _same_step(estimator.config, settings, checkpointing=settings.checkpointing, parts=estimator.processes),
        _same_step(estimator.config, settings, checkpointing=True, parts=estimator.processes),
        _less_of_the_batch(estimator.config, settings, estimator.processes),
    ):
        for changed, effect in candidates:
            use = estimator.use(changed)
            if _fits(use, available):
                yield Choice(_changes(settings, changed), use, effect)
                break


def _same_step(
    config: Config, settings: Settings, *, checkpointing: bool, parts: int
) -> Iterator[tuple[Settings, str]]:
    """Yield settings that compute the same step with less memory, the fastest first."""
    if checkpointing == settings.checkpointing:
        effect = "the same step"
        if not checkpointing and (settings.recompute == "never" or config.precision != "float32"):
            settings = replace(settings, recompute="always")
            yield settings, "the same step, about 1 % slower"
    else:
        settings, effect = (
            replace(settings, checkpointing=True),
            "the same step, slower: networks run again in backward",
        )
        yield settings, effect
    for micro_batches in range(settings.micro_batches + 1, settings.batch_size + 1):
        changed = replace(settings, micro_batches=micro_batches)
        if _divides(config, changed, parts):
            yield changed, f"{effect}, in {micro_batches} parts"


def _less_of_the_batch(config: Config, settings: Settings, processes: int) -> Iterator[tuple[Settings, str]]:
    """Yield smaller batches, then the smallest with checkpointing."""
    effect = "another training: fewer images per step"
    batch_size = settings.batch_size // 2
    smallest = None
    while batch_size > 0:
        changed = replace(settings, batch_size=batch_size, micro_batches=1)
        if _divides(config, changed, processes):
            smallest = changed
            yield changed, effect
        batch_size //= 2
    if smallest is not None and not settings.checkpointing:
        yield replace(smallest, checkpointing=True), effect


def _last_resorts(estimator: Estimator, settings: Settings, available: int) -> Iterator[Choice]:
    """Yield the first change that fits of those that alter the sample grids or the numbers."""
    config = estimator.config
    grids: dict[str, int | str] = {"display_size": 1}
    precision: dict[str, int | str] = {"precision": "bfloat16"}
    kinds: list[tuple[dict[str, int | str], str]] = [(grids, "the same training, with small sample grids")]
    if config.precision == "float32":
        kinds += [(precision, "other rounding"), (grids | precision, "other rounding, and small sample grids")]
    for update, effect in kinds:
        other = Estimator(config.model_copy(update=update), estimator.device, estimator.processes)
        for changed in dict.fromkeys((settings, replace(settings, checkpointing=True))):
            use = other.use(changed)
            if _fits(use, available):
                changes = {key: str(value) for key, value in update.items()} | _changes(settings, changed)
                yield Choice(changes, use, effect)
                return


def _divides(config: Config, settings: Settings, processes: int) -> bool:
    system = registry.system_of(config)
    parts = system.batch_parts(config.model_copy(update={"micro_batches": settings.micro_batches}))
    return settings.batch_size % (parts * processes) == 0


def _changes(before: Settings, after: Settings) -> dict[str, str]:
    keys = ("batch_size", "micro_batches", "recompute", "checkpointing")
    new = {key: getattr(after, key) for key in keys if getattr(after, key) != getattr(before, key)}
    return {key: str(value).lower() for key, value in new.items()}
