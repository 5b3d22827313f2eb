"""Writing of TIFF, BigTIFF, OME-TIFF and GeoTIFF files with the metadata of the file that was read."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np

from fastmunit.files import atomic_write
from fastmunit.image_files import gdal_metadata, ome_xml
from fastmunit.image_files.packages import needed
from fastmunit.image_files.raw_array import RawArray
from fastmunit.image_files.staging import Staging
from fastmunit.image_files.tiff_pages import imagej_items, shaped_description
from fastmunit.image_files.tiff_reader import TiffReader
from fastmunit.image_files.writer import ImageWriter
from fastmunit.region import Region

_TILE = 256
# Lossless compressions that the package writes again; others become Adobe deflate.
_LOSSLESS = (1, 5, 8, 32773, 34925, 50000)
_PREDICTABLE = (5, 8, 34925, 50000)
_DEFLATE = 8
_MINISBLACK, _RGB = 1, 2
_GEOREFERENCE = (33550, 33922, 34264, 34735)
_ASCII = 2
_MAX_CLASSIC = 0xF0000000
# An OME-TIFF with a longer side than this has a pyramid, even if the one that was read has none.
_MAX_FLAT = 4096
_MIN_LEVEL = 256
_WRITE_BUFFER = 1 << 24


class TiffWriter(ImageWriter):
    """A TIFF like another one: the same kind, metadata and number of planes; tiled, and with a pyramid if that has one.

    Pages stay channels if they were. Otherwise, channels are samples of a pixel, stored like those of the other file.
    An Aperio slide becomes an OME-TIFF with its pixel size and magnification.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        like: TiffReader,
        channels: int,
        dtype: np.dtype,
        channel_names: tuple[str, ...],
    ) -> None:
        self._like = like.profile
        self._source = like
        self._ome = self._like.pages.kind in ("ome", "svs")
        per_plane = like.pages_per_plane
        self._by_page = per_plane > 1 or (self._ome and channels not in (1, 3, 4) and like.channels != channels)
        self._samples = channels
        if self._by_page:
            kept = per_plane > 1 and channels % self._like.samples == 0
            self._samples = self._like.samples if kept else 1
        super().__init__(path, like, channels, dtype, channel_names)

    def _prepare(self) -> None:
        self._tifffile = needed("tifffile", "tiff", "a TIFF file")
        if self._ome:
            self._description((self.height, self.width))  # raises for types that OME does not have

    def _encode(self, pixels: Staging) -> None:
        imagej = self._like.pages.kind == "imagej" and self.dtype.name in ("uint8", "uint16", "float32")
        with atomic_write(self.path) as file:
            # tifffile expects the name of an open file to be text.
            handle = self._tifffile.FileHandle(file, name=self.path.name)
            if imagej:
                self._write_imagej(file, handle, pixels)
            else:
                self._write_tiles(handle, pixels)

    def _write_tiles(self, handle: Any, pixels: Staging) -> None:
        total = self.planes * self.channels * self.height * self.width * self.dtype.itemsize
        pages = self.planes * self.channels // self._samples
        with ExitStack() as levels_files:
            levels = [pixels]
            while len(levels) <= self._level_count():
                levels.append(levels[-1].halved(self._source.nodata))
                levels_files.callback(levels[-1].close)
            big = self._like.big or total * 4 // 3 > _MAX_CLASSIC
            with self._tifffile.TiffWriter(handle, bigtiff=big, ome=False) as tiff:
                for index, level in enumerate(levels):
                    options = self._page_options(level)
                    if index == 0:
                        options |= self._first_page_options() | {"subifds": len(levels) - 1}
                    else:
                        options["subfiletype"] = 1
                    if index == 0 or not self._ome:
                        options["description"] = self._description(level.shape[2:]) or None
                    shape = self._stored_shape(level, pages)
                    tiff.write(self._tiles(level, options["tile"]), shape=shape, **options)

    def _level_count(self) -> int:
        """Return the number of smaller levels to write."""
        longest = max(self.height, self.width)
        if len(self._source.levels) > 1:
            smallest = max(self._source.levels[-1])
        elif self._ome and longest > _MAX_FLAT:
            smallest = _MIN_LEVEL
        else:
            return 0
        count = 0
        while longest > smallest and longest > 1:
            longest = (longest + 1) // 2
            count += 1
        return max(count, 1)

    def _page_options(self, level: Staging) -> dict[str, Any]:
        like = self._like
        compression = like.compression if like.compression in _LOSSLESS else _DEFLATE
        same = self._samples == like.samples
        rgb = self._samples in (3, 4) and self.channel_names[:3] == ("R", "G", "B")
        options: dict[str, Any] = {
            "dtype": self.dtype,
            "photometric": _RGB if rgb else like.photometric if same and like.photometric in (0, 1, 5) else _MINISBLACK,
            "tile": self._tile(level),
            "compression": compression,
            "maxworkers": 1,
            "buffersize": _WRITE_BUFFER,
            "metadata": None,
            "software": False,
        }
        if compression in _PREDICTABLE and self.dtype.kind in "iu" and self.dtype.itemsize <= 4:
            options["predictor"] = 2
        if self._samples > 1:
            options["planarconfig"] = 2 if like.planar else 1
            if same and like.extra_samples:
                options["extrasamples"] = like.extra_samples
        return options

    def _first_page_options(self) -> dict[str, Any]:
        like = self._like
        options: dict[str, Any] = {"extratags": self._kept_tags()}
        if like.resolution is not None:
            *options["resolution"], options["resolutionunit"] = like.resolution
        if like.icc is not None and self._samples == like.samples:
            options["iccprofile"] = like.icc
        return options

    def _tile(self, level: Staging) -> tuple[int, int]:
        """Return the tile size of the file that was read if there is one, but no larger than the image needs."""
        found = self._like.tile or (_TILE, _TILE)
        if any(side % 16 or not 16 <= side <= 4096 for side in found):
            found = (_TILE, _TILE)
        height, width = (min(side, -(-size // 16) * 16) for side, size in zip(found, level.shape[2:], strict=True))
        return height, width

    def _stored_shape(self, level: Staging, pages: int) -> tuple[int, ...]:
        size = level.shape[2:]
        if self._samples == 1:
            return (pages, *size)
        return (pages, self._samples, *size) if self._like.planar else (pages, *size, self._samples)

    def _tiles(self, level: Staging, tile: tuple[int, int]) -> Iterator[np.ndarray]:
        """Yield the tiles in the order in which they are stored: page, sample (if planar), row, column."""
        _, channels, height, width = level.shape
        step = 1 if self._like.planar else self._samples
        for plane in range(self.planes):
            for first in range(0, channels, step):
                for top in range(0, height, tile[0]):
                    for left in range(0, width, tile[1]):
                        region = Region(top, left, min(tile[0], height - top), min(tile[1], width - left))
                        block = level.read(region, plane, slice(first, first + step))
                        padded = np.zeros((step, *tile), self.dtype)
                        padded[:, : region.height, : region.width] = block
                        yield padded[0] if step == 1 else padded.transpose(1, 2, 0)

    def _description(self, size: tuple[int, ...]) -> str:
        """Return the ImageDescription of a level of a size."""
        like = self._like
        if self._ome:
            frames, slices = (dict(like.pages.plane_axes).get(axis, 1) for axis in "TZ")
            from_slide = like.pages.kind == "svs"
            return ome_xml.document(
                None if from_slide else like.description,
                name=self.path.name,
                size=(self.height, self.width),
                plane_sizes=(frames, slices),
                dtype=self.dtype,
                channels=self.channels,
                channel_names=self.channel_names,
                samples=self._samples,
                keep_bits=self.dtype == self._source.stored_dtype,
                pixel_size=_aperio_number(like.description, "MPP") if from_slide else None,
                magnification=_aperio_number(like.description, "AppMag") if from_slide else None,
                comment=like.description if from_slide else "",
            )
        if like.pages.kind == "plain" and shaped_description(like.description) is None:
            return like.description.encode("ascii", "replace").decode()
        if like.pages.kind == "plain" and self.planes == 1:
            return ""
        sizes = dict(like.pages.plane_axes)
        if (pages := self.channels // self._samples) > 1:
            sizes["C"] = pages
        sizes |= {"Y": size[0], "X": size[1]}
        if self._samples > 1:
            sizes["S"] = self._samples
        axes = "".join(sizes)
        if like.planar:
            axes = axes.replace("YXS", "SYX")
        kept = dict(shaped_description(like.description) or {})
        for stale in ("shape", "axes", "truncated"):
            kept.pop(stale, None)
        return json.dumps({"shape": [sizes[axis] for axis in axes], "axes": axes} | kept)

    def _kept_tags(self) -> list[tuple[int, int, int, Any, bool]]:
        same = self.channels == self._source.channels
        kept = [(code, kind, count, value, True) for code, kind, count, value in self._like.tags]
        known = next((tag[3] for tag in kept if tag[0] == gdal_metadata.TAG), None)
        is_geo = any(tag[0] in _GEOREFERENCE for tag in kept)
        if known is None and not is_geo:
            return kept
        names = () if self.channel_names[:3] == ("R", "G", "B") else self.channel_names
        adapted = gdal_metadata.adapted(known, names, same)
        kept = [tag for tag in kept if tag[0] != gdal_metadata.TAG]
        return kept if adapted is None else [*kept, (gdal_metadata.TAG, _ASCII, 0, adapted, True)]

    def _write_imagej(self, file: Any, handle: Any, pixels: Staging) -> None:
        """Write a stack that ImageJ reads: uncompressed pages in one piece."""
        like = self._like
        sizes = dict(like.pages.plane_axes)
        samples = self._samples if self._samples in (3, 4) and self.dtype == np.uint8 else 1
        shape = (sizes.get("T", 1), sizes.get("Z", 1), self.channels // samples, self.height, self.width, samples)
        kept = {key: _number(value) for key, value in imagej_items(like.description).items()}
        for stale in ("ImageJ", "images", "channels", "slices", "frames", "hyperstack", "order", "mode"):
            kept.pop(stale, None)
        if self.dtype != self._source.stored_dtype:
            kept.pop("min", None)
            kept.pop("max", None)
        options: dict[str, Any] = {"resolution": like.resolution[:2]} if like.resolution is not None else {}
        with self._tifffile.TiffWriter(handle, imagej=True, byteorder="<") as tiff:
            offset, _ = tiff.write(
                shape=shape,
                dtype=self.dtype,
                photometric=_RGB if samples > 1 else _MINISBLACK,
                metadata=kept | {"axes": "TZCYXS"},
                extratags=self._kept_tags(),
                contiguous=True,
                returnoffset=True,
                **options,
            )
        file.flush()
        stored = (self.planes, self.channels // samples, self.height, self.width, samples)
        target = RawArray(file.fileno(), offset, stored, self.dtype.newbyteorder("<"))
        for plane in range(self.planes):
            for page in range(stored[1]):
                top = 0
                for band in pixels.bands(plane, slice(page * samples, (page + 1) * samples)):
                    target.write((plane, page, top, 0, 0), band.transpose(1, 2, 0)[None, None])
                    top += band.shape[1]


def _aperio_number(description: str, key: str) -> float | None:
    found = re.search(rf"\|\s*{key}\s*=\s*([0-9.]+)", description)
    return float(found[1]) if found else None


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text, text)
