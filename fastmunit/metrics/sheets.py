"""Pictures of an evaluation: which outputs to show, and the real images beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmunit import distributed
from fastmunit.metrics.features import FeatureNet, features_of
from fastmunit.metrics.inputs import InputValues
from fastmunit.metrics.readable import ReadableImages
from fastmunit.metrics.results import Sheet
from fastmunit.metrics.task import Task, rgb, spread

_NEIGHBOURS = 3
_THUMBNAIL = 16
_INPUTS, _OUTPUTS = 5, 8
# Real images to look for neighbours among, evenly spread where there are more.
_MOST_SEARCHED = 1000


def sheets(task: Task, readable: ReadableImages, chosen: Sequence[int], values: Sequence[InputValues]) -> list[Sheet]:
    """Return pictures of an evaluation, in the first process; the others, which compute their part, get none.

    Args:
        task: What was measured.
        readable: Reads the real images.
        chosen: Numbers of the inputs.
        values: What was measured of each.
    """
    rows = _rows(task, chosen, values)
    compared = [chosen[place] for place in spread(len(chosen), 2 * _INPUTS)]
    shown = list(dict.fromkeys(index for _, indices in rows for index in indices))
    needed = list(dict.fromkeys([*shown, *compared]))

    def pictures(index: int) -> list[Tensor]:
        x = task.sources[index]
        outputs = rgb(task.outputs(index, x)[: _OUTPUTS if index in shown else 1])
        return [rgb(x[None])[0], *(output.clone() for output in outputs)]  # not a view of all outputs

    drawn = distributed.each_for_first(pictures, needed)
    known = task.training_images()
    kind, pool = ("training", known) if known is not None else ("test", task.targets)
    network = next(iter(task.measures.features.values()), None)
    searched = spread(len(pool), _MOST_SEARCHED)

    def described(index: int) -> Tensor | None:
        image = readable.read(pool, index)
        return None if image is None else _description(rgb(image[None]), network, task.forward.device)

    descriptions = distributed.each(described, searched)
    readable.share()
    if drawn is None:
        return []
    by_index = dict(zip(needed, drawn, strict=True))
    found = [Sheet(caption, [by_index[index] for index in indices]) for caption, indices in rows]
    real = {index: one for index, one in zip(searched, descriptions, strict=True) if one is not None}
    if not real:
        return found
    some = f"of {len(real)} of the {len(pool)} " if len(real) < len(pool) else ""
    outputs = [by_index[index][1] for index in compared]
    return [
        *found,
        _neighbours(
            outputs,
            torch.cat([_description(output[None], network, task.forward.device) for output in outputs]),
            torch.cat(list(real.values())),
            lambda place: rgb(pool[list(real)[place]][None])[0],
            f"{some}{kind} images in {_space(network)}",
        ),
    ]


def most(values: Sequence[float], count: int) -> list[int]:
    """Return the places of the `count` largest values, the largest first."""
    return sorted(range(len(values)), key=lambda place: -values[place])[:count]


def _rows(task: Task, chosen: Sequence[int], values: Sequence[InputValues]) -> list[tuple[str, list[int]]]:
    """Caption of each sheet of inputs and outputs, and the numbers of its inputs."""
    if not task.measures.lpips:
        return [("Inputs, then outputs", [chosen[place] for place in spread(len(chosen), _INPUTS)])]
    name = task.measures.lpips[0].name
    diversity = [found.lpips[name] for found in values]
    half = min(_INPUTS, len(chosen) // 2)
    rows = []
    for kind, places in (("Most", most(diversity, half)), ("Least", most([-v for v in diversity], half))):
        shown = ", ".join(f"{diversity[place]:.3g}" for place in places)
        caption = f"{kind} diverse inputs by {name} ({shown}): input, then outputs"
        rows.append((caption, [chosen[place] for place in places]))
    return rows


def _description(image: Tensor, network: FeatureNet | None, device: torch.device) -> Tensor:
    """What distances of images (1, 3, H, W) are measured in: (1, d), on the CPU."""
    if network is None:
        return F.adaptive_avg_pool2d(image, _THUMBNAIL).flatten(1)
    return features_of(network, image.to(device))


def _space(network: FeatureNet | None) -> str:
    return f"{_THUMBNAIL}x{_THUMBNAIL} pixels" if network is None else f"{network.name} features"


def _neighbours(
    outputs: Sequence[Tensor], described: Tensor, real: Tensor, read: Callable[[int], Tensor], kind: str
) -> Sheet:
    """Outputs, and below each the real images nearest to it: images learned by heart would show.

    Args:
        outputs: (3, H, W) in [-1, 1].
        described: Of the outputs, (N, d).
        real: Of the images to look among, (M, d).
        read: Returns one of these images.
        kind: What they are, for the caption.
    """
    nearest = torch.cdist(described, real).topk(min(_NEIGHBOURS, len(real)), largest=False).indices.tolist()
    columns = [[output, *map(read, found)] for output, found in zip(outputs, nearest, strict=True)]
    rows = [list(row) for row in zip(*columns, strict=True)]
    return Sheet(f"Outputs (first row), and below each the nearest {kind}", rows)
