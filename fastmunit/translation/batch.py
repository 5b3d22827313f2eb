"""Translating files of images into files of images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from fastmunit import data
from fastmunit.data.animation import SUFFIXES, frame_bytes, read_animation, save_animation
from fastmunit.data.failures import Failure
from fastmunit.data.images import normalize
from fastmunit.errors import DataError, FastmunitError
from fastmunit.files import shown
from fastmunit.memory import first_line, is_out_of_memory
from fastmunit.systems.translator import Translator, value_mapping
from fastmunit.translation.inputs import Input
from fastmunit.translation.record import OutputRecord
from fastmunit.translation.sheet import OutputSheet, resized

# Of a style's name in the name of a file, in characters.
_NAME_LENGTH = 30


@dataclass(frozen=True)
class Looks:
    """The styles of all outputs.

    Attributes:
        kind: What stands in the names of outputs, before the number: "style", "reference", "interpolated".
        count: How many styles each image is translated into.
        codes: The style codes of all images; None draws new ones for each image.
        names: Of the styles, for the names of outputs; empty where they have none.
        references: The images that the codes come from.
        seed: Of codes that are drawn.
    """

    kind: str
    count: int
    codes: Tensor | None = None
    names: Sequence[str] = ()
    references: Sequence[Tensor] = ()
    seed: int = 0

    def label(self, index: int) -> str:
        """Return what the name of output `index` ends in."""
        name = f"_{_printable(self.names[index])}" if self.names else ""
        return f"{self.kind}{index:02d}{name}"


@dataclass(frozen=True)
class Rendering:
    """How images are read and written.

    Attributes:
        size: What the shortest side is resized to; None keeps it.
        stretch: Whether each output is stretched to the full range of values.
        batch_size: Styles decoded at once; None chooses.
        precision: Of convolutions and matrix products.
        max_pixels: The number of pixels above which an image is refused; None is Pillow's limit.
    """

    size: int | None = None
    stretch: bool = False
    batch_size: int | None = None
    precision: str = "float32"
    max_pixels: int | None = None


@dataclass
class Summary:
    """What was written, removed, and left out."""

    images: int = 0
    written: int = 0
    removed: list[Path] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


class FileTranslator:
    """Translates files into an output folder.

    Args:
        translator: The model.
        output: The folder.
        looks: The styles.
        rendering: How images are read and written.
    """

    def __init__(self, translator: Translator, output: Path, looks: Looks, rendering: Rendering) -> None:
        self._translator, self._output = translator, output
        self._looks, self._rendering = looks, rendering
        self._map = value_mapping(rendering.stretch)
        self._random = torch.Generator().manual_seed(looks.seed)
        self.sheet = output / "sheet.png"

    def targets(self, item: Input) -> list[Path]:
        """Return the files that an image is translated into."""
        still = ".png" if self._translator.target_channels <= 4 else ".tif"
        suffix = still if item.form is None else SUFFIXES[item.form]
        return [self._output / f"{item.name}_{self._looks.label(k)}{suffix}" for k in range(self._looks.count)]

    def require_free_targets(self, inputs: Sequence[Input], sources: Sequence[Path], read: Sequence[Path]) -> None:
        """Check that nothing that is read would be overwritten, and no output by another.

        Args:
            inputs: The images that are translated, with their forms, which decide the suffixes of outputs.
            sources: What the user gave as inputs: files and folders.
            read: All files that are read, also those that cannot be translated.

        Raises:
            FastmunitError: Otherwise.
        """
        place = self._output.resolve()
        for folder in (source for source in sources if source.is_dir()):
            if place == folder.resolve() or folder.resolve() in place.parents:
                raise FastmunitError(
                    f"output {shown(self._output)} is in the input folder {shown(folder)}: choose a folder outside it."
                )
        kept = {path.resolve() for path in read}
        targets = [path for item in inputs for path in self.targets(item)]
        for path in (*targets, self.sheet):
            if path.resolve() in kept:
                raise FastmunitError(f"{shown(path)} is an input and would be overwritten: choose another --output.")
        for path, times in Counter([*targets, self.sheet]).most_common(1):
            if times > 1:
                raise FastmunitError(
                    f"{times} images would be written to {shown(path)}: rename some inputs so that names differ."
                )

    def run(self, inputs: Sequence[Input], keep: Iterable[Path], each: Callable[[], object]) -> Summary:
        """Translate images; those that cannot be read are left out and named in the result.

        Args:
            inputs: The images.
            keep: Files that must stay, whatever an earlier call has written.
            each: Is called after each image.

        Raises:
            FastmunitError: An output cannot be written.
        """
        summary, sheet = Summary(), OutputSheet(self._looks.references)
        record: OutputRecord | None = None
        kept = {path.resolve() for path in keep}
        for item in inputs:
            # Drawn for images that fail too, so that the styles of the others do not depend on them.
            codes = self._looks.codes
            if codes is None:
                codes = self._translator.random_styles(self._looks.count, self._random)
            targets = self.targets(item)
            try:
                image, outputs = self._translate(item, codes, targets)
            except (DataError, _Untranslated) as error:
                summary.failures.append(Failure(item.path, str(error)))
            except (MemoryError, RuntimeError) as error:  # around the network: the resize, frames of an animation
                if not is_out_of_memory(error):
                    raise
                summary.failures.append(Failure(item.path, f"not enough memory: {first_line(error)}"))
            else:
                record = record or OutputRecord(self._output)
                summary.removed += record.replace(item.name, self._looks.kind, targets, kept)
                sheet.add(image, outputs)
                summary.images += 1
                summary.written += len(targets)
            each()
        if summary.images:
            sheet.save(self.sheet)
        return summary

    def _translate(self, item: Input, codes: Tensor, targets: Sequence[Path]) -> tuple[Tensor, list[Tensor]]:
        """Translate an image and write its outputs; returns both, the first frames of an animation."""
        if item.form is not None:
            return self._translate_animation(item, codes, targets)
        image = data.read_image(item.path, self._translator.channels, self._rendering.max_pixels)
        image, outputs = self._outputs(image, codes)
        for output, path in zip(outputs, targets, strict=True):
            data.save_image(output, path)
        return image, outputs

    def _translate_animation(self, item: Input, codes: Tensor, targets: Sequence[Path]) -> tuple[Tensor, list[Tensor]]:
        """Translate each frame into the same styles, and write an animation per style."""
        animation = read_animation(item.path, self._translator.channels, self._rendering.max_pixels)
        first: tuple[Tensor, list[Tensor]] | None = None
        frames: list[list[Tensor]] = [[] for _ in targets]
        for frame in animation.frames:
            image, outputs = self._outputs(normalize(frame), codes)
            first = first or (image, outputs)
            for output, of_style in zip(outputs, frames, strict=True):
                of_style.append(frame_bytes(output, item.path))
        assert first is not None
        for of_style, path in zip(frames, targets, strict=True):
            save_animation(of_style, path, animation.durations, animation.loop, animation.format)
        return first

    def _outputs(self, image: Tensor, codes: Tensor) -> tuple[Tensor, list[Tensor]]:
        how = self._rendering
        image = resized(image, how.size)
        try:
            results = self._translator.translate(image, codes, how.batch_size, precision=how.precision)
        except FastmunitError as error:  # such as too little memory for this image
            raise _Untranslated(str(error)) from error
        return image, [self._map(result) for result in results]


class _Untranslated(Exception):
    """The model cannot translate an image."""


def _printable(name: str) -> str:
    """Return a style's name as a part of a file's name."""
    kept = "".join(character if character.isalnum() or character in "-." else "_" for character in name[:_NAME_LENGTH])
    return kept.strip("._") or "unnamed"
