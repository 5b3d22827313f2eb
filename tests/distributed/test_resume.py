"""A run that continues with another number of processes equals the uninterrupted run, up to rounding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fastmunit.runs import RunFolder
from tests.distributed.launch import run
from tests.runs.tiny import make_images, tiny_config


def train(folder: Path, world: int, name: str, first: int, last: int) -> None:
    run(world, "-m", "tests.distributed.worker", "resumed", str(folder), name, str(first), str(last))


@pytest.mark.slow
@pytest.mark.parametrize("system", ["munit", "cyclegan"])
def test_resume_on_other_numbers_of_processes(system: str, tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", count=9)
    tiny_config(images, system=system, batch_size=4, ema_decay=0.9).save(tmp_path / "config.yaml")
    train(tmp_path, 1, "straight", 0, 6)
    for world, first, last in ((2, 0, 2), (4, 2, 4), (1, 4, 6)):
        train(tmp_path, world, "moved", first, last)
    for kind in ("gen", "dis", "ema", "state"):
        straight, moved = (
            torch.load(RunFolder(tmp_path / name).checkpoints / f"{kind}_00000006.pt", weights_only=True)
            for name in ("straight", "moved")
        )
        if kind == "state":
            assert torch.equal(straight["torch_rng"], moved["torch_rng"])
            continue
        for name, network in straight.items():
            for key, value in network.items():
                assert (value - moved[name][key]).abs().max() <= 1e-8, f"{kind}.{name}.{key}"
