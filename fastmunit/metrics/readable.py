"""Images of an evaluation, without those that cannot be read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from fastmunit.data import ImageDataset
from fastmunit.data.failures import Failure
from fastmunit.errors import DataError


class ReadableImages:
    """Reads images and remembers those that cannot be read.

    Attributes:
        reasons: Why an image cannot be read, by its path.
    """

    def __init__(self) -> None:
        self.reasons: dict[Path, str] = {}

    @property
    def failures(self) -> list[Failure]:
        """The images that could not be read, by path."""
        return [Failure(path, self.reasons[path]) for path in sorted(self.reasons)]

    def read(self, images: ImageDataset, index: int) -> Tensor | None:
        """Return an image; None where it cannot be read."""
        path = Path(images.label(index))
        if path in self.reasons:
            return None
        try:
            return images[index]
        except DataError as error:
            self.reasons[path] = str(error)
            return None

    def all(self, images: ImageDataset, indices: Iterable[int]) -> list[Tensor]:
        """Return those images that can be read."""
        return [image for index in indices if (image := self.read(images, index)) is not None]

    def inputs(self, images: ImageDataset, wanted: Iterable[int], fewest: int = 2) -> list[int]:
        """Return those of the numbers `wanted` whose images can be read; others where fewer than `fewest` can be.

        Each is read once for that, so that what depends on the number of inputs is known before they are measured.
        """
        found = [index for index in wanted if self.read(images, index) is not None]
        if len(found) >= fewest:
            return found
        others: list[int] = []
        for index in range(len(images)):
            if self.read(images, index) is not None:
                others.append(index)
            if len(others) == fewest:
                break
        return others
