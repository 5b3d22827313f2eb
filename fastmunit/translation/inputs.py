"""Which files are translated, and what their outputs are called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fastmunit import data
from fastmunit.data.animation import animated_format
from fastmunit.data.failures import Failure
from fastmunit.data.validate import check_image
from fastmunit.errors import DataError


class Input(NamedTuple):
    """An image to translate.

    Attributes:
        path: The file.
        name: Of its outputs, below the output folder, without what tells styles apart and without a suffix.
        form: Pillow's name of an animated file's format; None for a still image.
    """

    path: Path
    name: str
    form: str | None = None


class Limits(NamedTuple):
    """What is asked of an image before it is read.

    Attributes:
        channels: Channels that the model takes.
        size: What the shortest side is resized to; None keeps it.
        pixel_bytes: Bytes of the largest tensor per pixel after the resize.
        max_pixels: The number of pixels above which an image is refused; None is Pillow's limit.
    """

    channels: int
    size: int | None
    pixel_bytes: int
    max_pixels: int | None

    def check(self, path: Path) -> None:
        """Raise DataError where the image cannot be used."""
        check_image(path, *self)


def list_inputs(inputs: Sequence[Path]) -> tuple[list[Input], list[str]]:
    """Return the images of files and folders, each file once, in order; and a note on files that were left out.

    An output is called as its image, with the subfolders of a folder. The suffix is kept in where images differ in
    nothing else, then the name of the folder that was given is put in front.

    Raises:
        DataError: An input does not exist, or a folder holds no images.
    """
    found: dict[Path, tuple[Path, Path]] = {}
    notes: list[str] = []
    for source in inputs:
        images = data.input_images(source)
        notes += [] if images.note is None else [images.note]
        for path in images.paths:
            found.setdefault(path.resolve(), (path, images.folder))
    paths = list(found.values())
    stems = [_stem(path.relative_to(folder)) for path, folder in paths]
    twice = _repeated(stems)
    names = [
        f"{stem}_{path.suffix[1:]}" if stem in twice else stem for stem, (path, _) in zip(stems, paths, strict=True)
    ]
    if len({folder for _, folder in paths}) > 1:
        twice = _repeated(names)
        names = [
            f"{folder.resolve().name}/{stem}" if name in twice else name
            for name, stem, (_, folder) in zip(names, stems, paths, strict=True)
        ]
    return [Input(path, name) for name, (path, _) in zip(names, paths, strict=True)], notes


def checked_inputs(inputs: Sequence[Input], limits: Limits) -> tuple[list[Input], list[Failure]]:
    """Look at the headers of images; returns those that the model can take, and the others."""
    good: list[Input] = []
    failures: list[Failure] = []
    for item in inputs:
        try:
            limits.check(item.path)
            good.append(item._replace(form=animated_format(item.path, limits.max_pixels)))
        except DataError as error:
            failures.append(Failure(item.path, str(error)))
    return good, failures


def list_references(references: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Return the reference images of files and folders, in order; and a note on files that were left out.

    Raises:
        DataError: As `list_inputs`.
    """
    found = [data.input_images(source) for source in references]
    return [path for images in found for path in images.paths], [images.note for images in found if images.note]


def _stem(path: Path) -> str:
    return path.with_suffix("").as_posix()


def _repeated(names: Sequence[str]) -> set[str]:
    return {name for name, count in Counter(names).items() if count > 1}
