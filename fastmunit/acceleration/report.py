"""What `fastmunit.accelerate` did."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from fastmunit.acceleration.fused_forward import fast_forward_of


@dataclass(frozen=True)
class Entry:
    """A module: its path (empty for the one that was passed), its class, and what was done with it or why nothing."""

    path: str
    class_name: str
    text: str

    def __str__(self) -> str:
        return f"{self.path or '(itself)'} ({self.class_name}): {self.text}"


@dataclass
class Report:
    """What was replaced, what was left as it was and why. `print` it; `restore` undoes it.

    Attributes:
        replaced: modules whose forward is fused, those inside of others too: they run when they are called themselves.
        left: norms and blocks that run as they did.
    """

    replaced: list[Entry]
    left: list[Entry]
    modules: list[nn.Module] = field(repr=False)

    def restore(self) -> None:
        """Give every replaced module its own forward back."""
        for module in self.modules:
            if fast_forward_of(module) is not None:
                del module.forward

    def __str__(self) -> str:
        paths = {entry.path for entry in self.replaced}
        lines = []
        for entry in self.replaced:
            if not any(_is_inside(entry.path, path) for path in paths):
                inside = sum(_is_inside(path, entry.path) for path in paths)
                lines.append(
                    f"  {entry}" + (f" (and {inside} modules in it, for calls of their own)" if inside else "")
                )
        left = [f"  {entry}" for entry in self.left]
        return "\n".join(["replaced:", *(lines or ["  nothing"]), "left as it was:", *(left or ["  nothing"])])


def _is_inside(path: str, outer: str) -> bool:
    return path != outer and (not outer or path.startswith(f"{outer}."))
