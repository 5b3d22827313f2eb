"""Evaluation of the translations while a run trains."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fastmunit.config import Config
from fastmunit.data.failures import unreadable
from fastmunit.data.sources import GivenImages
from fastmunit.errors import CheckpointError, ConfigError
from fastmunit.metrics.confidence import MIN_COUNT
from fastmunit.metrics.load import load_measures
from fastmunit.metrics.measure import Measure, check_names, variants
from fastmunit.metrics.repeated import RepeatedEvaluation
from fastmunit.nn.networks import imagenet
from fastmunit.runs.checkpoints.best import Best
from fastmunit.runs.reports.evaluation_log import EvaluationRecord, Figure

if TYPE_CHECKING:
    import torch

    from fastmunit.systems.base import System
    from fastmunit.systems.translators import Translator

# Names of the default measures by the ImageNet network that they need. A run takes those of the first at hand.
_KID: dict[imagenet.Backbone, str] = {"alexnet": "kid-alexnet", "vgg16": "kid-vgg16"}
_DIVERSITY: dict[imagenet.Backbone, str] = {"alexnet": "lpips-alex-v0.1", "vgg16": "lpips-vgg-v0.1"}
_WITHOUT_WEIGHTS = ("edge-agreement", "content-code", "reconstruction")


class Evaluator:
    """Measures the translations of a system in training, always with the same test images and styles.

    It neither changes the system nor draws from torch's global generators. Every process must call the constructor and
    `measure`.

    Args:
        config: Configuration of the run, with `eval_iter`.
        trainer: The system, on its device.
        given: Images instead of those that `config` names.
        notify: Function that takes sentences for the user.

    Raises:
        ConfigError: If a measure is unknown or impossible in a training, the model supports none, the system lacks the
            direction, or there are too few images for `eval_patience`.
        CheckpointError: If a measure that `eval_metrics` names needs weights that are not on this machine.
        DataError: If there are too few test images, or the measures cannot use them.
    """

    def __init__(
        self, config: Config, trainer: System, given: GivenImages | None, notify: Callable[[str], None]
    ) -> None:
        self._config = config
        self._backward = {"a2b": "b2a", "b2a": "a2b"}[config.eval_direction]
        forward, backward = self._translators(trainer)
        if config.eval_metrics is None:
            measures = _default_measures(bool(forward.style_dim), trainer.device, notify)
        else:
            measures = _named_measures(config.eval_metrics, trainer.device)
        self._evaluation = RepeatedEvaluation(
            forward,
            backward,
            config,
            measures,
            direction=config.eval_direction,
            inputs=config.eval_inputs,
            samples=config.eval_samples,
            images=given,
        )
        measured = {measure.name for measure in self._evaluation.measures}
        self._names = [measure.name for measure in measures if measure.name in measured]
        if config.eval_metrics is not None and measures[0].name not in measured:
            raise ConfigError(
                f"eval_metrics: {measures[0].name}, the first, decides which checkpoint is the best, but "
                f"{self._evaluation.skipped[measures[0].name]}: name another one first."
            )
        # Without weights, no measure says how real the outputs look, unless the user names one that does.
        self._decides = config.eval_metrics is not None or self._names[0] in _KID.values()
        self._report(notify)

    def _report(self, notify: Callable[[str], None]) -> None:
        config, evaluation = self._config, self._evaluation
        for name, reason in evaluation.skipped.items():
            notify(f"Evaluations leave out {name}: {reason}.")
        if evaluation.failures:
            count, first = len(evaluation.failures), evaluation.failures[0]
            notify(f"Evaluations: {unreadable(count)} and will be left out, the first: {first}")
        few = f"{evaluation.inputs} input and {evaluation.targets} target test images"
        if min(evaluation.inputs, evaluation.targets) < MIN_COUNT:
            if config.eval_patience is not None:
                raise ConfigError(
                    f"eval_patience needs intervals, and these need {MIN_COUNT} test images of each domain, got {few}: "
                    "add images, raise eval_inputs, or unset eval_patience."
                )
            notify(f"Evaluations have no intervals: these need {MIN_COUNT} test images of each domain, got {few}.")
        decides = f" {self._names[0]} decides which checkpoint is the best." if self._decides else ""
        notify(
            f"Evaluation every {config.eval_iter:,} iterations, {config.eval_direction}: {', '.join(self._names)} of "
            f"{evaluation.inputs} test images x {config.eval_samples} outputs.{decides}"
        )

    def is_due(self, iteration: int) -> bool:
        """Return True if an iteration is one of those that are evaluated."""
        return self._config.eval_iter is not None and iteration % self._config.eval_iter == 0

    def measure(self, trainer: System, iteration: int, seconds: float) -> EvaluationRecord:
        """Measure the system, with averaged weights if it has them.

        Args:
            trainer: The system.
            iteration: Iterations done.
            seconds: Training time so far.

        Raises:
            DataError: If the outputs have NaN.
        """
        began = time.monotonic()
        scores = self._evaluation.measure(*self._translators(trainer))
        return EvaluationRecord(
            iteration=iteration,
            seconds=seconds,
            duration=time.monotonic() - began,
            direction=self._config.eval_direction,
            inputs=self._evaluation.inputs,
            samples=self._config.eval_samples,
            conditions=self._evaluation.digest,
            figures=[Figure.of(name, score) for name in self._names for score in scores[name]],
        )

    def best(self, records: Sequence[EvaluationRecord]) -> Best | None:
        """Return the best of the records that were measured under the same conditions; the first of equal ones.

        None if there is none, or no measure decides.
        """
        best: Best | None = None
        for record in records:
            figure = self._deciding(record)
            if figure is not None and (best is None or figure.is_better_than(best.value)):
                best = Best(
                    iteration=record.iteration,
                    measure=figure.measure,
                    score=figure.name,
                    direction=record.direction,
                    value=figure.value,
                    low=figure.low,
                    high=figure.high,
                )
        return best

    def is_over(self, records: Sequence[EvaluationRecord]) -> bool:
        """Return True if `eval_patience` ends the training."""
        patience = self._config.eval_patience
        comparable = [record for record in records if record.conditions == self._evaluation.digest]
        return patience is not None and without_improvement(comparable) >= patience

    def _deciding(self, record: EvaluationRecord) -> Figure | None:
        if not self._decides or record.conditions != self._evaluation.digest:
            return None
        return next((figure for figure in record.figures if figure.measure == self._names[0] and figure.better), None)

    def _translators(self, trainer: System) -> tuple[Translator, Translator | None]:
        other = trainer.evaluation_translator(self._backward) if self._backward in trainer.directions else None
        return trainer.evaluation_translator(self._config.eval_direction), other


def _default_measures(styles: bool, device: torch.device, notify: Callable[[str], None]) -> list[Measure]:
    """Load KID and LPIPS diversity with the first ImageNet network at hand; without one, measures that need none.

    Args:
        styles: True if the model has styles; without them, all outputs of an input are equal.
        device: Device to measure on.
        notify: Function that takes sentences for the user.
    """
    backbone = next((name for name in _KID if imagenet.at_hand(name)), None)
    if backbone is None:
        notify(
            "Evaluations leave out KID and LPIPS diversity, and no checkpoint is called the best: there are no weights "
            f"of AlexNet or VGG-16 on this machine, and a training downloads none. Set {imagenet.WEIGHTS_VARIABLE} to "
            "a folder that has them, or run `fastmunit evaluate` once, which downloads them."
        )
        return load_measures(_WITHOUT_WEIGHTS, device=device)
    measures = load_measures([_KID[backbone]], device=device)
    if not styles:
        notify("Evaluations leave out LPIPS diversity: the model gives one output per input.")
        return measures
    try:
        return [*measures, *load_measures([_DIVERSITY[backbone]], device=device)]
    except CheckpointError as error:  # no package with the linear heads
        notify(f"Evaluations leave out LPIPS diversity: {error}")
        return measures


def _named_measures(names: Sequence[str], device: torch.device) -> list[Measure]:
    """Load the measures that `eval_metrics` names, without a download."""
    check_names(names)
    for name in names:
        measure, options = variants()[name]
        if measure.needs_classifier:
            raise ConfigError(f"eval_metrics: {name} needs a classifier, which a training does not have: leave it out.")
        missing = [backbone for backbone in measure.backbones(**options) if not imagenet.at_hand(backbone)]
        if missing:
            raise CheckpointError(
                f"eval_metrics: {name} needs the weights of {missing[0]}, which are not on this machine, and a "
                f"training downloads none: set {imagenet.WEIGHTS_VARIABLE} to a folder with {missing[0]}_features.pth, "
                f"or leave {name} out."
            )
    return load_measures(names, device=device)


def without_improvement(records: Sequence[EvaluationRecord]) -> int:
    """Return the number of evaluations since the last one in which a figure improved beyond its interval.

    A figure is compared with the interval that it had when it last improved, so that many small steps add up.
    """
    references: dict[str, Figure] = {}
    count = 0
    for record in records:
        count += 1
        for figure in record.figures:
            earlier = references.get(figure.name)
            if earlier is None or figure.improves_on(earlier):
                references[figure.name] = figure
                count = 0
    return count
