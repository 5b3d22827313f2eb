"""Images of an evaluation, without those that cannot be read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import Tensor

from fastmunit import distributed
from fastmunit.data import ImageDataset
from fastmunit.data.failures import Failure
from fastmunit.errors import DataError


class ReadableImages:
    """Reads images and remembers those that cannot be read.

    Every process has to call `share`, `all_in_each` and `inputs`; afterwards all know of the same images.

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

    def share(self) -> None:
        """Tell the other processes which images could not be read, and learn it from them."""
        own = self.reasons
        known = distributed.exchange(dict(own))
        own.clear()
        for theirs in known:  # by rank, which gives the order of one process
            for path, reason in theirs.items():
                own.setdefault(path, reason)

    def all_in_each(self, images: ImageDataset, indices: Iterable[int]) -> list[Tensor]:
        """Return, in each process, those images that can be read in all."""
        found = {index: image for index in indices if (image := self.read(images, index)) is not None}
        self.share()
        return [image for index, image in found.items() if Path(images.label(index)) not in self.reasons]

    def inputs(self, images: ImageDataset, wanted: Sequence[int], fewest: int = 2) -> list[int]:
        """Return those of the numbers `wanted` whose images can be read; others where fewer than `fewest` can be.

        Each is read once for that, so that what depends on the number of inputs is known before they are measured.
        """
        readable = distributed.each(lambda index: self.read(images, index) is not None, wanted)
        self.share()
        found = [index for index, good in zip(wanted, readable, strict=True) if good]
        if len(found) >= fewest:
            return found
        others: list[int] = []
        for index in range(len(images)):
            if self.read(images, index) is not None:
                others.append(index)
            if len(others) == fewest:
                break
        self.share()
        return distributed.exchange(others)[0]
