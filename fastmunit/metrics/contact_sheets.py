"""Contact sheets of an evaluation: inputs with their outputs, and outputs with the nearest real images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmunit import distributed
from fastmunit.metrics.features import FeatureNet, features_of
from fastmunit.metrics.images import evenly_spaced, rgb
from fastmunit.metrics.results import Score, Sheet
from fastmunit.metrics.task import Task

_NEIGHBORS = 3
_THUMBNAIL = 16
_INPUTS, _OUTPUTS = 5, 8
# Number of real images to search for neighbors; they are evenly spaced if there are more.
_MAX_SEARCHED = 1000


def contact_sheets(task: Task, scores: Sequence[Score], network: FeatureNet | None) -> list[Sheet]:
    """Return the contact sheets in the first process. The others compute a part of them and return none.

    Args:
        task: The evaluation.
        scores: Its scores; the first with `ranks` chooses the inputs to show.
        network: Network in whose features the nearest real images are searched; None compares thumbnails.
    """
    rows = _rows(task.inputs, scores)
    compared = [task.inputs[place] for place in evenly_spaced(len(task.inputs), 2 * _INPUTS)]
    in_rows = list(dict.fromkeys(index for _, indices in rows for index in indices))
    needed = list(dict.fromkeys([*in_rows, *compared]))

    def pictures(index: int) -> list[Tensor]:
        image = task.sources[index]
        outputs = rgb(task.outputs(index, image)[: _OUTPUTS if index in in_rows else 1])
        return [rgb(image[None])[0], *(output.clone() for output in outputs)]  # not a view of all outputs

    drawn = distributed.each_for_first(pictures, needed)
    training = task.training_images
    kind, pool = ("training", training) if training is not None else ("test", task.targets)
    searched = evenly_spaced(len(pool), _MAX_SEARCHED)

    def describe(image: Tensor) -> Tensor:
        """Return the vector (1, d), on the CPU, that images (1, 3, H, W) are compared by."""
        if network is None:
            return F.adaptive_avg_pool2d(image, _THUMBNAIL).flatten(1)
        return features_of(network, image.to(task.forward.device))

    def describe_real(index: int) -> Tensor | None:
        image = task.readable.read(pool, index)
        return None if image is None else describe(rgb(image[None]))

    descriptions = distributed.each(describe_real, searched)
    task.readable.share()
    if drawn is None:
        return []
    by_index = dict(zip(needed, drawn, strict=True))
    sheets = [Sheet(caption, [by_index[index] for index in indices]) for caption, indices in rows]
    real = {index: vector for index, vector in zip(searched, descriptions, strict=True) if vector is not None}
    if not real:
        return sheets
    some = f"of {len(real)} of the {len(pool)} " if len(real) < len(pool) else ""
    space = f"{_THUMBNAIL}x{_THUMBNAIL} pixels" if network is None else f"{network.name} features"
    outputs = [by_index[index][1] for index in compared]
    neighbors = _nearest(
        outputs,
        torch.cat([describe(output[None]) for output in outputs]),
        torch.cat(list(real.values())),
        lambda place: rgb(pool[list(real)[place]][None])[0],
    )
    caption = f"Outputs (first row), and below each the nearest {some}{kind} images in {space}"
    return [*sheets, Sheet(caption, neighbors)]


def largest_indices(values: Sequence[float], count: int) -> list[int]:
    """Return the indices of the `count` largest values, the largest first."""
    return sorted(range(len(values)), key=lambda index: -values[index])[:count]


def _rows(inputs: Sequence[int], scores: Sequence[Score]) -> list[tuple[str, list[int]]]:
    """Return the caption of each sheet of inputs with outputs, and the indices of its inputs."""
    ranking = next((score for score in scores if score.ranks), None)
    if ranking is None:
        return [("Inputs, then outputs", [inputs[place] for place in evenly_spaced(len(inputs), _INPUTS)])]
    values, half = ranking.per_input, min(_INPUTS, len(inputs) // 2)
    rows = []
    for word, places in (
        ("Most", largest_indices(values, half)),
        ("Least", largest_indices([-v for v in values], half)),
    ):
        numbers = ", ".join(f"{values[place]:.3g}" for place in places)
        caption = f"{word} {ranking.ranks} ({numbers}): input, then outputs"
        rows.append((caption, [inputs[place] for place in places]))
    return rows


def _nearest(
    outputs: Sequence[Tensor], vectors: Tensor, real: Tensor, read: Callable[[int], Tensor]
) -> list[list[Tensor]]:
    """Return rows of images: outputs, and below each the real images nearest to it. Memorized images would show.

    Args:
        outputs: Images (3, H, W).
        vectors: Vectors (N, d) of the outputs.
        real: Vectors (M, d) of the real images.
        read: Returns a real image.
    """
    nearest = torch.cdist(vectors, real).topk(min(_NEIGHBORS, len(real)), largest=False).indices.tolist()
    columns = [[output, *map(read, places)] for output, places in zip(outputs, nearest, strict=True)]
    return [list(row) for row in zip(*columns, strict=True)]
