"""The report that `fastmunit.accelerate` returns."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from fastmunit.acceleration.fused_forward import fused_forward_of
from fastmunit.nn.fused.chain import Chain
from fastmunit.nn.fused.steps import Convolve, Write


@dataclass(frozen=True)
class Entry:
    """A module in a report.

    Attributes:
        path: Path of the module, empty for the module that was passed.
        class_name: Name of its class.
        text: Description of the fused ops, or the reason why the module was left unchanged.
    """

    path: str
    class_name: str
    text: str

    def __str__(self) -> str:
        return f"{self.path or '(itself)'} ({self.class_name}): {self.text}"


@dataclass
class Report:
    """Replaced and unchanged modules. `print` shows them, `restore` reverts the replacement.

    Attributes:
        replaced: All modules whose forward was replaced, including nested ones, which run in direct calls.
        left: Norms and blocks that were left unchanged, with the reason.
    """

    replaced: list[Entry]
    left: list[Entry]
    modules: list[nn.Module] = field(repr=False)

    def restore(self) -> None:
        """Restore the original forward of every replaced module."""
        for module in self.modules:
            if fused_forward_of(module) is not None:
                del module.forward

    def __str__(self) -> str:
        paths = {entry.path for entry in self.replaced}
        lines = []
        for entry in self.replaced:
            if not any(_is_inside(entry.path, path) for path in paths):
                inside = sum(_is_inside(path, entry.path) for path in paths)
                lines.append(f"  {entry}" + (f" (and {inside} modules inside, for direct calls)" if inside else ""))
        left = [f"  {entry}" for entry in self.left]
        return "\n".join(["replaced:", *(lines or ["  nothing"]), "left unchanged:", *(left or ["  nothing"])])


def _is_inside(path: str, outer: str) -> bool:
    return path != outer and (not outer or path.startswith(f"{outer}."))


def describe(chain: Chain) -> str:
    """Return a one-line description of the fused ops of a chain."""
    writes, convolutions = [*chain.of(Write)], [*chain.of(Convolve)]
    counts = {
        "norm": sum(write.norm is not None for write in writes),
        "activation": sum(write.activation is not None for write in writes),
        "pad": sum(write.pad.pixels > 0 for write in writes),
        "sum": sum(write.adds for write in writes),
    }
    parts = [f"{_counted(len(writes), 'fused op')} for " + ", ".join(_counted(n, k) for k, n in counts.items() if n)]
    upsampled = sum(step.upsampled is not None for step in convolutions)
    if upsampled:
        parts.append(f"{_counted(upsampled, 'upsampling convolution')} on the low-resolution map")
    cancelled = sum(step.left_out == "cancelled" and step.conv.bias is not None for step in convolutions)
    if cancelled:
        parts.append(f"{_counted(cancelled, 'cancelled bias', 'cancelled biases')} left out")
    return "; ".join(parts)


def _counted(count: int, singular: str, plural: str | None = None) -> str:
    return f"{count} {singular if count == 1 else plural or singular + 's'}"
