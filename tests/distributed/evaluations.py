"""Evaluations whose results must not depend on the number of processes. `launch` starts this module in processes.

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
from fastmunit.metrics import distances, diversity, inspection, real_images
from fastmunit.metrics.classifier import Classifier
from fastmunit.metrics.evaluate import evaluate
from fastmunit.metrics.features import FeatureNet
from fastmunit.metrics.lpips import LPIPS
from fastmunit.metrics.measures.content_code import ContentCodeDistance
from fastmunit.metrics.measures.edge_agreement import EdgeAgreement
from fastmunit.metrics.measures.feature_distances import FrechetDistance, KernelDistance
from fastmunit.metrics.measures.inception_scores import InceptionScores
from fastmunit.metrics.measures.lpips_diversity import LPIPSDiversity
from fastmunit.metrics.measures.reconstruction import Reconstruction
from fastmunit.systems import registry
from tests.metrics.conftest import random_backbone
from tests.metrics.test_lpips import random_heads
from tests.metrics.translators import Same, Tinted
from tests.runs.tiny import tiny_config

SIDE, COUNT = 32, 13
DAMAGED = ("testA/one/2.png", "testA/two/12.png", "testB/one/6.png", "trainB/one/4.png")


def prepare(folder: Path) -> None:
    """Write images in two classes, some of them damaged, and the run folder of a model with random weights."""
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
    """Return an evaluation as containers of numbers, strings and tensors."""
    pictures = [(sheet.caption, sheet.rows) for sheet in evaluation.sheets]
    return {"report": evaluation.to_dict(), "sheets": pictures}


def everything(folder: Path) -> dict[str, Any]:
    """Evaluate MUNIT with all measures: little work, in several batches."""
    config = Config.load(folder / "run/config.yaml")
    file = folder / "run/checkpoints/gen_00000001.pt"
    forward, backward = (load_translator(file, config, direction=d, device="cpu") for d in ("a2b", "b2a"))
    alexnet = random_backbone("alexnet")
    torch.manual_seed(0)
    classifier = Classifier(["one", "two"], "small", SIDE).eval()
    features = FeatureNet("AlexNet", backbone=alexnet)
    measures = [
        LPIPSDiversity(LPIPS("alex", backbone=alexnet, heads=random_heads("alex"))),
        FrechetDistance(features),
        KernelDistance(features),
        InceptionScores(classifier),
        EdgeAgreement(),
        ContentCodeDistance(),
        Reconstruction(),
    ]
    progress: list[tuple[float, str]] = []
    with (
        patch.object(distances, "_FRECHET_RESAMPLES", 4),
        patch.object(diversity, "_PIXELS_AT_ONCE", 80 * SIDE**2),
        patch.object(diversity, "real_diversity", partial(diversity.real_diversity, pairs=400)),
        patch.object(real_images, "_BATCH", 4),
    ):
        evaluation = evaluate(
            forward, config, measures, backward=backward, samples=4, progress=lambda *step: progress.append(step)
        )
    return {**plain(evaluation), "progress": progress}


def few(folder: Path) -> dict[str, Any]:
    """Evaluate two inputs, fewer than there may be processes."""
    config = Config.load(folder / "run/config.yaml")
    measures = [EdgeAgreement(), Reconstruction()]
    return plain(evaluate(Same(), config, measures, backward=Same(), inputs=2, samples=2))


def inspected(folder: Path) -> dict[str, Any]:
    """Inspect a model with styles and a way back."""
    config = Config.load(folder / "run/config.yaml")
    with patch.object(inspection, "DISPLAYED", 3):
        result = inspection.inspect(Tinted(), config, backward=Tinted(), samples=3)
    pictures = [(list(shown.images.values()), list(shown.maps.values())) for shown in result.pictures]
    return {"report": result.to_dict(), "sheets": pictures}


class Failing(Same):
    """A translator that fails in the second process."""

    def decode(self, content: Tensor, styles: Tensor) -> Tensor:
        if distributed.rank() == 1:
            raise FastmunitError("not enough memory here")
        return super().decode(content, styles)


def failing(folder: Path) -> dict[str, Any]:
    """Evaluate while one process fails."""
    config = Config.load(folder / "run/config.yaml")
    return plain(evaluate(Failing(), config, [EdgeAgreement()], samples=2))


def differing(folder: Path) -> dict[str, Any]:
    """Evaluate with a different seed in each process."""
    config = Config.load(folder / "run/config.yaml")
    return plain(evaluate(Same(), config, [EdgeAgreement()], samples=2, seed=distributed.rank()))


def without_images(folder: Path) -> dict[str, Any]:
    """Evaluate on a folder that does not exist."""
    config = Config.load(folder / "run/config.yaml")
    config.data_root = str(folder / "absent")
    return plain(evaluate(Same(), config, [EdgeAgreement()], samples=2))


def command(folder: Path) -> dict[str, Any]:
    """Run `fastmunit evaluate` as torchrun would start it."""
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
    """A translator that ends the second process with SIGKILL."""

    def decode(self, content: Tensor, styles: Tensor) -> Tensor:
        if distributed.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().decode(content, styles)


def killed(folder: Path) -> dict[str, Any]:
    """Evaluate while one process is killed."""
    config = Config.load(folder / "run/config.yaml")
    return plain(evaluate(Killed(), config, [EdgeAgreement()], samples=2))


TASKS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "everything": everything,
    "few": few,
    "inspected": inspected,
    "failing": failing,
    "differing": differing,
    "without_images": without_images,
    "command": command,  # last, because it leaves the process group
}
KILLED = "killed"


def outcome(folder: Path, task: str) -> dict[str, Any]:
    """Return the result of a task, or its error."""
    try:
        return killed(folder) if task == KILLED else TASKS[task](folder)
    except FastmunitError as error:
        kind = "RankError" if isinstance(error, RankError) else type(error).__name__
        return {"error": f"{kind}: {error}"}


def outcomes(folder: Path, world: int, task: str) -> Iterator[dict[str, Any]]:
    """Yield the results of a task that the processes have written, by rank."""
    for rank in range(world):
        yield torch.load(folder / f"{world}_{rank}_{task}.pt", weights_only=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    distributed.setup(timeout=60, device="cpu")
    here = f"{distributed.world_size()}_{distributed.rank()}"
    for name in sys.argv[2:]:
        torch.save(outcome(Path(sys.argv[1]), name), Path(sys.argv[1]) / f"{here}_{name}.pt")
    distributed.shutdown()
