"""The images of a domain whose files are slides and volumes: slices, or random regions that are read alone."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastmunit.config import Config
from fastmunit.data.paths import Domain, Half, Part, domain_files
from fastmunit.data.pixels import Stored, read_planes, read_stored
from fastmunit.data.readers import DomainReader, has_reader
from fastmunit.data.seeding import named_generator
from fastmunit.data.sources import file_identity
from fastmunit.data.usable_regions import Cell, Request, Rule, Span, middle, usable_cells
from fastmunit.data.value_range import PixelValues
from fastmunit.errors import DataError
from fastmunit.files import printable
from fastmunit.region import Region


class FileSource:
    """A list of image files with the interface of `NamedSource`."""

    def __init__(self, paths: Sequence[str | os.PathLike[str]]) -> None:
        self.paths = list(paths)
        self.count = len(self.paths)

    def label(self, index: int) -> str | os.PathLike[str]:
        """Return the path of an image."""
        return self.paths[index]

    def planes(self, index: int, channels: int, max_pixels: int | None, values: PixelValues, epoch: int = 0) -> Tensor:
        """Decode an image with `read_planes`. All epochs are equal."""
        return read_planes(self.paths[index], channels, max_pixels, values)

    def stored(self, index: int, channels: int, max_pixels: int | None, values: PixelValues) -> Stored:
        """Decode an image with `read_stored`."""
        return read_stored(self.paths[index], channels, max_pixels, values)

    def identity(self) -> dict[str, Any]:
        """Return the number of files and a hash of their names; see `file_identity`."""
        return file_identity(self.paths)


class Item(NamedTuple):
    """An image of a `SlideSource`: a cell of a file, or a whole file that Pillow reads."""

    path: str | os.PathLike[str]
    cell: Cell | None


class SlideSource(FileSource):
    """The usable regions of slides, or the usable slices of volumes, as images.

    An image is a random crop of its cell, another one in each epoch, and only the crop is read. Files that Pillow reads
    are one image each, as in `FileSource`.

    Args:
        items: The images.
        crop: (height, width) of a crop, or None for whole slices.
        seed: Seed of the crops.
        stream: Number that distinguishes domains with the same seed.
        random: Set to False for the crop in the middle of each cell.

    Attributes:
        total: Number of regions, usable or not.
    """

    def __init__(
        self,
        items: Sequence[Item],
        total: int,
        crop: tuple[int, int] | None,
        seed: int = 0,
        stream: int = 0,
        random: bool = True,
    ) -> None:
        super().__init__(list(dict.fromkeys(item.path for item in items)))
        self.items, self.total, self._crop = list(items), total, crop
        self._seed, self._stream, self._random = seed, stream, random
        self.count = len(self.items)
        self._numbers = {path: number for number, path in enumerate(self.paths)}

    def label(self, index: int) -> str | os.PathLike[str]:
        """Return the path of an image, with its slice and the first row and column of its cell."""
        item = self.items[index]
        if item.cell is None:
            return item.path
        plane, rows, columns = item.cell
        return f"{printable(item.path)} (slice {plane}, from row {rows.first}, column {columns.first})"

    def planes(self, index: int, channels: int, max_pixels: int | None, values: PixelValues, epoch: int = 0) -> Tensor:
        """Read the crop of an epoch: (C, H, W) float32 in [0, 1]."""
        item = self.items[index]
        if item.cell is None:
            return super().planes(self._numbers[item.path], channels, max_pixels, values)
        source = DomainReader(item.path, channels, values)
        return Stored(self._read(source, item.cell, index, epoch), source.nodata).to_unit(values, printable(item.path))

    def stored(self, index: int, channels: int, max_pixels: int | None, values: PixelValues) -> Stored:
        """Read the crop of epoch 0 as it is stored."""
        item = self.items[index]
        if item.cell is None:
            return super().stored(self._numbers[item.path], channels, max_pixels, values)
        source = DomainReader(item.path, channels, values)
        return Stored(self._read(source, item.cell, index, 0), source.nodata)

    def identity(self) -> dict[str, Any]:
        """Return the number of images, and a hash of the names of the files and of the usable cells."""
        names = file_identity(self.paths)["names"]
        cells = [(self._numbers[item.path], item.cell) for item in self.items]
        return {"count": self.count, "names": hashlib.sha256(f"{names}{cells}".encode()).hexdigest()}

    def with_paths(self, paths: Sequence[str | os.PathLike[str]]) -> SlideSource:
        """Return the same cells of other files, one for each of `paths`."""
        items = [item._replace(path=paths[self._numbers[item.path]]) for item in self.items]
        return SlideSource(items, self.total, self._crop, self._seed, self._stream, self._random)

    def _read(self, source: DomainReader, cell: Cell, index: int, epoch: int) -> np.ndarray:
        if self._crop is None:
            return source.read_whole(cell.plane)
        return source.read(self._region(cell, index, epoch), cell.plane)

    def _region(self, cell: Cell, index: int, epoch: int) -> Region:
        assert self._crop is not None
        if not self._random:
            return middle(cell, self._crop)
        generator = named_generator("region", self._seed, self._stream, epoch, index)
        top, left = (_position(span, generator) for span in (cell.rows, cell.columns))
        return Region(top, left, *self._crop)


def domain_source(config: Config, part: Part, domain: Domain, crop: tuple[int, int]) -> tuple[FileSource, Half | None]:
    """Return the images of a domain: a `SlideSource` if a file is a slide or a volume, otherwise a `FileSource`.

    Files are cut into regions unless they are resized (`new_size`) or halved. With pairs, the regions of B are those of
    their partners in A, which have the same sizes. If Pillow reads one image of a pair, both are read whole.

    Args:
        config: Configuration with the files and the rule by which regions are usable.
        part: "train" for random crops, or "test" for the crop in the middle of each cell.
        domain: "a" or "b".
        crop: (height, width) of the regions.

    Returns:
        The images, and the half of each that belongs to the domain.

    Raises:
        ConfigError, DataError: If `domain_files` raises, a slide or volume cannot be used, no region of any file is
            usable, or the partner of a picture is a volume.
    """
    files = domain_files(config, part, domain)
    if config.pairs != "unpaired" and domain == "b":
        a, _ = domain_source(config, part, "a", crop)
        if not isinstance(a, SlideSource):
            return FileSource(files.paths), files.half
        partners = dict(zip(domain_files(config, part, "a").paths, files.paths, strict=True))
        return a.with_paths([partners[Path(path)] for path in a.paths]), files.half
    requests = region_requests(config, part, domain, crop)
    if not any(requests):
        return FileSource(files.paths), files.half
    items: list[Item] = []
    total = 0
    for path, request in zip(files.paths, requests, strict=True):
        if request is None:
            items.append(Item(path, None))
            total += 1
            continue
        index = usable_cells(request)
        items += [Item(path, cell) for cell in index.cells]
        total += index.total
    if not items:
        raise DataError(
            f"{printable(files.source)}: none of {total:,} regions of {len(files.paths):,} files has enough "
            f"foreground: set background_{domain} to none, or lower min_foreground."
        )
    stream = "ab".index(domain) if config.pairs == "unpaired" else 0
    regions = next(request.crop for request in requests if request is not None)
    return SlideSource(items, total, regions, config.seed, stream, random=part == "train"), files.half


def region_requests(config: Config, part: Part, domain: Domain, crop: tuple[int, int]) -> list[Request | None]:
    """Return what to ask `usable_cells` for each file of a domain, or None for those that Pillow reads.

    See `domain_source` for the arguments and errors. With pairs, domain A is the one to ask for.
    """
    files = domain_files(config, part, domain)
    scientific = _have_readers(config, domain, files.paths)
    if config.pairs == "folders":
        partners_of_a = domain_files(config, part, "b").paths
        pairs = list(
            zip(files.paths, scientific, partners_of_a, _have_readers(config, "b", partners_of_a), strict=True)
        )
        for path_a, own, path_b, theirs in pairs:
            if own != theirs:
                _require_one_plane(config, path_a, path_b, "a" if own else "b")
        scientific = [own and theirs for _, own, _, theirs in pairs]
    regions = crop if files.half is None and (config.size_a if domain == "a" else config.size_b) is None else None
    channels = config.input_dim_a if domain == "a" else config.input_dim_b
    values, rule = PixelValues.of(config, domain), Rule.of(config, domain)
    return [
        Request(os.fspath(path), channels, values, regions, rule) if own else None
        for path, own in zip(files.paths, scientific, strict=True)
    ]


def _have_readers(config: Config, domain: Domain, paths: Sequence[Path]) -> list[bool]:
    channels = config.input_dim_a if domain == "a" else config.input_dim_b
    values = PixelValues.of(config, domain)
    return [has_reader(path, channels, values, config.max_pixels) for path in paths]


def _require_one_plane(config: Config, path_a: Path, path_b: Path, domain: Domain) -> None:
    """Raise DataError if the image of a pair that `image_files` reads is a volume, and the other one is a picture."""
    channels, path = (config.input_dim_a, path_a) if domain == "a" else (config.input_dim_b, path_b)
    if DomainReader(path, channels, PixelValues.of(config, domain)).reader.planes > 1:
        raise DataError(
            f"{printable(path_a)} and {printable(path_b)} are a pair, but only one of them is a volume: convert the "
            "other one."
        )


def _position(span: Span, generator: torch.Generator) -> int:
    return span.first + int(torch.randint(span.positions, (), generator=generator))
