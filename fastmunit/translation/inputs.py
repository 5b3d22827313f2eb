"""Find the images to translate and name their outputs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from fastmunit import data
from fastmunit.data.animation import animated_format, require_frames
from fastmunit.data.failures import Failure
from fastmunit.data.formats import without_extension
from fastmunit.data.readers import has_reader, keeps_format
from fastmunit.data.transforms import resize_excess
from fastmunit.data.validate import check_image
from fastmunit.data.value_range import PixelValues
from fastmunit.data.video import SUFFIXES, VideoInfo, check_video, is_video
from fastmunit.errors import DataError, FastmunitError
from fastmunit.files import resolved
from fastmunit.image_files.open import is_image_file
from fastmunit.translation.like_input import suffix_like


class Input(NamedTuple):
    """An image to translate.

    Attributes:
        path: The file.
        name: Start of the names of its outputs, relative to the output folder; a style's label and a suffix follow.
        form: Pillow's name of an animated file's format. None for a still image and for a video.
        like: Suffix of outputs with the format and metadata of the image. None for pictures.
        video: Size and length of a video. None for an image.
    """

    path: Path
    name: str
    form: str | None = None
    like: str | None = None
    video: VideoInfo | None = None


class Limits(NamedTuple):
    """Requirements that an image is checked for before it is read.

    Attributes:
        channels: Number of channels that the model takes.
        size: Length to resize the shortest side to. None keeps it.
        pixel_bytes: Bytes per pixel of the largest tensor after the resize.
        max_pixels: Refuse images with more pixels. None is Pillow's limit.
        values: How pixels are read.
    """

    channels: int
    size: int | None
    pixel_bytes: int
    max_pixels: int | None
    values: PixelValues = PixelValues()

    def check(self, path: Path) -> None:
        """Raise DataError if the image cannot be used."""
        check_image(path, *self)

    def check_video(self, path: Path, target_channels: int) -> VideoInfo:
        """Return the size and length of a video. Raise DataError if it cannot be used."""
        info = check_video(path, (self.channels, target_channels), self.max_pixels)
        excess = resize_excess(path, info.height, info.width, self.pixel_bytes, self.size)
        if excess is not None:
            raise DataError(excess)
        return info


def list_inputs(inputs: Sequence[Path]) -> tuple[list[Input], list[str]]:
    """Return the images and videos of files and folders, each once and in order, and notes on files that were left out.

    An output is named after its image, including subfolders of an input folder. Where names of images differ only in
    their suffixes, the suffix becomes part of the name; where they are still equal, so does the name of the input
    folder, and as many of its parents as it takes to tell them apart.

    Raises:
        DataError: If an input does not exist, or a folder holds no images.
    """
    first_paths: dict[Path, tuple[Path, Path]] = {}
    notes: list[str] = []
    for source in inputs:
        images = data.input_images(source, SUFFIXES)
        notes += [] if images.note is None else [images.note]
        for path in images.paths:
            first_paths.setdefault(resolved(path), (path, images.folder))
    longer = [_names(path, folder) for path, folder in first_paths.values()]
    names = [next(each) for each in longer]
    while repeated := {name for name, count in Counter(names).items() if count > 1}:
        names = [next(each, name) if name in repeated else name for name, each in zip(names, longer, strict=True)]
    return [Input(path, name) for name, (path, _) in zip(names, first_paths.values(), strict=True)], notes


def in_order_of_frames(inputs: Sequence[Input]) -> list[Input]:
    """Return images in the order of the numbers in their names: frame2 before frame10."""

    def key(item: Input) -> list[tuple[str, int]]:
        parts = re.split("([0-9]+)", item.name)
        return [(text, int(digits)) for text, digits in zip(parts[::2], [*parts[1::2], "0"], strict=True)]

    return sorted(inputs, key=key)


def checked_inputs(
    inputs: Sequence[Input],
    limits: Limits,
    target_channels: int,
    like_input: bool | None = None,
    advance: Callable[[], object] = lambda: None,
) -> tuple[list[Input], list[Failure]]:
    """Read the headers of images, and the whole of videos.

    Args:
        inputs: Images and videos.
        limits: What to check.
        target_channels: Number of channels that the model returns.
        like_input: True writes outputs with the format and metadata of their images where `image_files` can, False
            writes pictures. None does the first for those that `keeps_format` names.
        advance: Called after each of them.

    Returns:
        Those that the model can take, with their formats, and the failures.
    """
    good: list[Input] = []
    failures: list[Failure] = []
    for item in inputs:
        try:
            good.append(_checked(item, limits, target_channels, like_input))
        except FastmunitError as error:  # PyAV is missing, or the file cannot be used
            failures.append(Failure(item.path, str(error)))
        advance()
    return good, failures


def _checked(item: Input, limits: Limits, target_channels: int, like_input: bool | None) -> Input:
    if is_video(item.path):
        require_frames(item.path, limits.values)
        return item._replace(video=limits.check_video(item.path, target_channels))
    image = item.path, limits.channels, limits.values, limits.max_pixels
    if keeps_format(*image) if like_input is None else like_input and is_image_file(item.path):
        # It is read by region if it does not fit in memory.
        (limits._replace(pixel_bytes=0) if limits.size is None else limits).check(item.path)
        return item._replace(like=suffix_like(item.path))
    limits.check(item.path)
    if has_reader(*image):
        return item
    form = animated_format(item.path, limits.max_pixels)
    if form is not None:
        require_frames(item.path, limits.values)
    return item._replace(form=form)


def list_references(references: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Return the reference images of files and folders in order, and notes on files that were left out.

    Raises:
        DataError: As in `list_inputs`.
    """
    listed = [data.input_images(source) for source in references]
    return [path for images in listed for path in images.paths], [images.note for images in listed if images.note]


def _names(path: Path, folder: Path) -> Iterator[str]:
    """Yield names of an image of an input folder, each longer than the one before. The last is its path, and unique."""
    inside = path.relative_to(folder)
    whole = without_extension(path.name)
    stem = path.stem if whole == path.name else whole
    suffixed = f"{stem}_{path.name[len(stem) + 1 :].replace('.', '_')}"
    parents = resolved(folder).parts[1:]
    yield (inside.parent / stem).as_posix()
    yield (inside.parent / suffixed).as_posix()
    yield Path(*parents[-1:], inside.parent, stem).as_posix()
    for first in reversed(range(len(parents))):
        yield Path(*parents[first:], inside.parent, suffixed).as_posix()
    yield Path(*parents, inside).as_posix()
