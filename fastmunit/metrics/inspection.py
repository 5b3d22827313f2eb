"""Inspection of a model: per image, where a translation may show what its input does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmunit import distributed
from fastmunit.config import Config
from fastmunit.data.failures import Failure
from fastmunit.data.sources import GivenImages, ImageSources
from fastmunit.errors import ConfigError, DataError
from fastmunit.files import printable
from fastmunit.metrics.diversity import INPUTS
from fastmunit.metrics.evaluate import SAMPLES, Progress, start
from fastmunit.metrics.images import check_images, check_same_shape
from fastmunit.metrics.measures.edge_agreement import edge_strengths, why_no_edges
from fastmunit.metrics.measures.reconstruction import style_back
from fastmunit.metrics.sample import Sample
from fastmunit.metrics.task import Task
from fastmunit.systems.translators import Translator

COMPARED = 4
"""Number of outputs per input whose cycle error and edges are averaged."""

DISPLAYED = 40
"""Number of inputs with pictures, the worst ones."""

_MAX_SIDE = 320
"""Pictures and maps are reduced to sides of at most this many pixels."""

_SCALE_QUANTILE = 0.99

_Score = dict[str, float]


class Aspect(NamedTuple):
    """One thing to look at.

    Attributes:
        name: Key of its map.
        score: Key of its mean in the scores of an input.
        ranks: True if large scores come first.
    """

    name: str
    score: str
    ranks: bool


ASPECTS = (
    Aspect("cycle", "cycle_error", True),
    Aspect("edges", "edge_disagreement", True),
    Aspect("variation", "variation", False),
)


@dataclass(frozen=True)
class InspectedInput:
    """The scores of one input.

    Attributes:
        file: Name of the file, as printable text.
        mean_percentile: Mean over the aspects that rank of the fraction of other inputs with a smaller score.
        scores: "cycle_error", "edge_disagreement" and its parts "edges_added" and "edges_lost", and "variation".
    """

    file: str
    mean_percentile: float
    scores: _Score


@dataclass(frozen=True)
class Pictures:
    """Pictures of an input, reduced if they are large. The page shows the first three channels of images with more.

    Attributes:
        images: "input", "output" and, if the model translates back, "back": (C, H, W) in [-1, 1].
        maps: Map (H, W) per aspect; see `inspect`.
    """

    images: dict[str, Tensor]
    maps: dict[str, Tensor]


@dataclass(frozen=True)
class Inspection:
    """The inspection of one direction.

    Attributes:
        direction: "a2b" or "b2a".
        aspects: What was inspected.
        skipped: Reason per aspect that this model does not support.
        inputs: All inputs, the worst first.
        pictures: Pictures of the first `DISPLAYED` inputs. Empty in all processes except the first.
        scales: Value per aspect at which the color of its map is full: the largest 99th percentile of an input.
        failures: Images that could not be read and were left out.
    """

    direction: str
    aspects: list[Aspect]
    skipped: dict[str, str]
    inputs: list[InspectedInput]
    pictures: list[Pictures]
    scales: dict[str, float]
    failures: list[Failure] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return everything except the pictures, for JSON."""
        return {
            "direction": self.direction,
            "ranked_by": [aspect.score for aspect in ranking(self.aspects)],
            "skipped": self.skipped,
            "scales": self.scales,
            "inputs": [
                {"rank": number, "file": printed.file, "mean_percentile": printed.mean_percentile, **printed.scores}
                for number, printed in enumerate(self.inputs, 1)
            ],
            "failures": [{"file": printable(failure.path), "reason": failure.reason} for failure in self.failures],
        }


