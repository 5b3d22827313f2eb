"""Translate image files into image files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from fastmunit import data
from fastmunit.data.animation import SUFFIXES, frame_bytes, frame_input, read_animation, save_animation
from fastmunit.data.failures import Failure
from fastmunit.data.images import normalize
from fastmunit.data.pixels import read_pixels
from fastmunit.data.validate import image_header
from fastmunit.data.value_range import PixelValues
from fastmunit.data.video_writer import output_suffix
from fastmunit.errors import DataError, FastmunitError
from fastmunit.files import printable, require_apart, require_outside, require_writable, resolved
from fastmunit.memory import first_line, is_out_of_memory
from fastmunit.out_of_core.pixels import PixelSink, PixelSource
from fastmunit.planning.available import free_memory
from fastmunit.systems.translators import Translator, value_mapping
from fastmunit.translation.domains import source_values
from fastmunit.translation.inputs import Input
from fastmunit.translation.large_images import Resources, translate_by_region, translate_image
from fastmunit.translation.large_pictures import CODEC_BYTES, PictureSink, PictureSource
from fastmunit.translation.like_input import translate_like
from fastmunit.translation.output_record import OutputRecord
from fastmunit.translation.output_sheet import OutputSheet, resized
from fastmunit.translation.region_files import FileSource
from fastmunit.translation.videos import MAX_ENCODERS, translate_video

# Below this, nothing is estimated, as any machine has the memory of a whole image.
SMALL = 1 << 20
_MAX_NAME_LENGTH = 30
"""Characters of a style's name that go into a file name."""


@dataclass(frozen=True)
class OutputStyles:
    """The styles that every image is translated into.

    Attributes:
        kind: Word in output names before the number: "style", "reference" or "interpolated".
        count: Number of styles.
        codes: Style codes, the same for all images. None draws new ones for each image.
        names: Names of the styles for output names, or none.
        references: Images that the codes come from.
        seed: Seed of codes that are drawn.
        folders: Write the outputs of each style into a folder of its own.
    """

    kind: str
    count: int
    codes: Tensor | None = None
    names: Sequence[str] = ()
    references: Sequence[Tensor] = ()
    seed: int = 0
    folders: bool = False

    def label(self, index: int) -> str:
        """Return the end of the name of output `index`."""
        name = f"_{_printable(self.names[index])}" if self.names else ""
        return f"{self.kind}{index:02d}{name}"


@dataclass(frozen=True)
class Rendering:
    """Options for reading and writing images.

    Attributes:
        size: Length to resize the shortest side to. None keeps it.
        stretch: Stretch each output to the full range of values.
        batch_size: Number of styles decoded at once. None chooses it.
        precision: Precision of convolutions and matrix products.
        max_pixels: Refuse images with more pixels. None is Pillow's limit.
        lossless: Write videos as FFV1, which keeps every value.
        resources: Memory, scratch folder and statistics.
    """

    size: int | None = None
    stretch: bool = False
    batch_size: int | None = None
    precision: str = "float32"
    max_pixels: int | None = None
    lossless: bool = False
    resources: Resources = Resources()  # noqa: RUF009 - it is immutable


@dataclass
class Summary:
    """Counts of translated images and written files, removed files, and images that failed."""

    images: int = 0
    written: int = 0
    removed: list[Path] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


