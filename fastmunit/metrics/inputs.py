"""Measuring the outputs of one input."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fastmunit.data.seeding import named_generator
from fastmunit.errors import FastmunitError
from fastmunit.metrics.checks import check_images
from fastmunit.metrics.content import content_code_distance, edge_agreement
from fastmunit.metrics.diversity import pair_distances
from fastmunit.metrics.features import FeatureName, features_of
from fastmunit.metrics.reconstruction import reconstruction_l1
from fastmunit.metrics.task import Task, code, rgb
from fastmunit.systems.translator import Translator

# Outputs of each input that go into distances between sets: more of one input add little.
SET_SAMPLES = 10


@dataclass
class InputValues:
    """What was measured of one input; None, or no entry, for what was not.

    Attributes:
        lpips: Mean distance of pairs of outputs, by the measure's name.
        features: Of the first outputs, (S, d), by the network's name.
        probabilities: Of the outputs' classes, (S, K).
        edges: Agreement of the input's edges with its outputs'.
        other_edges: With those of an output of the input before.
        code: Distance of the content codes of input and output.
        reconstructed: L1 of the input brought back within its domain.
        cycled: L1 of the input brought back over the other domain.
    """

    lpips: dict[str, float] = field(default_factory=dict)
    features: dict[FeatureName, Tensor] = field(default_factory=dict)
    probabilities: Tensor | None = None
    edges: float | None = None
    other_edges: float | None = None
    code: float | None = None
    reconstructed: float | None = None
    cycled: float | None = None


class InputMeasurement:
    """Measures one input after the other.

    Args:
        task: What is measured.
        chosen: Numbers of the inputs.
        skipped: Measures that the model has not.
    """

    def __init__(self, task: Task, chosen: list[int], skipped: Collection[str]) -> None:
        self._task, self._chosen = task, chosen
        self._has_codes = not {"content-code", "reconstruction within the domain"} & set(skipped)
        self._last: tuple[int, Tensor] | None = None

    def measure(self, place: int) -> InputValues:
        """Return the values of the input at a place among the chosen ones; they do not depend on earlier calls."""
        task, measures = self._task, self._task.measures
        index = self._chosen[place]
        x = task.sources[index]
        outputs = task.outputs(index, x)
        shown = rgb(outputs).to(task.forward.device)
        check_images(shown, "an evaluation")
        values = InputValues()
        for measure in measures.lpips:
            values.lpips[measure.name] = float(pair_distances(measure, shown).mean())
        for name, network in measures.features.items():
            values.features[name] = features_of(network, shown[:SET_SAMPLES])
        if measures.classifier is not None:
            values.probabilities = measures.classifier.probabilities(shown)
        if measures.edge_agreement:
            image = rgb(x[None]).to(task.forward.device)
            few = shown[:SET_SAMPLES]
            values.edges = float(edge_agreement(image.expand_as(few), few).mean())
            previous = self._output_before(place)
            if previous is not None and previous.shape == image.shape[1:]:
                values.other_edges = float(edge_agreement(image, previous[None]))
            self._last = (place, shown[0])
        if task.backward is not None and (measures.content_code or measures.reconstruction):
            self._measure_back(task.backward, x, outputs[0], values)
        return values

    def _output_before(self, place: int) -> Tensor | None:
        """The first output of the input before; another process may have translated that one."""
        if place == 0:
            return None
        if self._last is not None and self._last[0] == place - 1:
            return self._last[1]
        return rgb(self._task.outputs(self._chosen[place - 1])).to(self._task.forward.device)[0]

    def _measure_back(self, backward: Translator, x: Tensor, y: Tensor, values: InputValues) -> None:
        measures = self._task.measures
        style = _own_style(backward, x, named_generator("back", self._task.seed))
        if measures.reconstruction:
            values.cycled = float(reconstruction_l1(x[None], backward.translate(y, style)))
        if not self._has_codes:
            return
        content = code(self._task.forward, x)
        if measures.content_code:
            values.code = float(content_code_distance(content, code(backward, y)))
        if measures.reconstruction:
            again = backward.decode(content, style).float().cpu()[..., : x.shape[1], : x.shape[2]]
            values.reconstructed = float(reconstruction_l1(x[None], again))


def _own_style(translator: Translator, image: Tensor, generator: torch.Generator) -> Tensor:
    """The image's own style where the system can tell it, else a random one."""
    if translator.style_dim:
        try:
            return translator.style_of(image)
        except FastmunitError:
            pass
    return translator.random_styles(1, generator)
