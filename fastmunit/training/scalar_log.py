"""TensorBoard scalars and images, with the public trainer's tags: the losses' attribute names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


class ScalarLog:
    """Writes TensorBoard event files; does nothing where the tensorboard package is absent (see `available`).

    Args:
        folder: where the event files go.
        resume_at: iterations done already: later steps in older event files are hidden.
    """

    def __init__(self, folder: Path, resume_at: int = 0) -> None:
        self._writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._writer = SummaryWriter(str(folder), purge_step=resume_at + 1 if resume_at else None)

    @property
    def available(self) -> bool:
        """Whether the tensorboard package is installed."""
        return self._writer is not None

    def scalars(self, iterations: int, values: Mapping[str, float]) -> None:
        """Log each value under its name at step `iterations`."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, iterations)

    def image(self, iterations: int, name: str, image: torch.Tensor) -> None:
        """Log an image, uint8 (3, H, W), at step `iterations`."""
        if self._writer is not None:
            self._writer.add_image(name, image, iterations)
            self._writer.flush()

    def close(self) -> None:
        """Write what is pending."""
        if self._writer is not None:
            self._writer.close()
