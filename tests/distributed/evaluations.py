"""Evaluations whose results must not depend on the number of processes; `launch` starts this as the trainings'.

python -m tests.distributed.evaluations FOLDER TASK…
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastmunit import distributed, load_translator
from fastmunit.cli import main
from fastmunit.config import Config
from fastmunit.errors import FastmunitError, RankError
from fastmunit.metrics import distances, diversity, real_images
from fastmunit.metrics.classifier import Classifier
from fastmunit.metrics.evaluation import evaluate
from fastmunit.metrics.features import FeatureNet
from fastmunit.metrics.lpips import LPIPS
from fastmunit.metrics.measures import Measures
from fastmunit.systems import registry
from tests.metrics.conftest import random_backbone
from tests.metrics.test_evaluation import Same
from tests.metrics.test_lpips import random_heads
from tests.runs.tiny import tiny_config

SIDE, COUNT = 32, 13
DAMAGED = ("testA/one/2.png", "testA/two/12.png", "testB/one/6.png", "trainB/one/4.png")


def prepare(folder: Path) -> None:
    """Write images in two classes, some of them damaged, and a model with random weights, as a run folder."""
    random = np.random.default_rng(0)
    for part in ("trainA", "trainB", "testA", "testB"):
        for name in ("one", "two"):
            (folder / "data" / part / name).mkdir(parents=True)
        for k in range(COUNT):
            pixels = random.integers(0, 256, (SIDE + 4, SIDE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "data" / part / ("one", "two")[2 * k // COUNT] / f"{k}.png")
    for name in DAMAGED:
        whole = (folder / "data" / name).read_bytes()
        (folder / "data" / name).write_bytes(whole[: len(whole) // 2])
    torch.manual_seed(0)
    config = tiny_config(folder / "data", new_size=SIDE)
    (folder / "run/checkpoints").mkdir(parents=True)
    config.save(folder / "run/config.yaml")
    registry.system_of(config)(config).save(folder / "run/checkpoints", 0)


def plain(evaluation: Any) -> dict[str, Any]:
    """Return all of an evaluation as containers of numbers, strings and tensors."""
    pictures = [(sheet.caption, sheet.rows) for sheet in evaluation.sheets]
    return {"report": evaluation.to_dict(), "sheets": pictures}


def everything(folder: Path) -> dict[str, Any]:
    """Evaluate a MUNIT by all measures, with little work in several batches."""
    config = Config.load(folder / "run/config.yaml")
    file = folder / "run/checkpoints/gen_00000001.pt"
    forward, backward = (load_translator(file, config, direction=d, device="cpu") for d in ("a2b", "b2a"))
    alexnet = random_backbone("alexnet")
    torch.manual_seed(0)
    classifier = Classifier(["one", "two"], "small", SIDE).eval()
    measures = Measures(
        lpips=(LPIPS("alex", backbone=alexnet, heads=random_heads("alex")),),
        features={"AlexNet": FeatureNet("AlexNet", backbone=alexnet)},
        frechet=("AlexNet",),
        kernel=("AlexNet",),
        classifier=classifier,
        edge_agreement=True,
        content_code=True,
        reconstruction=True,
    )
    told: list[tuple[float, str]] = []
    with (
        patch.object(distances, "_FRECHET_RESAMPLES", 4),
        patch.object(diversity, "_PIXELS_AT_ONCE", 80 * SIDE**2),
        patch.object(real_images, "real_diversity", partial(diversity.real_diversity, pairs=400)),
        patch.object(real_images, "_BATCH", 4),
    ):
        found = evaluate(
            forward, config, measures, backward=backward, samples=4, progress=lambda *status: told.append(status)
        )
    return {**plain(found), "told": told}


def few(folder: Path) -> dict[str, Any]:
    """Evaluate two inputs, and compare sets of few images, so that there is little to divide."""
    config = Config.load(folder / "run/config.yaml")
    measures = Measures(edge_agreement=True, reconstruction=True)
    return plain(evaluate(Same(), config, measures, backward=Same(), inputs=2, samples=2))


class Failing(Same):
    """Cannot translate in the second process."""

    def decode(self, content: Tensor, styles: Tensor) -> Tensor:
        if distributed.rank() == 1:
            raise FastmunitError("not enough memory here")
        return super().decode(content, styles)


def failing(folder: Path) -> dict[str, Any]:
    """Evaluate where one process fails."""
    config = Config.load(folder / "run/config.yaml")
    return plain(evaluate(Failing(), config, Measures(edge_agreement=True), samples=2))


def differing(folder: Path) -> dict[str, Any]:
    """Evaluate where processes were given different seeds."""
    config = Config.load(folder / "run/config.yaml")
    return plain(evaluate(Same(), config, Measures(edge_agreement=True), samples=2, seed=distributed.rank()))


def without_images(folder: Path) -> dict[str, Any]:
    """Evaluate on a folder that is not there."""
    config = Config.load(folder / "run/config.yaml")
    config.data_root = str(folder / "absent")
    return plain(evaluate(Same(), config, Measures(edge_agreement=True), samples=2))


def command(folder: Path) -> dict[str, Any]:
    """Run `fastmunit evaluate`, as torchrun would start it."""
    output = folder / f"command_{distributed.world_size()}"
    arguments = ["--checkpoint", folder / "run", "--metrics", "edge-agreement,reconstruction", "--inputs", 5]
    arguments += ["--samples", 2, "--device", "cpu", "-o", output]
    written = {"out": io.StringIO(), "err": io.StringIO()}
    status = 0
    with contextlib.redirect_stdout(written["out"]), contextlib.redirect_stderr(written["err"]):
        try:
            main(["evaluate", *map(str, arguments)])
        except SystemExit as end:
            status = int(end.code or 0)
    return {"status": status, **{name: stream.getvalue() for name, stream in written.items()}}


class Killed(Same):
    """Ends the second process by SIGKILL."""

    def decode(self, content: Tensor, styles: Tensor) -> Tensor:
        if distributed.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().decode(content, styles)


def killed(folder: Path) -> dict[str, Any]:
    """Evaluate where one process is killed."""
    config = Config.load(folder / "run/config.yaml")
    return plain(evaluate(Killed(), config, Measures(edge_agreement=True), samples=2))


TASKS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "everything": everything,
    "few": few,
    "failing": failing,
    "differing": differing,
    "without_images": without_images,
    "command": command,  # the last one: it leaves the group
}
KILLED = "killed"


def outcome(folder: Path, task: str) -> dict[str, Any]:
    """Return what a task finds, or its error."""
    try:
        return killed(folder) if task == KILLED else TASKS[task](folder)
    except FastmunitError as error:
        kind = "RankError" if isinstance(error, RankError) else type(error).__name__
        return {"error": f"{kind}: {error}"}


def outcomes(folder: Path, world: int, task: str) -> Iterator[dict[str, Any]]:
    """Yield what each process has written of a task, by rank."""
    for rank in range(world):
        yield torch.load(folder / f"{world}_{rank}_{task}.pt", weights_only=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    distributed.setup(timeout=60, device="cpu")
    here = f"{distributed.world_size()}_{distributed.rank()}"
    for name in sys.argv[2:]:
        torch.save(outcome(Path(sys.argv[1]), name), Path(sys.argv[1]) / f"{here}_{name}.pt")
    distributed.shutdown()