@torch.inference_mode()
def inspect(
    forward: Translator,
    config: Config,
    *,
    direction: str = "a2b",
    backward: Translator | None = None,
    inputs: int = INPUTS,
    samples: int = SAMPLES,
    seed: int = 0,
    progress: Progress | None = None,
    images: ImageSources | GivenImages | None = None,
) -> Inspection:
    """Translate test images with random styles, and find inputs and regions whose outputs may be invented.

    The maps of an input x with outputs y₁ … y_S are

    - cycle: mean|x'ᵢ - x| over channels, where x'ᵢ is yᵢ translated back with the style of x: what an output does not
      retain. (Zero is no proof: networks hide information in images. Source: Chu, Zhmoginov, Sandler, "CycleGAN, a
      Master of Steganography", 2017.);
    - edges: h(yᵢ) - h(x), where h is the edge strength of `edge_agreement` minus its mean, over its standard deviation.
      Positive are edges that only the output has. Half the mean square is 1 minus the edge agreement;
    - variation: the standard deviation over y₁ … y_S, averaged over channels: what the input leaves open.

    The first two are averaged over the first `COMPARED` outputs. Inputs are sorted by their mean percentile in cycle
    error and edge disagreement; without both, by variation.

    With several processes, every process must call it with the same arguments; see `evaluate.evaluate`, which also
    documents the arguments.

    Raises:
        DataError: If there are too few images, or images or outputs cannot be used.
        ConfigError: If nothing can be inspected, or the processes have different arguments.
        FastmunitError: If there is not enough memory.
        RankError: If another process has failed, has ended or does not answer.
    """

    def report(fraction: float, step: str) -> None:
        distributed.doing(f"inspection, {step}")
        if progress is not None and distributed.rank() == 0:
            progress(fraction, step)

    with distributed.Together():
        task = Task(forward, backward, config, direction, samples, seed, images)
        start(task, [], inputs)
        skipped = _skipped(task)
        aspects = [aspect for aspect in ASPECTS if aspect.name not in skipped]
        if not aspects:
            raise ConfigError(f"nothing is left to inspect ({'; '.join(skipped.values())}): use another model.")
        mine = distributed.block(len(task.inputs))

        def score(place: int) -> tuple[_Score, dict[str, float]]:
            report(0.8 * (place - mine.start) / len(mine), f"input {place + 1}/{len(task.inputs)}")
            scores, pictures = _look(task, Sample(task, place), aspects)
            flat = {name: values.abs().flatten() for name, values in pictures.maps.items()}
            return scores, {
                name: float(values.kthvalue(max(1, round(_SCALE_QUANTILE * len(values)))).values)
                for name, values in flat.items()
            }

        scored = distributed.each(score, range(len(task.inputs)))
        percentiles = mean_percentiles([[scores[aspect.score] for scores, _ in scored] for aspect in ranking(aspects)])
        order = sorted(range(len(scored)), key=lambda place: -percentiles[place])
        report(0.8, "pictures")
        pictures = distributed.each_for_first(
            lambda place: _look(task, Sample(task, place), aspects)[1], order[:DISPLAYED]
        )
        report(1.0, "done")
        return Inspection(
            direction,
            aspects,
            skipped,
            [
                InspectedInput(printable(task.sources.label(task.inputs[place])), percentiles[place], scored[place][0])
                for place in order
            ],
            pictures or [],
            {aspect.name: max(limits[aspect.name] for _, limits in scored) for aspect in aspects},
            task.readable.failures,
        )


def ranking(aspects: Sequence[Aspect]) -> list[Aspect]:
    """Return the aspects that inputs are sorted by: those that rank, or all if none does."""
    return [aspect for aspect in aspects if aspect.ranks] or list(aspects)


def mean_percentiles(scores: Sequence[Sequence[float]]) -> list[float]:
    """Return, per input, the mean over scores of the fraction of other inputs with a smaller value.

    Args:
        scores: Lists of one value per input, for at least two inputs.
    """
    values = torch.tensor(scores, dtype=torch.float64)
    smaller = (values[:, :, None] > values[:, None, :]).sum(dim=2)
    return (smaller.double() / (values.shape[1] - 1)).mean(dim=0).tolist()


