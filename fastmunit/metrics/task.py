"""The task of an evaluation: one direction of a model, its images and the settings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from torch import Tensor

from fastmunit import data
from fastmunit.config import Config
from fastmunit.data.paths import Domain
from fastmunit.data.seeding import named_generator
from fastmunit.data.sources import GivenImages, ImageSources, given_images
from fastmunit.errors import DataError, FastmunitError
from fastmunit.metrics.confidence import Estimate, mean_estimate
from fastmunit.metrics.images import evenly_spaced
from fastmunit.metrics.readable import ReadableImages
from fastmunit.metrics.sample import Sample, content_code
from fastmunit.systems import registry
from fastmunit.systems.translators import Translator


class Task:
    """One direction of a model to evaluate, with its test images. Arguments: see `evaluate.evaluate`.

    Attributes:
        sources: Test images of the source domain.
        targets: Test images of the target domain.
        readable: Reads the images.
        inputs: Indices in `sources` of the images to translate.

    Raises:
        DataError: If there are too few samples for a pair, or the images cannot be listed.
        ConfigError: If no test images are named.
    """

    def __init__(
        self,
        forward: Translator,
        backward: Translator | None,
        config: Config,
        direction: str,
        samples: int,
        seed: int,
        images: ImageSources | GivenImages | None,
    ) -> None:
        if samples < 2:
            raise DataError(f"samples = {samples}: pairs need at least 2 outputs per input.")
        self.forward, self.backward, self.config = forward, backward, config
        self.direction, self.samples, self.seed = direction, samples, seed
        self.given = given_images(config, images)
        if self.given is not None:
            self.given.require_test()
        test_a, test_b = data.test_datasets(config, self.given, registry.system_of(config).any_size)
        self.sources, self.targets = (test_a, test_b) if direction == "a2b" else (test_b, test_a)
        self.readable = ReadableImages()
        self.inputs: list[int] = []
        self._samples: dict[int, Sample] = {}
        self._images: dict[int, Tensor] = {}

    def choose_inputs(self, max_count: int) -> None:
        """Set `inputs`. Raise DataError if there are too few images."""
        for name, images in (("input", self.sources), ("target", self.targets)):
            if len(images) < 2:
                raise DataError(f"an evaluation needs at least 2 {name} test images, got {len(images)}: add some.")
        self.inputs = self.readable.choose(self.sources, evenly_spaced(len(self.sources), max_count))
        if len(self.inputs) < 2:
            reason = next(iter(self.readable.reasons.values()))
            raise DataError(f"an evaluation needs at least 2 input test images that can be read: {reason}")

    def keep_inputs(self) -> None:
        """Read the inputs once and keep them, for repeated evaluations."""
        self._images = {index: self.sources[index] for index in self.inputs}

    def replace_model(self, forward: Translator, backward: Translator | None) -> None:
        """Evaluate translators of other weights from now on."""
        self.forward, self.backward = forward, backward
        self._samples.clear()

    def image(self, place: int) -> Tensor:
        """Return the input (C, H, W) at a place in `inputs`."""
        index = self.inputs[place]
        return self._images[index] if index in self._images else self.sources[index]

    @property
    def domains(self) -> tuple[Domain, Domain]:
        """Source domain, target domain."""
        return ("a", "b") if self.direction == "a2b" else ("b", "a")

    def outputs(self, index: int, image: Tensor) -> Tensor:
        """Return the outputs (samples, C, H, W) of a test image, on the CPU.

        Args:
            index: Index in `sources`; the styles depend on it and on the seed only.
            image: The image (C, H, W).
        """
        generator = named_generator("evaluate", self.seed, index)
        count = self.samples if self.forward.style_dim else 1
        outputs = self.forward.translate(image, self.forward.random_styles(count, generator))
        return outputs.expand(self.samples, -1, -1, -1)

    def sample(self, place: int) -> Sample:
        """Return the input at a place in `inputs` with its outputs. The inputs next to it stay cached."""
        if place not in self._samples:
            self._samples = {other: sample for other, sample in self._samples.items() if abs(other - place) == 1}
            self._samples[place] = Sample(self, place)
        return self._samples[place]

    @cached_property
    def has_content_code(self) -> bool:
        """True if inputs and outputs have content codes of one shape, which is not the shape of an image."""
        if self.backward is None:
            return False
        first = self.sample(0)
        source, target = first.content_code, content_code(self.backward, first.translated[0])
        return source.shape == target.shape and source.shape[2:] != first.image.shape[1:]

    @cached_property
    def training_images(self) -> data.ImageDataset | None:
        """Training images of the target domain; None if there are none."""
        try:
            a, b = data.training_datasets(self.config, self.given)
        except FastmunitError:
            return None
        return b if self.direction == "a2b" else a

    def mean(self, values: Sequence[float]) -> Estimate:
        """Return the mean over inputs with its confidence interval."""
        return mean_estimate(values, seed=self.seed)
