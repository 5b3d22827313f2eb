"""What can be measured at all, found out before anything is."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastmunit import distributed
from fastmunit.data.paths import Domain, domain_files
from fastmunit.errors import ConfigError, DataError
from fastmunit.metrics.classifier import Classifier, accuracy_on, class_folders
from fastmunit.metrics.readable import ReadableImages
from fastmunit.metrics.task import Task, code, spread


@dataclass
class Plan:
    """What will be measured.

    Attributes:
        chosen: Numbers of the inputs.
        skipped: Measure → why this model has none.
        accuracy: How good the classifier is, in words; empty without one.
    """

    chosen: list[int]
    skipped: dict[str, str] = field(default_factory=dict)
    accuracy: str = ""


def plan(task: Task, readable: ReadableImages, inputs: int) -> Plan:
    """Return what will be measured of a task with so many inputs.

    Raises:
        DataError: There are too few images, or images or a classifier that the measures cannot take.
        ConfigError: Nothing is left to measure.
    """
    for name, images in (("input", task.sources), ("target", task.targets)):
        if len(images) < 2:
            raise DataError(f"an evaluation needs at least 2 {name} test images, {len(images)} found: add some.")
    found = Plan(readable.inputs(task.sources, spread(len(task.sources), inputs)))
    if len(found.chosen) < 2:
        reason = next(iter(readable.reasons.values()))
        raise DataError(f"an evaluation needs at least 2 input test images that can be read: {reason}")
    if task.forward.target_channels not in (1, 3):
        raise DataError(
            f"the measures take RGB or grey images, and the model makes images of {task.forward.target_channels} "
            "channels."
        )
    found.skipped = _skipped(task, found.chosen[0])
    if found.skipped and not _left_to_measure(task, found.skipped):
        reasons = "; ".join(f"{name}: {reason}" for name, reason in found.skipped.items())
        raise ConfigError(f"nothing is left to measure ({reasons}): name other metrics.")
    if task.measures.classifier is not None:
        found.accuracy = _accuracy(task, task.measures.classifier, readable)
    return found


def _skipped(task: Task, index: int) -> dict[str, str]:
    """Measures that the model has not, and why; test image `index` serves to try it."""
    wanted = task.measures
    if not (wanted.content_code or wanted.reconstruction):
        return {}
    if task.backward is None:
        reason, reconstruction = f"a {task.config.system} model does not translate back", "reconstruction"
    elif not _has_content_code(task, index):
        reason = f"a {task.config.system} model has no content code that both domains share"
        reconstruction = "reconstruction within the domain"
    else:
        return {}
    names = [("content-code", wanted.content_code), (reconstruction, wanted.reconstruction)]
    return {name: reason for name, asked in names if asked}


def _has_content_code(task: Task, index: int) -> bool:
    """An encoder whose result has the form of an image hands the image on: it is no code."""
    assert task.backward is not None
    x = task.sources[index]
    there = code(task.forward, x)
    back = code(task.backward, task.outputs(index, x)[0])
    return there.shape == back.shape and there.shape[2:] != x.shape[1:]


def _left_to_measure(task: Task, skipped: dict[str, str]) -> bool:
    """Whether anything that is wanted is not skipped."""
    wanted = task.measures
    return bool(
        wanted.lpips
        or wanted.features
        or wanted.classifier is not None
        or wanted.edge_agreement
        or (wanted.content_code and "content-code" not in skipped)
        or (wanted.reconstruction and "reconstruction" not in skipped)
    )


def _accuracy(task: Task, classifier: Classifier, readable: ReadableImages) -> str:
    """How good the classifier is, in words. Raises DataError when the test images have other classes than it."""
    source, target = task.domains
    classes, others = _class_names(task, target), _class_names(task, source)
    if classes and classes != others == set(classifier.classes):
        raise DataError(
            f"{task.direction} makes images of domain {target.upper()}, and the classifier is of the classes "
            f"of domain {source.upper()}: give one of domain {target.upper()}, or measure the other direction."
        )
    known = (
        f"accuracy {100 * classifier.accuracy:.1f} % on {classifier.held_out} held-out images"
        if classifier.accuracy is not None
        else "accuracy not known"
    )
    if classes:
        folder = domain_files(task.config, "test", target).source
        here, count = accuracy_on(
            classifier,
            folder,
            max_pixels=task.config.max_pixels,
            reasons=readable.reasons,
            each=distributed.each,
        )
        known += f", {100 * here:.1f} % on {count} test images"
    return f"classifier of {len(classifier.classes)} classes: {known}"


def _class_names(task: Task, domain: Domain) -> set[str]:
    """Of the class folders that the domain's test images lie in; empty where they lie in none."""
    if task.given is not None:
        return set()
    folder = domain_files(task.config, "test", domain).source
    names = {path.name for path in class_folders(folder)} if folder.is_dir() else set()
    return names if len(names) >= 2 else set()
