"""Evaluate one direction of a trained model."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from fastmunit import distributed
from fastmunit.config import Config
from fastmunit.data.sources import GivenImages, ImageSources
from fastmunit.errors import ConfigError, DataError
from fastmunit.files import printable
from fastmunit.metrics.contact_sheets import contact_sheets
from fastmunit.metrics.diversity import INPUTS, PAIRS
from fastmunit.metrics.measure import Measure
from fastmunit.metrics.real_images import RealImages
from fastmunit.metrics.results import Evaluation, Score
from fastmunit.metrics.task import Task
from fastmunit.systems.translators import Translator

SAMPLES = 2 * PAIRS
"""Outputs per input: `PAIRS` disjoint pairs of independent ones."""

Progress = Callable[[float, str], None]


@torch.inference_mode()
def evaluate(
    forward: Translator,
    config: Config,
    measures: Sequence[Measure],
    *,
    direction: str = "a2b",
    backward: Translator | None = None,
    inputs: int = INPUTS,
    samples: int = SAMPLES,
    seed: int = 0,
    progress: Progress | None = None,
    images: ImageSources | GivenImages | None = None,
) -> Evaluation:
    """Translate test images with random styles and measure the outputs.

    With several processes (see `fastmunit.distributed.setup`), every process must call it with the same arguments.
    Each measures a part of the inputs and of the real images, and all return the same results. They are equal to those
    of one process to the bit on the same kind of device with the same number of threads. If one process fails, all do.

    Args:
        forward: Translator to measure.
        config: Configuration that names the test images, their size and channels.
        measures: Measures, from `load.load_measures` or constructed with their networks.
        direction: Direction of `forward`, "a2b" or "b2a".
        backward: Translator of the other direction, for measures that translate back; None if the model has none.
        inputs: Number of test images, evenly spaced over the files; all of them if there are fewer.
        samples: Number of outputs per input, with independent styles. The single output of a system without styles
            is repeated `samples` times.
        seed: Seed of the styles. Input k gets the same styles for any number of inputs.
        progress: Called in the first process with the completed fraction and the current step.
        images: Test images, and training images to compare with, that replace those of `config`.

    Returns:
        The scores, measured on the images that can be read; `failures` names the others. `sheets` is empty in all
        processes except the first.

    Raises:
        DataError: If there are too few images for a measure, or it cannot use the images or outputs.
        ConfigError: If the model supports none of the measures, or the processes have different arguments.
        FastmunitError: If a package is missing, or there is not enough memory.
        RankError: If another process has failed, has ended or does not answer.
    """

    def report(fraction: float, step: str) -> None:
        distributed.doing(f"evaluation, {step}")
        if progress is not None and distributed.rank() == 0:
            progress(fraction, step)

    with distributed.Together():
        task = Task(forward, backward, config, direction, samples, seed, images)
        active, skipped = start(task, measures, inputs)
        real = RealImages(task)
        for number, measure in enumerate(active):
            report(0.15 * number / len(active), f"{measure.name} of real images")
            measure.prepare(real)
        observed = observe_inputs(task, active, report)
        scores: list[Score] = []
        for number, measure in enumerate(active):
            report(0.8 + 0.17 * number / len(active), f"{measure.name} and its interval")
            scores += measure.scores([values[number] for values in observed])
        report(0.97, "contact sheets")
        network = next((measure.feature_net for measure in active if measure.feature_net is not None), None)
        sheets = contact_sheets(task, scores, network)
        report(1.0, "done")
        return Evaluation(direction, scores, skipped, _rows(task, scores), sheets, task.readable.failures)


@torch.inference_mode()
def require_possible(
    forward: Translator,
    config: Config,
    measures: Sequence[Measure],
    *,
    direction: str = "a2b",
    backward: Translator | None = None,
    images: ImageSources | GivenImages | None = None,
) -> None:
    """Raise the errors that `evaluate` would raise before it measures anything. Arguments: see `evaluate`."""
    with distributed.Together():
        start(Task(forward, backward, config, direction, 2, 0, images), measures, 2)


def start(task: Task, measures: Sequence[Measure], inputs: int) -> tuple[list[Measure], dict[str, str]]:
    """Choose the inputs and the measures that the model supports, the same in all processes.

    Returns:
        Copies of the measures in the order of the report, and the reason per measure that is skipped.
    """
    if distributed.is_active():
        distributed.require_same(
            {
                "configuration": task.config.to_dict(),
                "set of test images": [images.source.identity() for images in (task.sources, task.targets)],
                "choice of inputs and outputs": [task.direction, inputs, task.samples, task.seed],
                "choice of measures": [measure.name for measure in measures],
                "set of weights": _digest(task, measures),
            }
        )
    task.choose_inputs(inputs)
    if measures and task.forward.target_channels not in (1, 3):
        raise DataError(
            f"measures need RGB or gray images, but the outputs have {task.forward.target_channels} channels: inspect "
            "the model instead (--inspect)."
        )
    chosen = [copy.copy(measure) for measure in _in_report_order(measures)]
    skipped: dict[str, str] = {}
    for measure in chosen:
        measure.task = task
        skipped |= measure.check()
    active = [measure for measure in chosen if measure.name not in skipped]
    if skipped and not active:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise ConfigError(f"nothing is left to measure ({reasons}): name other metrics.")
    return active, skipped


def _in_report_order(measures: Sequence[Measure]) -> list[Measure]:
    """Sort measures by their `order`, and list those that share a feature network together."""
    groups: dict[Any, list[Measure]] = {}
    for measure in sorted(measures, key=lambda measure: measure.order):
        groups.setdefault(measure.feature_net or measure, []).append(measure)
    return [measure for group in groups.values() for measure in group]


def observe_inputs(task: Task, measures: Sequence[Measure], report: Progress) -> list[list[Any]]:
    """Return what each measure observes, per input. A process computes its block of the inputs."""
    mine = distributed.block(len(task.inputs))
    process = f" (process {distributed.rank() + 1} of {distributed.world_size()})" if distributed.is_active() else ""

    def observe(place: int) -> list[Any]:
        done = place - mine.start
        report(0.15 + 0.65 * done / len(mine), f"input {done + 1}/{len(mine)}{process}")
        sample = task.sample(place)
        return [measure.observe(sample) for measure in measures]

    return distributed.each(observe, range(len(task.inputs)))


def _rows(task: Task, scores: Sequence[Score]) -> list[dict[str, Any]]:
    """Return file name and values of each input."""
    return [
        {"file": printable(task.sources.label(index))} | {s.name: s.per_input[place] for s in scores if s.per_input}
        for place, index in enumerate(task.inputs)
    ]


def _digest(task: Task, measures: Sequence[Measure]) -> str:
    """Return a digest of the weights of all networks."""
    digest = hashlib.sha256()
    for network in dict.fromkeys(_networks(task, measures)):
        for name, value in network.state_dict().items():
            if value.is_meta:  # of the other direction, which this translator does not have
                continue
            digest.update(name.encode())
            digest.update(value.contiguous().reshape(-1).view(torch.uint8).cpu().numpy())
    return digest.hexdigest()


def _networks(task: Task, measures: Sequence[Measure]) -> Iterator[nn.Module]:
    for owner in (task.forward, task.backward, *measures):
        if owner is not None:
            yield from (value for value in vars(owner).values() if isinstance(value, nn.Module))