class FileTranslator:
    """A translator of image files into an output folder.

    Args:
        translator: The model.
        output: The output folder.
        styles: The styles of outputs.
        rendering: Options for reading and writing images.
    """

    def __init__(self, translator: Translator, output: Path, styles: OutputStyles, rendering: Rendering) -> None:
        self._translator, self._output = translator, output
        self._styles, self._rendering = styles, rendering
        self._map = value_mapping(rendering.stretch)
        self._random = torch.Generator().manual_seed(styles.seed)
        self._resources = rendering.resources
        self.sheet = output / "sheet.png"

    def report(self, say: Callable[[str], object], progress: Callable[[float], object]) -> None:
        """Choose functions for lines about large images, and for the part of an image that is done."""
        self._resources = replace(self._resources, say=say, progress=progress)

    def targets(self, item: Input) -> list[Path]:
        """Return the output files of an image."""
        if item.like is not None:
            suffix = item.like
        elif item.video is not None:
            suffix = output_suffix(item.path, self._rendering.lossless)
        elif item.form is not None:
            suffix = SUFFIXES[item.form]
        else:
            suffix = ".png" if self._translator.target_channels <= 4 else ".tif"
        labels = [self._styles.label(index) for index in range(self._styles.count)]
        if self._styles.folders:
            return [self._output / label / f"{item.name}{suffix}" for label in labels]
        return [self._output / f"{item.name}_{label}{suffix}" for label in labels]

    def steps(self, item: Input) -> int:
        """Return how often `run` calls `advance` for an image or a video."""
        return 1 if item.video is None else item.video.frames * -(-self._styles.count // MAX_ENCODERS)

    def require_free_targets(self, inputs: Sequence[Input], sources: Sequence[Path], read: Sequence[Path]) -> None:
        """Check that outputs can be written, and overwrite neither a file that is read nor each other.

        Args:
            inputs: Images to translate, with their formats, which decide the suffixes of outputs.
            sources: Files and folders that the user gave as inputs.
            read: All files that are read, including those that cannot be translated.

        Raises:
            FastmunitError: If one would be overwritten, or the output folder cannot be written.
        """
        require_writable(self.sheet)
        require_outside(self._output, sources)
        targets = [path for item in inputs for path in self.targets(item)]
        require_apart([*targets, self.sheet], read)
        saved = self._resources.save_statistics
        if saved is not None and resolved(saved) in map(resolved, (*targets, self.sheet)):
            raise FastmunitError(f"{printable(saved)} is an output, too: choose another --save-statistics.")
        for path, times in Counter([*targets, self.sheet]).most_common(1):
            if times > 1:
                raise FastmunitError(
                    f"{times} images would be written to {printable(path)}: rename some inputs so that names differ."
                )

    def run(self, inputs: Sequence[Input], keep: Iterable[Path], advance: Callable[[], object]) -> Summary:
        """Translate images. Those that cannot be read are left out and listed in the result.

        Args:
            inputs: Images to translate.
            keep: Files that are never removed, even if an earlier call has written them.
            advance: Called after each image, and after each frame of a video.

        Raises:
            FastmunitError: If an output cannot be written.
        """
        summary, sheet = Summary(), OutputSheet(self._styles.references)
        record = OutputRecord(self._output)
        protected = set(map(resolved, keep))
        for item in inputs:
            # Draw codes for images that fail too, so that they do not change the styles of the others.
            codes = self._styles.codes
            if codes is None:
                codes = self._translator.random_styles(self._styles.count, self._random)
            targets = self.targets(item)
            try:
                with record.interruptible(item.name, self._styles.kind, targets):
                    image, outputs = self._translate(item, codes, targets, advance)
            except (DataError, _Untranslated) as error:
                summary.failures.append(Failure(item.path, str(error)))
            except (MemoryError, RuntimeError) as error:  # outside the network: a resize, frames of an animation
                if not is_out_of_memory(error):
                    raise
                summary.failures.append(Failure(item.path, f"not enough memory: {first_line(error)}"))
            else:
                summary.removed += record.replace(item.name, self._styles.kind, targets, protected)
                sheet.add(image, outputs)
                summary.images += 1
                summary.written += len(targets)
            if item.video is None:
                advance()
        if summary.images:
            sheet.save(self.sheet)
        return summary

    def _translate(
        self, item: Input, codes: Tensor, targets: Sequence[Path], advance: Callable[[], object]
    ) -> tuple[Tensor, list[Tensor]]:
        """Translate an image and write its outputs. Return both, or the first frames of an animation or a video."""
        if self._resources.save_statistics is not None:
            self._require_one_image(item)
        if item.video is not None:
            return self._translate_video(item, codes, targets, advance)
        if item.form is not None:
            return self._translate_animation(item, codes, targets)
        if item.like is not None:
            if self._is_whole():
                self._require_memory(item.path, source_values(self._translator), len(codes))
            return translate_like(
                item.path,
                codes,
                targets,
                self._translator,
                lambda x, s: self._outputs(x, s)[1],
                None if self._is_whole() else self._slice_by_region,
                self._resources.progress,
            )
        values, channels = source_values(self._translator), self._translator.channels
        if self._is_whole():
            self._require_memory(item.path, values, len(codes))
        elif self._resources.memory is not None or self._is_large(item.path, values):
            return self._translate_picture(item.path, values, codes, targets)
        image = read_pixels(item.path, channels, self._rendering.max_pixels, values)
        image, outputs = self._outputs(image, codes)
        for output, path in zip(outputs, targets, strict=True):
            data.save_image(output, path)
        return image, outputs

    def _require_one_image(self, item: Input) -> None:
        """Raise _Untranslated if an input has several images: a statistics file has those of one."""
        kind = "a video" if item.video is not None else "an animation" if item.form is not None else None
        if item.like is not None:
            values, channels = source_values(self._translator), self._translator.channels
            slices = image_header(item.path, channels, values, self._rendering.max_pixels).pages
            kind = f"a volume of {slices:,} slices" if slices > 1 else None
        if kind is not None:
            raise _Untranslated(
                f"{printable(item.path)} is {kind}, and --save-statistics saves the statistics of one image: give one."
            )

    def _is_whole(self) -> bool:
        """Return True if an option needs whole images."""
        return self._rendering.stretch or self._rendering.size is not None

    def _is_large(self, path: Path, values: PixelValues) -> bool:
        header = image_header(path, self._translator.channels, values, self._rendering.max_pixels)
        return header.height * header.width >= SMALL

    def _translate_picture(
        self, path: Path, values: PixelValues, codes: Tensor, targets: Sequence[Path]
    ) -> tuple[Tensor, list[Tensor]]:
        """Translate a picture that may not fit in the memory with its maps, and write its outputs."""
        translator, options = self._translator, self._rendering
        source = PictureSource(path, translator.channels, values, options.max_pixels)
        memory = self._resources.memory
        if memory is None:
            _ = source.planes  # so that it is not part of the memory that is free
        else:
            needed = CODEC_BYTES * source.height * source.width
            if needed > memory:
                raise _Untranslated(
                    f"{printable(path)}: decoding {source.width}x{source.height} pixels takes about "
                    f"{needed / 1e6:,.1f} MB of memory, more than {memory / 1e6:,.1f} MB: raise --memory, or convert "
                    "it to a tiled TIFF, which is read by region."
                )
            memory = max(memory - source.resident_bytes, 1)
        sinks = [
            PictureSink(target, self._output, translator.target_channels, source.height, source.width)
            for target in targets
        ]
        if self._by_region(source, codes, sinks, replace(self._resources, memory=memory)):
            for sink in sinks:
                sink.save()
            return source.preview(), [sink.preview() for sink in sinks]
        image = normalize(source.planes)
        try:
            outputs = list(translator.translate(image, codes, options.batch_size, precision=options.precision))
        except FastmunitError as error:
            raise _Untranslated(str(error)) from error
        for output, target in zip(outputs, targets, strict=True):
            data.save_image(output, target)
        return image, outputs

    def _require_memory(self, path: Path, values: PixelValues, styles: int) -> None:
        """Check that an image and its outputs fit in the memory as a whole.

        Raises:
            _Untranslated: If they do not. The message names the option that needs them.
        """
        option = "--stretch" if self._rendering.stretch else "--size"
        header = image_header(path, self._translator.channels, values, self._rendering.max_pixels)
        size = header.height * header.width
        memory = self._resources.memory
        if memory is None and size >= SMALL:
            with suppress(FastmunitError):  # the system does not tell
                memory = free_memory(torch.device("cpu"))
        outputs = styles * self._translator.target_channels if self._rendering.stretch else 0
        needed = 8 * size * (self._translator.channels + outputs)
        if memory is not None and needed > memory:
            raise _Untranslated(
                f"{printable(path)}: {option} needs the whole image of {header.width}x{header.height} pixels in "
                f"memory, about {needed / 1e6:,.1f} MB of {memory / 1e6:,.1f} MB: leave {option} out, or "
                "give more --memory."
            )

    def _translate_animation(self, item: Input, codes: Tensor, targets: Sequence[Path]) -> tuple[Tensor, list[Tensor]]:
        """Translate each frame into the same styles, and write one animation per style."""
        animation = read_animation(item.path, self._translator.channels, self._rendering.max_pixels)
        values = source_values(self._translator)
        first: tuple[Tensor, list[Tensor]] | None = None
        frames: list[list[Tensor]] = [[] for _ in targets]
        translate = self._frame_outputs(codes)
        for frame in animation.frames:
            image, outputs = translate(frame_input(frame, values, item.path))
            first = first or (image, outputs)
            for output, of_style in zip(outputs, frames, strict=True):
                of_style.append(frame_bytes(output, item.path))
        assert first is not None
        for of_style, path in zip(frames, targets, strict=True):
            save_animation(of_style, path, animation.durations, animation.loop, animation.format)
        return first

    def _translate_video(
        self, item: Input, codes: Tensor, targets: Sequence[Path], advance: Callable[[], object]
    ) -> tuple[Tensor, list[Tensor]]:
        """Translate each frame into the same styles, and write one video per style."""
        options, firsts = self._rendering, list[tuple[Tensor, list[Tensor]]]()
        for begin in range(0, len(targets), MAX_ENCODERS):
            part = slice(begin, begin + MAX_ENCODERS)
            firsts.append(
                translate_video(
                    item.path,
                    self._translator.channels,
                    self._frame_outputs(codes[part]),
                    targets[part],
                    values=source_values(self._translator),
                    max_pixels=options.max_pixels,
                    lossless=options.lossless,
                    advance=advance,
                )
            )
        return firsts[0][0], [output for _, outputs in firsts for output in outputs]

    def _slice_by_region(self, source: FileSource, codes: Tensor, sinks: Sequence[PixelSink]) -> bool:
        """Translate a slice by region as `_by_region` does, and say how for the first slice only."""
        whole, count = self._resources, source.planes
        say = whole.say if source.plane == 0 else None
        resources = replace(
            whole,
            say=None if say is None else lambda line: say(_of_each(line, count)),
            progress=lambda done: whole.progress((source.plane + done) / count),
        )
        return self._by_region(source, codes, sinks, resources)

    def _by_region(self, source: PixelSource, codes: Tensor, sinks: Sequence[PixelSink], resources: Resources) -> bool:
        """Translate a source by region, if it is too large to be translated as a whole."""
        # The image as it is stored and in float32, and each output in float32 and as it is written.
        pixel_bytes = 8 * (self._translator.channels + len(codes) * self._translator.target_channels)
        try:
            return translate_by_region(
                self._translator,
                source,
                codes,
                sinks,
                self._rendering.precision,
                resources,
                pixel_bytes=pixel_bytes,
            )
        except FastmunitError as error:
            raise _Untranslated(str(error)) from error

    def _frame_outputs(self, codes: Tensor) -> Callable[[Tensor], tuple[Tensor, list[Tensor]]]:
        """Return a function that translates a frame as `_outputs` does, and says how for the first frame only."""
        resources = self._resources

        def outputs(frame: Tensor) -> tuple[Tensor, list[Tensor]]:
            nonlocal resources
            found = self._outputs(frame, codes, resources)
            resources = replace(resources, say=None)
            return found

        return outputs

    def _outputs(self, image: Tensor, codes: Tensor, resources: Resources | None = None) -> tuple[Tensor, list[Tensor]]:
        options = self._rendering
        image = resized(image, options.size)
        try:
            results = translate_image(
                self._translator, image, codes, options.batch_size, options.precision, resources or self._resources
            )
        except FastmunitError as error:  # for example too little memory for this image
            raise _Untranslated(str(error)) from error
        return image, [self._map(result) for result in results]


def _of_each(line: str, slices: int) -> str:
    """Return a line about an image as one about each slice of a volume."""
    return line if slices == 1 else f"{line.removesuffix('.')}, for each of {slices:,} slices."


class _Untranslated(Exception):
    """An image that the model cannot translate."""


def _printable(name: str) -> str:
    """Return a style's name as a part of a file name."""
    shortened = name[:_MAX_NAME_LENGTH]
    safe = "".join(character if character.isalnum() or character in "-." else "_" for character in shortened)
    return safe.strip("._") or "unnamed"
