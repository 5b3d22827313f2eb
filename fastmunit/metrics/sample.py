"""One input with its outputs, as measures see it."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from torch import Tensor

from fastmunit.metrics.features import FeatureNet, features_of
from fastmunit.metrics.images import require_finite, rgb
from fastmunit.systems.translators import Translator

if TYPE_CHECKING:
    from fastmunit.metrics.task import Task

# Outputs per input that are compared with sets of images: further outputs of one input add little.
SET_SAMPLES = 10


class Sample:
    """One input with its outputs, and computations that measures share.

    Attributes:
        task: The evaluation.
        image: Input (C, H, W) in [-1, 1], on the CPU.
        translated: Outputs (S, C', H, W), on the CPU.
        input: Input (3, H, W) in RGB, on the device of the model. Inputs with other than 1 or 3 channels keep them.
        outputs: Outputs (S, 3, H, W) in RGB, on the device of the model, as large as the input. In an inspection, those
            with other than 1 or 3 channels keep them.

    Raises:
        DataError: If the outputs contain NaN or infinite values.
    """

    def __init__(self, task: Task, place: int) -> None:
        self.task, self._place = task, place
        self.image = task.image(place)
        self.translated = task.outputs(task.inputs[place], self.image)
        self.input = rgb(self.image[None])[0].to(task.forward.device)
        self.outputs = rgb(self.translated).to(task.forward.device)
        require_finite(self.outputs, "an evaluation")
        self._features: dict[FeatureNet, Tensor] = {}

    @property
    def set_outputs(self) -> Tensor:
        """The first `SET_SAMPLES` outputs, for comparisons with sets of images."""
        return self.outputs[:SET_SAMPLES]

    def features(self, network: FeatureNet) -> Tensor:
        """Return features (N, d) of `set_outputs`, on the CPU."""
        if network not in self._features:
            self._features[network] = features_of(network, self.set_outputs)
        return self._features[network]

    @cached_property
    def content_code(self) -> Tensor:
        """Content code (1, …) of the input."""
        return content_code(self.task.forward, self.image)

    @property
    def other_output(self) -> Tensor | None:
        """First output (3, H, W) of the previous input; None for the first input."""
        return self.task.sample(self._place - 1).outputs[0] if self._place > 0 else None


def content_code(translator: Translator, image: Tensor) -> Tensor:
    """Return the content code (1, …) of an image (C, H, W), float32."""
    return translator.encode(image[None].to(translator.device)).float()
