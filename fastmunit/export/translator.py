"""A translator that runs the files of an export."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor

from fastmunit.errors import FastmunitError
from fastmunit.export.check import Run
from fastmunit.export.description import Input, read_description
from fastmunit.export.onnx import OnnxGraph
from fastmunit.export.pt2 import Pt2Graph
from fastmunit.systems.translators import Translator, draw_mask, mask_generator, noise_of, random_seeds

_RUNNERS: dict[str, Callable[[Path, str], Run]] = {"onnx": OnnxGraph, "pt2": Pt2Graph}


class ExportedTranslator(Translator):
    """One direction of a model, computed by the files of an export. Tensors are float32 on the CPU.

    Args:
        folder: The folder that `fastmunit export` has written.
        device: "cpu", "cuda", or "auto" for the GPU if onnxruntime can use it.

    Raises:
        CheckpointError: If a file is missing or damaged.
        FastmunitError: If the package that runs the files is missing, or cannot use the device.
    """

    def __init__(self, folder: Path, device: str = "auto") -> None:
        self.description = about = read_description(folder)
        super().__init__(None, about.multiple, about.min_size, about.channels, about.style_dim)
        self.direction, self.config = about.direction, about.settings()
        self.takes_references = "encode_style" in about.graphs
        self.encodes = "encode_content" in about.graphs
        self.dropout_rate = about.dropout_rate
        self._graphs: dict[str, Run] = {
            name: _RUNNERS[about.format](folder / graph.file, device) for name, graph in about.graphs.items()
        }

    def digest(self) -> str:
        """Return the digest of the model that was exported. Empty if an earlier version has exported it."""
        return self.description.model_digest

    def random_styles(self, count: int, generator: torch.Generator) -> Tensor:
        if self.description.styles == "seed":
            return random_seeds(count, generator)
        return super().random_styles(count, generator)

    def encode(self, images: Tensor) -> Tensor:
        self._require_size(images)
        return self._graphs["encode_content"]([images]) if self.encodes else images

    def encode_style(self, images: Tensor) -> Tensor:
        if not self.takes_references:
            return super().encode_style(images)
        self._require_size(images)
        return self._graphs["encode_style"]([images])

    def decode(self, content: Tensor, styles: Tensor) -> Tensor:
        images = self.render(content, self.draws(content, styles))
        return images if self.style_dim else images.expand(len(styles), -1, -1, -1)

    def draws(self, content: Tensor, styles: Tensor) -> dict[str, Tensor]:
        inputs = self._inputs()[1:]
        drawn = {"styles": styles} if any(given.name == "styles" for given in inputs) else {}
        if any(given.name == "noise" for given in inputs):
            drawn["noise"] = noise_of(styles, content)
        masks = [given for given in inputs if given.name.startswith("mask_")]
        for given in masks:
            drawn[given.name] = torch.empty(given.shape(len(styles), *content.shape[2:]))
        for index, style in enumerate(styles.split(1) if masks else ()):
            generator = mask_generator(style, self.device)
            for given in masks:
                mask = drawn[given.name][index : index + 1]
                mask.copy_(draw_mask(mask, self.dropout_rate, generator))
        return drawn

    def render(self, content: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        return self._graphs[self._last()]([content, *draws.values()])

    def _require_size(self, images: Tensor) -> None:
        """Check height and width. onnxruntime pads an image that is too small with undefined values."""
        height, width = images.shape[2:]
        if min(height, width) < self.min_size or height % self.multiple or width % self.multiple:
            raise ValueError(
                f"expected height and width of at least {self.min_size} and multiples of {self.multiple}, got "
                f"{height} × {width}: pad the images, or use translate and style_of, which do."
            )

    def _last(self) -> str:
        return "decode" if self.encodes else "translate"

    def _inputs(self) -> tuple[Input, ...]:
        return self.description.graphs[self._last()].inputs

    def _autocast(self, precision: str | None) -> AbstractContextManager[object]:
        if (precision or self.precision) != "float32":
            raise FastmunitError(
                f"an export computes in float32, not in {precision or self.precision}: leave precision out. "
                "`fastmunit export --precision` stores smaller weights."
            )
        return super()._autocast("float32")
