"""Measuring one direction of a trained model by the papers' protocols."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from fastmunit import distributed
from fastmunit.config import Config
from fastmunit.data.sources import GivenImages, ImageSources
from fastmunit.distributed.processes import heartbeat
from fastmunit.metrics.diversity import INPUTS, PAIRS
from fastmunit.metrics.figures import Figures
from fastmunit.metrics.inputs import InputMeasurement, InputValues
from fastmunit.metrics.measures import Measures
from fastmunit.metrics.readable import ReadableImages
from fastmunit.metrics.real_images import measure_real
from fastmunit.metrics.requirements import Plan, plan
from fastmunit.metrics.results import Evaluation
from fastmunit.metrics.sheets import sheets
from fastmunit.metrics.task import Task
from fastmunit.systems.translator import Translator

SAMPLES = 2 * PAIRS
"""Outputs of each input: `PAIRS` disjoint pairs of independent ones."""

Progress = Callable[[float, str], None]


@torch.inference_mode()
def evaluate(
    forward: Translator,
    config: Config,
    measures: Measures,
    *,
    direction: str = "a2b",
    backward: Translator | None = None,
    inputs: int = INPUTS,
    samples: int = SAMPLES,
    seed: int = 0,
    progress: Progress | None = None,
    images: ImageSources | GivenImages | None = None,
) -> Evaluation:
    """Translate test images into random styles and measure the outputs.

    With several processes (see `fastmunit.distributed.setup`) every one has to call it, with the same arguments: each
    measures its part of the inputs and of the real images, and all return what one process would, bit for bit with the
    same kind of device and the same number of threads. When one of them fails, all do.

    Args:
        forward: the direction to measure.
        config: names the test images, their size and channels.
        measures: what to measure.
        direction: of `forward`.
        backward: the other direction, for what needs a way back; None where the model has none.
        inputs: how many test images, evenly spread over the files; all of them if there are fewer.
        samples: outputs of each, with independent styles; a system without styles has one, counted `samples` times.
        seed: of the styles: input k gets the same ones whatever the number of inputs.
        progress: is called in the first process, with the fraction done and what is being done.
        images: test images, and those of the training for comparison, in place of those that `config` names.

    Returns:
        The figures, of the images that can be read; `failures` names the others. Only the first process has `sheets`.

    Raises:
        DataError: there are too few images for a measure, or images or outputs that it cannot take.
        ConfigError: the model has nothing of what is to be measured, or the processes were given different things.
        FastmunitError: a package is missing, or there is not enough memory.
        RankError: another process has failed, has ended, or does not answer.
    """

    def tell(fraction: float, text: str) -> None:
        beats = heartbeat()
        if beats is not None:
            beats.doing(f"evaluation, {text}")
        if progress is not None and distributed.rank() == 0:
            progress(fraction, text)

    with distributed.Together():
        task = Task.of(forward, backward, config, measures, direction, samples, seed, images)
        readable = ReadableImages()
        found = _prepare(task, readable, inputs)
        real = measure_real(task, readable, len(found.chosen), tell)
        values = _measure_inputs(task, found, tell)
        figures = Figures(task, found, values, real)
        shown = figures.all(tell)
        tell(0.97, "sheets")
        pictures = sheets(task, readable, found.chosen, values)
        tell(1.0, "done")
        return Evaluation(direction, shown, found.skipped, figures.per_input(), pictures, readable.failures)


@torch.inference_mode()
def require_possible(
    forward: Translator,
    config: Config,
    measures: Measures,
    *,
    direction: str = "a2b",
    backward: Translator | None = None,
    images: ImageSources | GivenImages | None = None,
) -> None:
    """Raise what `evaluate` would raise before its first figure, for callers that have other work to do before it.

    Arguments and errors as of `evaluate`.
    """
    with distributed.Together():
        _prepare(Task.of(forward, backward, config, measures, direction, 2, 0, images), ReadableImages(), 2)


def _prepare(task: Task, readable: ReadableImages, inputs: int) -> Plan:
    """What will be measured, the same in all processes."""
    if distributed.is_active():
        distributed.require_same(
            {
                "configuration": task.config.to_dict(),
                "set of test images": [images.source.identity() for images in (task.sources, task.targets)],
                "choice of inputs and outputs": [task.direction, inputs, task.samples, task.seed],
                "choice of measures": _named(task.measures),
                "set of weights": _digest(task),
            }
        )
    return plan(task, readable, inputs)


def _measure_inputs(task: Task, found: Plan, tell: Progress) -> list[InputValues]:
    """The values of each input; a process measures its block of them."""
    measurement = InputMeasurement(task, found.chosen, found.skipped)
    mine = distributed.block(len(found.chosen))
    whose = f" of this one of {distributed.world_size()} processes" if distributed.is_active() else ""

    def measured(place: int) -> InputValues:
        done = place - mine.start
        tell(0.15 + 0.65 * done / len(mine), f"input {done + 1}/{len(mine)}{whose}")
        return measurement.measure(place)

    return distributed.each(measured, range(len(found.chosen)))


def _named(measures: Measures) -> list[Any]:
    return [
        [measure.name for measure in measures.lpips],
        measures.frechet,
        measures.kernel,
        measures.edge_agreement,
        measures.content_code,
        measures.reconstruction,
    ]


def _digest(task: Task) -> str:
    """Of the weights of all networks that are used."""
    digest = hashlib.sha256()
    for network in _networks(task):
        for name, value in network.state_dict().items():
            digest.update(name.encode())
            digest.update(value.contiguous().reshape(-1).view(torch.uint8).cpu().numpy())
    return digest.hexdigest()


def _networks(task: Task) -> Iterator[nn.Module]:
    for translator in (task.forward, task.backward):
        yield from (part for part in vars(translator).values() if isinstance(part, nn.Module)) if translator else ()
    yield from task.measures.lpips
    yield from task.measures.features.values()
    if task.measures.classifier is not None:
        yield task.measures.classifier
