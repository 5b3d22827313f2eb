"""What an evaluation is of: one direction of a model, its images, and what is measured."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fastmunit import data
from fastmunit.config import Config
from fastmunit.data.paths import Domain
from fastmunit.data.seeding import named_generator
from fastmunit.data.sources import GivenImages, ImageSources, given_images
from fastmunit.errors import DataError, FastmunitError
from fastmunit.metrics.measures import Measures
from fastmunit.systems.translator import Translator


@dataclass(frozen=True)
class Task:
    """One direction to measure; see `evaluation.evaluate`.

    Attributes:
        forward: The direction.
        backward: The other direction; None where the model has none.
        config: Names the images.
        measures: What to measure.
        direction: "a2b" or "b2a".
        samples: Outputs of each input.
        seed: Of the styles and the resampling.
        sources: Test images to translate.
        targets: Test images of the domain that the outputs belong to.
        given: Images in place of those that the configuration names.
    """

    forward: Translator
    backward: Translator | None
    config: Config
    measures: Measures
    direction: str
    samples: int
    seed: int
    sources: data.ImageDataset
    targets: data.ImageDataset
    given: GivenImages | None = None

    @staticmethod
    def of(
        forward: Translator,
        backward: Translator | None,
        config: Config,
        measures: Measures,
        direction: str,
        samples: int,
        seed: int,
        images: ImageSources | GivenImages | None = None,
    ) -> Task:
        """Return the task with the test images that are given, or that the configuration names.

        Raises:
            DataError: There are too few samples for a pair, or the images cannot be listed.
            ConfigError: No test images are named.
        """
        if samples < 2:
            raise DataError(f"samples = {samples}: at least 2 outputs of each input are needed for pairs.")
        given = given_images(config, images)
        if given is not None:
            given.require_test()
        test_a, test_b = data.test_datasets(config, given)
        sources, targets = (test_a, test_b) if direction == "a2b" else (test_b, test_a)
        return Task(forward, backward, config, measures, direction, samples, seed, sources, targets, given)

    @property
    def domains(self) -> tuple[Domain, Domain]:
        """Domain of the inputs, domain of the outputs."""
        return ("a", "b") if self.direction == "a2b" else ("b", "a")

    def outputs(self, index: int, x: Tensor | None = None) -> Tensor:
        """Return the outputs (samples, C, H, W) for the test image `index`, on the CPU.

        Args:
            index: Number of the image; its styles depend on it and on the seed alone.
            x: The image, where it has been read.
        """
        x = self.sources[index] if x is None else x
        generator = named_generator("evaluate", self.seed, index)
        if not self.forward.style_dim:
            single = self.forward.translate(x, self.forward.random_styles(1, generator))
            return single.expand(self.samples, -1, -1, -1)
        return self.forward.translate(x, self.forward.random_styles(self.samples, generator))

    def training_images(self) -> data.ImageDataset | None:
        """Return the training images of the domain that the outputs belong to; None where there are none."""
        try:
            a, b = data.training_datasets(self.config, self.given)
        except FastmunitError:
            return None
        return b if self.direction == "a2b" else a


def rgb(images: Tensor) -> Tensor:
    """Return images (N, C, H, W) with three channels: grey ones three times."""
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


def code(translator: Translator, image: Tensor) -> Tensor:
    """Return the content code (1, …) of an image (C, H, W), float32."""
    return translator.encode(image[None].to(translator.device)).float()


def spread(count: int, wanted: int) -> list[int]:
    """Return at most `wanted` of the numbers below `count`, evenly spread."""
    wanted = min(count, wanted)
    return [k * count // wanted for k in range(wanted)]
