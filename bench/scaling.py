"""Predict the speed of training in several processes: `python -m bench.scaling`. A model, not a measurement.

For a fixed share of the batch per process, an iteration of W processes takes

    step + 2 (W - 1) / W · bytes / bandwidth + 2 (W - 1) · latency · all-reduces

where `step` is the measured time of one GPU for its share, and `bytes` is the size of the gradients of both optimizers
(4 bytes per trained parameter), which a ring all-reduce sends after backward, without overlap. Efficiency is
step / iteration: the images per second of W GPUs divided by W times those of one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch

from fastmunit.config import Config
from fastmunit.systems import registry

STEP_SECONDS = 20.2e-3
"""Seconds per replayed MUNIT step at 256x256, batch 1, bfloat16, measured on an H100 (docs/project/benchmarks.md)."""
ALL_REDUCES = 2  # per iteration: one per optimizer
WORLDS = (2, 4, 8)


@dataclass(frozen=True)
class Link:
    """A connection between GPUs.

    Attributes:
        name: Name in the table.
        bandwidth: Bytes per second that an all-reduce moves in and out of each GPU; assumed, about 80 % of the peak.
        latency: Seconds per step of the ring; assumed.
    """

    name: str
    bandwidth: float
    latency: float


LINKS = (
    Link("NVLink of an H100 (360 GB/s)", 360e9, 3e-6),
    Link("PCIe 4.0 x16 (25 GB/s)", 25e9, 10e-6),
    Link("100 Gb Ethernet (10 GB/s)", 10e9, 30e-6),
)
CONFIGURATIONS = ("edges2shoes", "unit_edges2shoes", "cyclegan", "cyclegan_noise", "bicyclegan", "pix2pix_noise")


@cache
def gradient_bytes(configuration: str) -> dict[str, int]:
    """Return the size of the gradients of each optimizer in bytes."""
    config = Config.load(configuration)
    with torch.device("meta"):
        trainer = registry.system_of(config)(config)
    return {
        name: 4 * sum(p.numel() for group in optimizer.param_groups for p in group["params"])
        for name, optimizer in trainer.optimizers().items()
    }


def iteration_seconds(step: float, sent: float, world: int, link: Link) -> float:
    """Return the seconds per iteration of `world` processes that send `sent` bytes."""
    ring = 2 * (world - 1) / world * sent / link.bandwidth
    return step + ring + 2 * (world - 1) * link.latency * ALL_REDUCES


def bytes_table() -> str:
    """Return a Markdown table of the bytes per iteration of the configurations."""
    lines = ["| configuration | generators | discriminators | in bfloat16 |", "|---|---|---|---|"]
    for configuration in CONFIGURATIONS:
        found = gradient_bytes(configuration)
        gen, dis = found["gen"] / 1e6, found["dis"] / 1e6
        lines.append(f"| `{configuration}` | {gen:.1f} MB | {dis:.1f} MB | {(gen + dis) / 2:.1f} MB |")
    return "\n".join(lines)


def scaling_table() -> str:
    """Return a Markdown table of the predicted efficiency for MUNIT's public configuration."""
    sent = sum(gradient_bytes("edges2shoes").values())
    lines = [
        "| link | " + " | ".join(f"{world} GPUs" for world in WORLDS) + " | 8 GPUs, bfloat16 |",
        "|---|" + "---|" * (len(WORLDS) + 1),
    ]
    for link in LINKS:
        cells = [STEP_SECONDS / iteration_seconds(STEP_SECONDS, sent, world, link) for world in WORLDS]
        cells.append(STEP_SECONDS / iteration_seconds(STEP_SECONDS, sent / 2, 8, link))
        lines.append(f"| {link.name} | " + " | ".join(f"{cell:.2f}" for cell in cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(bytes_table(), scaling_table(), sep="\n\n")
