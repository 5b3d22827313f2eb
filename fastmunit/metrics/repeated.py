"""Evaluations that are repeated while a model is trained."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import torch

from fastmunit import distributed
from fastmunit.config import Config
from fastmunit.data.failures import Failure
from fastmunit.data.sources import GivenImages
from fastmunit.metrics.evaluate import observe_inputs, start
from fastmunit.metrics.measure import Measure
from fastmunit.metrics.real_images import RealImages
from fastmunit.metrics.results import Score
from fastmunit.metrics.task import Task
from fastmunit.systems.translators import Translator

SEED = 0
"""Seed of the styles, that of `fastmunit evaluate`: runs with different seeds are measured with equal styles."""


class RepeatedEvaluation:
    """An evaluation that measures a model again and again, with the same inputs, styles and real images.

    The scores are those that `evaluate` computes with the same number of inputs and samples and seed 0. Inputs are read
    and real images are measured once, by the constructor, which also measures one input: what cannot be measured is
    refused there. Every process must call the constructor and `measure`. Arguments: see `evaluate`.

    Attributes:
        measures: The measures that the model supports, in the order of reports.
        skipped: Reason per measure, or part of one, that the model does not support.

    Raises:
        DataError: If there are too few images for a measure, or it cannot use the images or outputs.
        ConfigError: If the model supports none of the measures.
    """

    @torch.inference_mode()
    def __init__(
        self,
        forward: Translator,
        backward: Translator | None,
        config: Config,
        measures: Sequence[Measure],
        *,
        direction: str,
        inputs: int,
        samples: int,
        images: GivenImages | None = None,
    ) -> None:
        distributed.doing("preparing evaluations")
        with distributed.Together():
            self._task = Task(forward, backward, config, direction, samples, SEED, images)
            self.measures, self.skipped = start(self._task, measures, inputs)
            self._task.keep_inputs()
            real = RealImages(self._task)
            for measure in self.measures:
                measure.prepare(real)
                measure.observe(self._task.sample(0))

    @property
    def inputs(self) -> int:
        """Number of inputs; at most that of the test images that can be read."""
        return len(self._task.inputs)

    @property
    def targets(self) -> int:
        """Number of test images of the target domain."""
        return len(self._task.targets)

    @property
    def failures(self) -> list[Failure]:
        """Images that could not be read and are left out."""
        return self._task.readable.failures

    @property
    def digest(self) -> str:
        """Digest of what values depend on besides the weights: values of equal digests can be compared."""
        task = self._task
        images = [dataset.source.identity() for dataset in (task.sources, task.targets)]
        facts = [task.direction, task.inputs, task.samples, task.seed, images]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    @torch.inference_mode()
    def measure(self, forward: Translator, backward: Translator | None) -> dict[str, list[Score]]:
        """Measure the model as it is now and return the scores of each measure by its name, the same in all processes.

        Raises:
            DataError: If the outputs have NaN.
            RankError: If another process has failed, has ended or does not answer.
        """
        with distributed.Together():
            self._task.replace_model(forward, backward)
            observed = observe_inputs(self._task, self.measures, lambda _, step: distributed.doing(step))
            scores = {
                measure.name: measure.scores([values[number] for values in observed])
                for number, measure in enumerate(self.measures)
            }
        self._task.replace_model(forward, backward)  # outputs of the last inputs would stay in memory
        return scores
