"""A plan in words."""

from __future__ import annotations

from collections.abc import Iterator

from fastmunit.config import Config
from fastmunit.planning.plan import MARGIN, Choice, Plan


def lines_of(plan: Plan, config: Config, device: str, processes: int) -> Iterator[str]:
    """Yield the lines that describe a plan: the peak by part, whether it fits, and what else would."""
    shared = f" on {processes} processes" if processes > 1 else ""
    yield (
        f"{config.system}, {config.crop_image_width}x{config.crop_image_height}, batch {config.batch_size}{shared}, "
        f"{config.precision}, {device}: about {_gb(plan.use.total)} at the peak{' of each process' * (processes > 1)}, "
        f"during {plan.use.moment}."
    )
    for part, size in sorted(plan.use.parts.items(), key=lambda item: -item[1]):
        yield f"  {_gb(size):>9}  {part}"
    margin = f"{_gb(plan.available)} and a margin of {MARGIN - 1:.0%}"
    if plan.fits:
        yield f"This fits in {margin}."
        if plan.larger:
            yield "Larger batches that fit:"
            yield from _choices(plan.larger)
        else:
            yield f"A batch of {2 * config.batch_size} does not fit."
        return
    yield f"This does not fit in {margin}."
    if plan.smaller:
        yield "What fits, the least change first:"
        yield from _choices(plan.smaller)
        return
    yield (
        "No batch_size, micro_batches, checkpointing or precision fits: lower crop_image_height and crop_image_width, "
        "or gen.dim and dis.dim."
    )


def _choices(choices: list[Choice]) -> Iterator[str]:
    for choice in choices:
        flags = " ".join(f"--set {key}={value}" for key, value in choice.changes.items())
        effect = f": {choice.effect}" if choice.effect else ""
        yield f"  {_gb(choice.use.total):>9}  {flags}{effect}"


def _gb(size: int) -> str:
    return f"{size / 1e9:,.2f} GB"
