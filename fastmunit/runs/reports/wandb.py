"""Logging to Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fastmunit.errors import FastmunitError
from fastmunit.runs.callbacks import Callback, Status
from fastmunit.runs.reports.evaluation_log import EvaluationRecord
from fastmunit.runs.reports.image_grid import to_pil
from fastmunit.systems.base import System


class WandbLogger(Callback):
    """A callback that logs losses, evaluations and kept sample grids to Weights & Biases.

    Args:
        init: Arguments of `wandb.init`, for example `project` and `name`.

    Raises:
        FastmunitError: If the wandb package is not installed.
    """

    def __init__(self, **init: Any) -> None:
        try:
            import wandb
        except ImportError as error:
            raise FastmunitError('WandbLogger needs the wandb package: pip install "fastmunit[wandb]".') from error
        self._wandb: Any = wandb
        self._init = init
        self._run: Any = None
        self._exit_code = 0

    def started(self, status: Status, trainer: System) -> None:
        """Start a W&B run with the configuration."""
        self._run = self._wandb.init(**{"config": trainer.config.to_dict(), **self._init})

    def logged(self, status: Status) -> None:
        """Log the losses and the learning rate."""
        self._run.log({**status.losses, "lr": status.learning_rate}, step=status.iterations)

    def evaluated(self, status: Status, evaluation: EvaluationRecord, best: bool) -> None:
        """Log the scores and the ends of their intervals."""
        self._run.log(evaluation.scalars(), step=status.iterations)

    def sampled(self, status: Status, grids: Mapping[str, Tensor], kept: bool) -> None:
        """Log the grids that are kept."""
        if kept:
            images = {name: self._wandb.Image(to_pil(grid)) for name, grid in grids.items()}
            self._run.log(images, step=status.iterations)

    def failed(self, status: Status, error: BaseException) -> None:
        """Mark the W&B run as failed."""
        self._exit_code = 1

    def finished(self) -> None:
        """Finish the W&B run."""
        if self._run is not None:
            self._run.finish(exit_code=self._exit_code)
