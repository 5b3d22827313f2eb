"""Translation of an image out of core."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

import torch
from torch import Tensor

from fastmunit.errors import DataError, FastmunitError
from fastmunit.files import digest, printable
from fastmunit.out_of_core.choice import Choice, choose
from fastmunit.out_of_core.disk import free_bytes
from fastmunit.out_of_core.execution import Execution, OnProgress
from fastmunit.out_of_core.journal import Journal
from fastmunit.out_of_core.lowering import Lowering
from fastmunit.out_of_core.maps import Map, Reduction
from fastmunit.out_of_core.networks import Encoding, maps_of, style_key
from fastmunit.out_of_core.pixels import ImageMap, PixelSink, PixelSource
from fastmunit.out_of_core.placement import Limits
from fastmunit.out_of_core.schedule import reachable
from fastmunit.out_of_core.statistics_file import read_statistics, write_statistics
from fastmunit.out_of_core.time_estimate import estimated_seconds, in_words
from fastmunit.out_of_core.whole import whole_bytes
from fastmunit.region import Region
from fastmunit.systems.parts.inference_autocast import inference_autocast
from fastmunit.systems.translators import Translator


@dataclass(frozen=True)
class Settings:
    """Settings of a translation out of core.

    Attributes:
        memory: Bytes of memory that may be taken, besides those that the process has already.
        scratch: Folder for maps, which an interrupted translation leaves there to be resumed. None is a temporary
            folder, which is always removed.
        precision: Precision of convolutions. None is the translator's own.
        statistics: File with the statistics to normalize with, instead of those of the image.
        save_statistics: File to write the statistics of the image to.
        tile: Height and width of all tiles, instead of those that fit in the memory.
    """

    memory: int
    scratch: Path | None = None
    precision: str | None = None
    statistics: Path | None = None
    save_statistics: Path | None = None
    tile: tuple[int, int] | None = None


class OutOfCoreTranslation:
    """The translation of one image into some styles, layer by layer over the whole image, one tile at a time.

    The result is that of `Translator.translate` up to rounding: norms use statistics over the whole image.

    Args:
        translator: The model.
        source: The image.
        styles: Style codes (S, style_dim, 1, 1).
        settings: Memory and scratch folder.

    Attributes:
        passes: The passes over the image, in order.
        placement: Where maps are stored, and the sizes of tiles.

    Raises:
        FastmunitError: If the image does not have the model's channels, a layer cannot be computed region by region, or
            disk or memory are too small.
    """

    def __init__(self, translator: Translator, source: PixelSource, styles: Tensor, settings: Settings) -> None:
        if source.channels != translator.channels:
            raise FastmunitError(
                f"the image has {source.channels} channels and the model takes {translator.channels}: convert it, or "
                "use the other direction."
            )
        self._work = _Work(translator, source, settings)
        self._settings = settings
        with self._work.computing():
            image = self._work.image()
            maps = maps_of(translator, self._work.lowering)
            self._keys = [style_key(style) for style in styles.split(1)]
            distinct = dict(zip(self._keys, styles.split(1), strict=True))
            outputs = {key: maps.output(image, style) for key, style in distinct.items()}
        if settings.statistics is not None:
            self._work.use_statistics(settings.statistics)
        extent = Region(0, 0, source.height, source.width)
        self._choice = self._work.choose([(outputs[key], extent) for key in self._keys], [], self._keys)
        self.passes, self.placement = self._choice.passes, self._choice.placement

    def describe(self) -> str:
        """Return the passes, tiles, disk space, memory and time in words. The time is measured, in a part of a second.

        The time is that of the whole translation, even if a part of it has been done before.
        """
        plan, usual = self.placement, self._choice.usual
        with self._work.computing():
            seconds = estimated_seconds(self.passes, plan, self._work.folder, self._work.lowering.device)
        text = (
            f"{len(self.passes)} passes in {plan.tile_count:,} tiles, {plan.disk_bytes / 1e6:,.1f} MB on disk, "
            f"{plan.memory_bytes / 1e6:,.1f} MB of memory, {in_words(seconds)}"
        )
        if usual is not None:
            text += (
                f"; it computes layers again instead of storing them, {plan.work / usual.work:.2f} times the work, as "
                f"the disk has no {usual.disk_bytes / 1e6:,.1f} MB left"
            )
        return text

    def run(self, sinks: Sequence[PixelSink], progress: OnProgress = lambda _: None) -> None:
        """Translate the image.

        Args:
            sinks: Where the result of each style is written.
            progress: Called after each tile.

        Raises:
            FastmunitError: If the disk is full or too small. The same call resumes the translation.
        """
        self._work.run(self._choice, sinks, progress)
        if self._settings.save_statistics is not None:
            self._work.save_statistics(self._settings.save_statistics)


def whole_image_bytes(translator: Translator, height: int, width: int, precision: str | None = None) -> int:
    """Return about how many bytes of memory the translation of a whole image into one style takes.

    Raises:
        FastmunitError: If the memory of this translator is not known.
    """
    work = _Work(translator, _Size(translator.channels, height, width), Settings(0, precision=precision))
    style = translator.random_styles(1, torch.Generator().manual_seed(0))
    with work.computing():
        output = maps_of(translator, work.lowering).output(work.image(), style)
    return whole_bytes(reachable([output]))


@dataclass
class _Size:
    """A source whose pixels are not needed."""

    channels: int
    height: int
    width: int
    kept_bytes: int = 0
    identity: str = ""

    def read(self, region: Region) -> Tensor:
        raise AssertionError("this image has no pixels")


def encode_style(
    translator: Translator, source: PixelSource, settings: Settings, progress: OnProgress = lambda _: None
) -> Tensor:
    """Return the style code (1, style_dim, 1, 1) of an image of the target domain.

    Args:
        translator: The model.
        source: The image.
        settings: Memory and scratch folder.
        progress: Called after each tile.

    Raises:
        FastmunitError: If the system has no style codes, or the disk or memory is too small.
    """
    work = _Work(translator, source, settings)
    with work.computing():
        encoding: Encoding = maps_of(translator, work.lowering).encoding(work.image())
    work.run(work.choose([], [encoding.reduction], ["style"]), [], progress)
    with work.computing():
        mean = encoding.reduction.known().mean.to(translator.device, translator.dtype)
        return encoding.code(mean[None, :, None, None]).float()


class _Work:
    """The parts that translations and style codes have in common.

    Attributes:
        lowering: What makes the maps.
        folder: Folder for maps.
    """

    def __init__(self, translator: Translator, source: PixelSource, settings: Settings) -> None:
        self._translator, self._source, self._settings = translator, source, settings
        precision = translator.precision if settings.precision is None else settings.precision
        self._low_precision = None if precision == "float32" else getattr(torch, precision)
        self.lowering = Lowering(self._low_precision or translator.dtype, translator.device)
        self.folder, self._fingerprint = Path(gettempdir()), ""

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Compute without gradients in the chosen precision."""
        with torch.no_grad(), inference_autocast(self._translator.device.type, self._low_precision):
            yield

    def image(self) -> ImageMap:
        """Return the image, extended to a size that the networks support."""
        translator, source = self._translator, self._source
        multiple, smallest = translator.multiple, translator.min_size
        height, width = (max(-(-n // multiple) * multiple, smallest) for n in (source.height, source.width))
        return ImageMap(source, height, width, translator.dtype, translator.device)

    def use_statistics(self, path: Path) -> None:
        """Take the statistics of a file.

        Raises:
            DataError: If the file cannot be used, or belongs to another model or other styles.
        """
        statistics = read_statistics(path)
        if statistics.weights != self._weights():
            raise DataError(
                f"statistics file {printable(path)} belongs to another model: save one with this model, or "
                "leave --statistics out."
            )
        for reduction in self.lowering.reductions:
            moments = statistics.moments.get(reduction.source.name)
            if moments is None or len(moments.mean) != reduction.source.channels:
                raise DataError(
                    f"statistics file {printable(path)} has no statistics of {reduction.source.name}: it was saved "
                    "with other styles. Use those that it was saved with: the same seed and number of random styles, "
                    "and --same-styles for several images."
                )
            reduction.moments = moments

    def save_statistics(self, path: Path) -> None:
        """Write the statistics of the image."""
        moments = {reduction.source.name: reduction.known() for reduction in self.lowering.reductions}
        write_statistics(path, self._weights(), moments)

    def choose(
        self, outputs: Sequence[tuple[Map, Region]], reductions: Sequence[Reduction], options: Sequence[str]
    ) -> Choice:
        """Return the passes, and where their maps are stored.

        Args:
            outputs: Maps to write to sinks, with the part of each that is written.
            reductions: Further statistics to compute.
            options: Texts that are different if anything changes that maps depend on, besides image and model.
        """
        scratch = self._settings.scratch
        if scratch is not None:  # only then can another process resume
            self._fingerprint = self._fingerprint_of(options)
            self.folder = scratch / self._fingerprint[:16]
        free = free_bytes(self.folder)
        limits = Limits(self._settings.memory, self._source.kept_bytes, self._settings.tile)
        return choose(outputs, reductions, limits, free, self.folder)

    def run(self, choice: Choice, sinks: Sequence[PixelSink], progress: OnProgress) -> None:
        """Run the passes in a scratch folder, which is removed at the end."""
        scratch = self._settings.scratch
        with ExitStack() as stack:
            folder = self.folder if scratch else Path(stack.enter_context(TemporaryDirectory()))
            journal = Journal(folder, self._fingerprint)
            stack.callback(journal.close)
            with self.computing():
                Execution(choice.passes, choice.placement, journal, self._translator.device).run(sinks, progress)
            journal.remove()
            if scratch is not None:
                with suppress(OSError):  # it is not empty
                    scratch.rmdir()

    def _fingerprint_of(self, options: Sequence[str]) -> str:
        """Return a text that is different if anything changes that the maps depend on."""
        translator = self._translator
        kind = f"{translator.device.type} {translator.dtype} {self._low_precision}"
        parts = [self._weights(), kind, self._source.identity, *options]
        if self._settings.statistics is not None:
            parts.append(digest(self._settings.statistics))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def _weights(self) -> str:
        """Return a digest of the weights."""
        sha = hashlib.sha256()
        for name, network in sorted(self._translator.networks().items()):
            for key, value in network.state_dict().items():
                sha.update(f"{name} {key} {tuple(value.shape)}".encode())
                sha.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return sha.hexdigest()