def edge_difference(x: Tensor, y: Tensor) -> Tensor:
    """Return h(y) - h(x) per pixel, (N, H, W), with the standardized edge strengths h of `inspect`.

    Images without edges have h = 0.

    Args:
        x: Inputs (N, 3, H, W) in [-1, 1].
        y: Outputs, same shape.

    Raises:
        DataError: If the shapes differ, or the images are not RGB or smaller than 8 pixels.
    """
    for images in (x, y):
        check_images(images, "edge disagreement", 8)
    check_same_shape(x, y, "edge disagreement")
    return _standardized(edge_strengths(y)) - _standardized(edge_strengths(x))


def _standardized(edges: Tensor) -> Tensor:
    centered = edges[:, 0] - edges[:, 0].mean(dim=(1, 2), keepdim=True)
    deviation = centered.square().mean(dim=(1, 2), keepdim=True).sqrt()
    return (centered / deviation.clamp_min(1e-9)).where(deviation > 1e-9, 0.0)


def _skipped(task: Task) -> dict[str, str]:
    """Return the reason per aspect that the model does not support."""
    system, reasons = task.config.system, dict[str, str]()
    if task.backward is None:
        reasons["cycle"] = f"a {system} model does not translate back"
    if reason := why_no_edges(task.forward):
        reasons["edges"] = reason
    if not task.forward.style_dim:
        reasons["variation"] = "this model has no styles, and one output per image"
    return reasons


def _look(task: Task, sample: Sample, aspects: Sequence[Aspect]) -> tuple[_Score, Pictures]:
    """Return the scores of an input, and its pictures."""
    names = {aspect.name for aspect in aspects}
    scores: _Score = {}
    images = {"input": sample.image, "output": sample.translated[0]}
    maps: dict[str, Tensor] = {}
    compared = min(COMPARED, len(sample.translated)) if task.forward.style_dim else 1
    if "cycle" in names:
        images["back"], maps["cycle"] = _cycle(task, sample, compared)
        scores["cycle_error"] = float(maps["cycle"].double().mean())
    if "edges" in names:
        outputs = sample.outputs[:compared]
        difference = edge_difference(sample.input.expand_as(outputs), outputs).cpu()
        for name, part in (("added", difference.clamp_min(0)), ("lost", difference.clamp_max(0))):
            scores[f"edges_{name}"] = float(part.double().square().mean() / 2)
        scores["edge_disagreement"] = scores["edges_added"] + scores["edges_lost"]
        maps["edges"] = difference.mean(dim=0)
    if "variation" in names:
        maps["variation"] = sample.translated.float().std(dim=0).mean(dim=0)
        scores["variation"] = float(maps["variation"].double().mean())
    return scores, Pictures(
        {name: _reduced(image) for name, image in images.items()},
        {name: _reduced(values[None])[0] for name, values in maps.items()},
    )


def _cycle(task: Task, sample: Sample, compared: int) -> tuple[Tensor, Tensor]:
    """Return the first output translated back, and the map of the cycle error."""
    assert task.backward is not None
    style = style_back(task.backward, sample.image, task.seed)
    backs = torch.cat([task.backward.translate(output, style) for output in sample.translated[:compared]])
    if not bool(backs.isfinite().all()):
        raise DataError("the outputs translated back contain NaN: the network that made them has diverged.")
    return backs[0], (backs - sample.image.float()).abs().mean(dim=(0, 1))


def _reduced(image: Tensor) -> Tensor:
    """Return an image (C, H, W) that is not a view, averaged to sides of at most `_MAX_SIDE`."""
    height, width = image.shape[1:]
    factor = _MAX_SIDE / max(height, width)
    if factor >= 1:
        return image.float().clone()
    size = [max(1, round(side * factor)) for side in (height, width)]
    return F.interpolate(image[None].float(), size, mode="area")[0]
