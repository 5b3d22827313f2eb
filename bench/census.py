"""Count what an iteration dispatches: `python -m bench.census [--system munit] [--precision bfloat16]`.

The iteration runs with fake tensors (`bench.dispatch`), so the counts need no GPU and take seconds:

- ops: dispatched ops without views, `detach` and allocations; each op of fastmunit is one. They differ between a CPU
  and a GPU, because convolutions of images have other forms there.
- casts: ops that copy values into another dtype and do nothing else.
- with parts: the same if the ops inside composite ops of fastmunit count instead of these.
- kernels: what the ops launch on a GPU, by the rule of `bench.kernel_rule`; not measured.

Not counted are the copies of inputs and losses before and after the replay of a CUDA graph.
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from bench.dispatch import COMPOSITES, Call, recorded
from bench.gpu_model import GPUS
from bench.kernel_rule import category_of, kernels_of
from fastmunit.config import Config
from fastmunit.systems import registry
from fastmunit.systems.base import System
from fastmunit.testing.reference_step import reference_step, unit_reference_step

REFERENCE_STEPS: dict[str, Callable[..., None]] = {"munit": reference_step, "unit": unit_reference_step}
"""The iterations of the public trainers, by system."""

HEAD = ("system", "ops, CPU", "casts, CPU", "ops, GPU", "casts, GPU", "ops with parts, GPU", "casts with parts, GPU")


@dataclass(frozen=True)
class Totals:
    """Numbers of ops; see the module.

    Attributes:
        ops: Ops.
        casts: Casts among them.
        ops_with_parts: Ops, with the parts of composite ops.
        casts_with_parts: Casts among these.
        cast_bytes: Bytes that these read and write.
    """

    ops: int
    casts: int
    ops_with_parts: int
    casts_with_parts: int
    cast_bytes: int

    @staticmethod
    def of(calls: Sequence[Call]) -> "Totals":
        """Count recorded ops."""
        outer = [call for call in calls if call.inside is None]
        parts = [call for call in calls if call.op not in COMPOSITES]
        return Totals(
            ops=len(outer),
            casts=sum(call.is_cast for call in outer),
            ops_with_parts=len(parts),
            casts_with_parts=sum(call.is_cast for call in parts),
            cast_bytes=sum(call.nbytes for call in parts if call.is_cast),
        )


@dataclass(frozen=True)
class Census:
    """The ops of an iteration.

    Attributes:
        system: Name of the system.
        cpu: Ops on a CPU.
        cuda: Ops on a GPU.
        gpu: The GPU whose kernels are counted, a key of `GPUS`.
    """

    system: str
    cpu: Sequence[Call]
    cuda: Sequence[Call]
    gpu: str

    def kernels_of(self, call: Call) -> int:
        """Return the number of kernels of an op on the GPU."""
        return kernels_of(call, GPUS[self.gpu].device)

    @property
    def kernels(self) -> int:
        """Number of kernels of all ops on the GPU."""
        return sum(self.kernels_of(call) for call in self.cuda)

    def by(self, key: Callable[[Call], str]) -> dict[str, Counter[str]]:
        """Return ops with parts, kernels and bytes on the GPU by a property of the ops, most kernels first."""
        groups: dict[str, Counter[str]] = {}
        for call in self.cuda:
            if call.op not in COMPOSITES:
                group = groups.setdefault(key(call), Counter())
                group.update({"ops": 1, "kernels": self.kernels_of(call), "bytes": call.nbytes})
        return dict(sorted(groups.items(), key=lambda item: (-item[1]["kernels"], item[0])))

    def as_json(self) -> dict[str, Any]:
        """Return all counts as plain values."""
        return {
            "cpu": asdict(Totals.of(self.cpu)),
            "cuda": {**asdict(Totals.of(self.cuda)), "gpu": self.gpu, "kernels": self.kernels},
            "categories": {name: dict(counts) for name, counts in self.by(category_of).items()},
            "by_op": {name: dict(counts) for name, counts in self.by(lambda call: call.name).items()},
        }

    def row(self) -> tuple[str, ...]:
        """Return the totals as texts in the order of `HEAD`, then the kernels."""
        cpu, cuda = Totals.of(self.cpu), Totals.of(self.cuda)
        counts = (cpu.ops, cpu.casts, cuda.ops, cuda.casts, cuda.ops_with_parts, cuda.casts_with_parts, self.kernels)
        return (self.system, *(f"{count:,}" for count in counts))

    def lines(self) -> list[str]:
        """Return the counts on the GPU by category as lines of a table."""
        inside = sum(self.kernels_of(call) for call in self.cuda if call.inside is not None)
        lines = [f"{self.system} on a GPU, with parts; {inside} of the kernels are inside composite ops", ""]
        lines.append(f"{'category':<28}{'ops':>8}{'kernels':>10}{'MB':>10}")
        for name, counts in self.by(category_of).items():
            lines.append(f"{name:<28}{counts['ops']:>8}{counts['kernels']:>10}{counts['bytes'] / 1e6:>10.1f}")
        return lines


def census_of(
    name: str, precision: str, *overrides: str, size: int = 256, gpu: str = "H100", reference: bool = False
) -> Census:
    """Count an iteration of a system with its public configuration, without perceptual loss.

    Args:
        name: Name of the system.
        precision: float32, bfloat16 or float16.
        *overrides: Further settings of the configuration, as KEY=VALUE.
        size: Height and width of the images.
        gpu: GPU whose kernels are counted.
        reference: Count the iteration of the public trainer instead.

    Raises:
        ValueError: If there is no `reference` iteration of this system.
    """
    if reference and name not in REFERENCE_STEPS:
        raise ValueError(f"there is no reference step of {name}, only of {' and '.join(REFERENCE_STEPS)}")

    def calls(device_type: Any) -> list[Call]:
        trainer, batch = _trainer_and_batch(name, precision, overrides, size, fused_adam=not reference)
        step = REFERENCE_STEPS[name] if reference else type(trainer).step
        return recorded(lambda: step(trainer, *batch), device_type)

    return Census(name, calls("cpu"), calls("cuda"), gpu)


def _trainer_and_batch(
    name: str, precision: str, overrides: Sequence[str], size: int, *, fused_adam: bool
) -> tuple[System, list[torch.Tensor]]:
    system = registry.system_named(name)
    config = Config.load(system.recipe, ["vgg_w=0", f"precision={precision}", *overrides])
    batch = [torch.zeros(config.batch_size, channels, size, size) for channels in config.channels("a2b")]
    return system(config, fused_adam=fused_adam), batch


def table(censuses: Sequence[Census]) -> str:
    """Return the totals as a Markdown table with a row per system."""
    head = (*HEAD, f"kernels, {censuses[0].gpu}")
    rows = [head, ("---",) * len(head), *(census.row() for census in censuses)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Print tables and write the counts as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", choices=registry.names(), nargs="*", default=["munit"])
    parser.add_argument("--precision", choices=["float32", "bfloat16", "float16"], default="bfloat16")
    parser.add_argument("--size", type=int, default=256, help="height and width of the images")
    parser.add_argument("--gpu", choices=GPUS, default="H100", help="GPU whose kernels are counted")
    parser.add_argument("--reference", action="store_true", help="count the iteration of the public trainer instead")
    parser.add_argument("--json", type=Path, help="file for the counts, also by op")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further settings of the systems")
    given = parser.parse_args()
    form = {"size": given.size, "gpu": given.gpu, "reference": given.reference}
    censuses = [census_of(name, given.precision, *given.set, **form) for name in given.system]
    print(f"{given.precision}, {given.size}², kernels counted by a rule, not measured\n\n{table(censuses)}")
    for census in censuses:
        print("\n" + "\n".join(census.lines()))
    if given.json is not None:
        counts = {census.system: census.as_json() for census in censuses}
        written = {"torch": torch.__version__, "precision": given.precision, **form, "systems": counts}
        given.json.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
