"""Reading images of an evaluation, leaving out files that cannot be read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import Tensor

from fastmunit import distributed
from fastmunit.data import ImageDataset
from fastmunit.data.failures import Failure
from fastmunit.errors import DataError


class ReadableImages:
    """A reader of images that remembers which files cannot be read.

    `share`, `read_in_all` and `choose` must be called in every process; afterwards all know the same files.

    Attributes:
        reasons: Reason per path that cannot be read.
    """

    def __init__(self) -> None:
        self.reasons: dict[Path, str] = {}

    @property
    def failures(self) -> list[Failure]:
        """The images that could not be read, sorted by path."""
        return [Failure(path, self.reasons[path]) for path in sorted(self.reasons)]

    def read(self, images: ImageDataset, index: int) -> Tensor | None:
        """Return an image, or None if it cannot be read."""
        path = Path(images.label(index))
        if path in self.reasons:
            return None
        try:
            return images[index]
        except DataError as error:
            self.reasons[path] = str(error)
            return None

    def read_all(self, images: ImageDataset, indices: Iterable[int]) -> list[Tensor]:
        """Return the images that can be read."""
        return [image for index in indices if (image := self.read(images, index)) is not None]

    def share(self) -> None:
        """Exchange with the other processes which images cannot be read."""
        known = distributed.exchange(dict(self.reasons))
        self.reasons.clear()
        for theirs in known:  # by rank, which gives the order of a single process
            for path, reason in theirs.items():
                self.reasons.setdefault(path, reason)

    def read_in_all(self, images: ImageDataset, indices: Iterable[int]) -> list[Tensor]:
        """Return, in each process, the images that all processes can read."""
        images_by_index = {index: image for index in indices if (image := self.read(images, index)) is not None}
        self.share()
        return [image for index, image in images_by_index.items() if Path(images.label(index)) not in self.reasons]

    def choose(self, images: ImageDataset, candidates: Sequence[int], min_count: int = 2) -> list[int]:
        """Return the candidates that can be read, or the first `min_count` readable images if there are fewer.

        Every candidate is read once, so that the number of inputs is known before the first is measured.
        """
        readable = distributed.each(lambda index: self.read(images, index) is not None, candidates)
        self.share()
        chosen = [index for index, good in zip(candidates, readable, strict=True) if good]
        if len(chosen) >= min_count:
            return chosen
        others: list[int] = []
        for index in range(len(images)):
            if self.read(images, index) is not None:
                others.append(index)
            if len(others) == min_count:
                break
        self.share()
        return distributed.exchange(others)[0]
