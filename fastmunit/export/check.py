"""The check of exported files: the same inputs through PyTorch and through the file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import torch
from torch import Tensor

from fastmunit.config import Config
from fastmunit.export.graphs import Graph, min_multiples
from fastmunit.systems.translators import Translator

LIMIT = 1e-4
"""Largest error of a graph with float32 weights."""
BLANK_LIMIT = 1e-2
"""Largest error of a graph with float32 weights on blank images. Instance norm divides their rounding by √eps."""
RANDOM = (None,)
"""Random images, for `largest_error`."""
BLANK = (-1.0, 0.0, 1.0)
"""The values of blank images, for `largest_error`."""
_COUNTS = (5, 2, 1)

Run = Callable[[Sequence[Tensor]], Tensor]


def checked_cases(translator: Translator, config: Config) -> tuple[tuple[int, int, int], ...]:
    """Return three heights and widths of images, each with a number of images or styles.

    They are the least size, a larger one that is not square, and the size of the training's crops.
    """
    multiple, least = translator.multiple, min_multiples(translator)
    crop = tuple(max(least, -(-side // multiple)) for side in (config.crop_image_height, config.crop_image_width))
    if crop == (least, least):
        crop = (least + 2, least)
    sizes = ((least, least), (least + 1, least + 2), crop)
    return tuple(
        (height * multiple, width * multiple, count) for (height, width), count in zip(sizes, _COUNTS, strict=True)
    )


def largest_error(
    graph: Graph, run: Run, cases: Sequence[tuple[int, int, int]], values: Sequence[float | None] = RANDOM
) -> float:
    """Return the largest `difference` between a file and PyTorch, NaN if the file gives NaN."""
    errors = []
    for (height, width, count), value in product(cases, values):
        with torch.no_grad():
            case = graph.case(height, width, count, value)
        errors.append(difference(run(case.inputs), case.output))
    return float(np.max(errors))


def difference(output: Tensor, expected: Tensor) -> float:
    """Return the largest difference, divided by the largest expected value if that exceeds 1; inf for another shape.

    Content codes have values above 1.
    """
    if output.shape != expected.shape:
        return float("inf")
    expected = expected.double()
    return float((output - expected).abs().max() / expected.abs().max().clamp_min(1))
