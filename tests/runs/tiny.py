"""Runs that are small enough for tests: random images, networks with few channels, and a recording callback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fastmunit.config import Config
from fastmunit.files import load_tensors
from fastmunit.runs import Callback, RunFolder, Status
from fastmunit.systems.base import System
from fastmunit.systems.parts.public_checkpoint import latest


def make_images(root: Path, count: int = 5, height: int = 40, width: int = 37) -> Path:
    """Create folders trainA, trainB, testA and testB of random RGB images in `root`."""
    random = np.random.default_rng(0)
    for part in ("trainA", "trainB", "testA", "testB"):
        (root / part).mkdir(parents=True)
        for index in range(count):
            pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / part / f"{index}.png")
    return root


def tiny_config(data_root: Path, **changes: Any) -> Config:
    """Return a configuration with 32x32 crops, 4 channels and one residual block. Five images make two batches."""
    values: dict[str, Any] = {
        "data_root": str(data_root),
        "batch_size": 2,
        "num_workers": 0,
        "display_size": 2,
        "new_size": 36,
        "crop_image_height": 32,
        "crop_image_width": 32,
        "max_iter": 7,
        "log_iter": 1,
        "snapshot_save_iter": 2,
        "image_save_iter": 1000,
        "image_display_iter": 1000,
        "step_size": 3,
        "gen": {"dim": 4, "n_res": 1, "mlp_dim": 8},
        "dis": {"dim": 4, "n_layer": 2, "num_scales": 1},
    }
    return Config.from_dict({**values, **changes})


class Recorder(Callback):
    """A callback that records messages and iterations, and calls `after[k]` after iteration k."""

    def __init__(self, after: dict[int, Callable[[], None]] | None = None) -> None:
        self.messages: list[str] = []
        self.statuses: list[Status] = []
        self._after = after or {}

    def iteration(self, status: Status, trainer: System) -> None:
        self.statuses.append(status)
        self._after.get(status.iterations, lambda: None)()

    def message(self, text: str) -> None:
        self.messages.append(text)


def newest(root: Path) -> int | None:
    return latest(RunFolder(root).checkpoints)


def assert_same_checkpoint(a: Path, b: Path, iterations: int) -> None:
    """Assert that networks, averages, optimizers and exact-resume state of two runs are equal bit for bit."""
    names = [f"{kind}_{iterations:08d}.pt" for kind in ("gen", "dis", "state")] + ["optimizer.pt"]
    averages = f"ema_{iterations:08d}.pt"
    has_averages = [(RunFolder(root).checkpoints / averages).is_file() for root in (a, b)]
    assert has_averages[0] == has_averages[1]
    for name in [*names, averages] if has_averages[0] else names:
        first, second = (load_tensors(RunFolder(root).checkpoints / name) for root in (a, b))
        for content in (first, second):
            for key in ("seconds", "digests"):
                content.pop(key, None)
        _assert_equal(first, second, name)


def _assert_equal(a: Any, b: Any, where: str) -> None:
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            _assert_equal(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            _assert_equal(x, y, f"{where}/{index}")
    else:
        assert a == b, where
