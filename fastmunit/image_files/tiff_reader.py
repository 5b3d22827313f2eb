"""Reading of TIFF, BigTIFF, OME-TIFF, GeoTIFF and SVS files by region, with tifffile's decoders."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastmunit.errors import DataError
from fastmunit.image_files import gdal_metadata
from fastmunit.image_files.decoded_cache import DecodedCache
from fastmunit.image_files.ome_xml import is_ome
from fastmunit.image_files.packages import needed
from fastmunit.image_files.raw_array import RawArray
from fastmunit.image_files.reader import ImageReader
from fastmunit.image_files.tiff_codecs import SizeCheck, require_checked
from fastmunit.image_files.tiff_levels import MASK, Place, found_levels, same_type
from fastmunit.image_files.tiff_pages import Pages, PageTable, imagej_items, page_table
from fastmunit.image_files.tiff_structure import Directory, TiffStructure
from fastmunit.region import Region

_MAX_SEGMENT_BYTES = 1 << 30
_REDUCED = 1  # a bit of NewSubfileType
_PALETTE = 3
_MIN_OFFSET = 8  # the size of the header
# Tags of a TIFF whose counts must agree with its size: offsets and byte counts of strips, then of tiles.
_SEGMENT_TAGS = (273, 279, 324, 325)
# Georeference and bands of GeoTIFF and GDAL, XMP, and who made the image with what.
_KEPT_TAGS = (33550, 33922, 34264, 34735, 34736, 34737, gdal_metadata.TAG, 42113, 700, 271, 272, 306, 315, 33432)


@dataclass
class TiffProfile:
    """The properties that a TIFF takes from the one that it is written like.

    Attributes:
        pages: Meaning of the pages.
        description: ImageDescription of the first page.
        samples: Number of samples per pixel of a page.
        big: True for BigTIFF.
        tile: Length and width of a tile, or None for strips.
        compression: TIFF's number of the compression.
        planar: True if the samples of a page are stored one after another.
        photometric: TIFF's number of the photometric interpretation.
        extra_samples: Meaning of the samples after those of the color.
        resolution: Pixels per unit in x and y, and TIFF's number of the unit, or None.
        icc: ICC profile, or None.
        tags: Other tags to keep: code, type, count, value.
    """

    pages: PageTable
    description: str
    samples: int
    big: bool
    tile: tuple[int, int] | None
    compression: int
    planar: bool
    photometric: int
    extra_samples: tuple[int, ...]
    resolution: tuple[tuple[int, int], tuple[int, int], int] | None
    icc: bytes | None
    tags: list[tuple[int, int, int, Any]] = field(default_factory=list)


class TiffReader(ImageReader):
    """A TIFF file. Pages are channels or planes as `tiff_pages.page_table` says.

    Values are those of the file, except that JPEG's YCbCr becomes RGB. Strips and tiles are decoded when a region
    needs them, and the latest 64 MiB of them are kept.
    """

    format = "TIFF"

    def __init__(self, path: str | os.PathLike[str], pages: Pages = "auto") -> None:
        """Open a file.

        Args:
            path: The file.
            pages: Meaning of pages that the file does not describe.
        """
        self._rule = pages
        super().__init__(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self._rule)

    def _open(self) -> None:
        descriptor = self._open_descriptor()
        self._structure = structure = TiffStructure(descriptor)
        first = structure.pages[0]
        with self._tifffile() as file:
            page = file.pages.first
            self._check_page(page)
            self.height, self.width, samples = page.imagelength, page.imagewidth, page.samplesperpixel
            self.stored_dtype = self.dtype = np.dtype(page.dtype)
            description = structure.text(first.tags, 270)
            same = [index for index, other in enumerate(structure.pages) if self._is_same(other, first)]
            if is_ome(description):  # its pages are numbered together with those of its other images
                table = page_table(description, len(structure.pages), samples, self._rule)
                used = {int(number) for number in table.table.flat}
                self._require_same(sorted(used - set(same)))
                same = list(range(len(structure.pages)))
            else:
                table = page_table(description, len(same), samples, self._rule)
                if table.kind != "svs":
                    self._require_same(self._unrelated(same))
            self._pages = table
            self.planes, per_plane = table.table.shape
            self.channels = per_plane * samples
            self._open_pages(file, page, same)
            self._find_levels(same)
            self._describe(page, table, description)
            self.profile = self._profile(page, table, description)
        self._cache = DecodedCache()

    def _tifffile(self) -> Any:
        """Open the file with tifffile. Its own file position is needed, as forked processes would share another one."""
        tifffile = needed("tifffile", "tiff", "a TIFF file")
        file = tifffile.TiffFile(self.path, _multifile=False, is_lsm=False, is_ndpi=False, is_scanimage=False)
        if not os.path.samestat(os.fstat(file.filehandle.fileno()), os.fstat(self._require_descriptor())):
            file.close()
            raise DataError("the file has been replaced: open it again.")
        return file

    def _check_page(self, page: Any) -> None:
        if page.photometric == _PALETTE:
            raise DataError("it is a palette image: convert it to RGB.")
        if page.dtype is None or page.imagedepth != 1:
            raise DataError(
                f"expected pages of integers or floats of 8 to 64 bits, got {page.bitspersample} bits in sample format "
                f"{page.sampleformat} and depth {page.imagedepth}: convert it."
            )
        self.stored_dtype = np.dtype(page.dtype)
        super()._check()  # before arrays of this type are planned

    def _is_same(self, page: Directory, first: Directory) -> bool:
        """Return True if a page has the size and type of the first one, and is no reduced copy."""
        integer = self._structure.integer
        sizes_differ = any(integer(page.tags, code, 0) != integer(first.tags, code, 0) for code in (256, 257))
        if sizes_differ or not same_type(self._structure, page.tags, first.tags):
            return False
        return page is first or not integer(page.tags, 254, 0) & _REDUCED

    def _unrelated(self, same: list[int]) -> list[int]:
        """Return the pages that are neither part of the image, nor smaller copies or a mask of it."""
        structure, found = self._structure, []
        for index in sorted(set(range(len(structure.pages))) - set(same)):
            tags = structure.pages[index].tags
            smaller = all(
                structure.integer(tags, code, 0) < size for code, size in ((257, self.height), (256, self.width))
            )
            if not (structure.integer(tags, 254, 0) & (_REDUCED | MASK) or (smaller and 322 in tags)):
                found.append(index)
        return found

    def _require_same(self, pages: list[int]) -> None:
        """Raise DataError if there is a page among those that do not fit the first one."""
        for index in pages[:1]:
            raise DataError(
                f"page {index + 1} has {self._size_text(index)}, and page 1 has {self._size_text(0)}: mixed pages "
                "cannot be channels or planes of one image. Split the file."
            )

    def _size_text(self, index: int) -> str:
        tags = self._structure.pages[index].tags
        height, width, bits = (self._structure.integer(tags, code, 1) for code in (257, 256, 258))
        return f"{height} x {width} pixels of {bits} bits"

    def _open_pages(self, file: Any, first: Any, same: list[int]) -> None:
        """Find how to read each page of the table."""
        numbers = self._pages.table.reshape(-1)
        needed_pages = int(numbers.max()) + 1
        self._sources: dict[tuple[int, int], RawArray | _Segments] = {}
        is_virtual = len(same) == 1 and needed_pages > 1
        if is_virtual:
            # ImageJ and tifffile write one directory for a stack whose pages follow each other.
            stack = self._raw(first, needed_pages)
            if stack is None:
                raise DataError(f"its description has {needed_pages} pages, and the file has 1: it is truncated.")
            self._stack: RawArray | None = stack
            return
        self._stack = None
        if needed_pages > len(same):
            raise DataError(f"its description has {needed_pages} pages, and the file has {len(same)}: it is truncated.")
        for number in numbers.tolist():
            self._sources[0, number] = self._source(file.pages[same[number]], Place(same[number], None))

    def _source(self, page: Any, place: Place) -> RawArray | _Segments:
        self._segment_grid(page, place)
        return self._raw(page, 1) or self._segments(page, place)

    def _find_levels(self, same: list[int]) -> None:
        used = {} if self._stack is not None else {number: same[number] for _, number in self._sources}
        smaller = found_levels(self._structure, used, set(same), only_tiled=self._pages.kind == "svs")
        self._smaller = [places for _, places in smaller]
        self.levels = ((self.height, self.width), *(size for size, _ in smaller))

    def _raw(self, page: Any, count: int) -> RawArray | None:
        """Return the values of contiguous uncompressed pages, or None if they are not that."""
        plain = page.is_contiguous and page.predictor == 1 and page.fillorder == 1 and not page.is_subsampled
        if not plain or not page.dataoffsets[0]:
            return None
        separate, _, height, width, contiguous = page.shaped
        order = page.parent.byteorder
        shape = (count, separate, height, width, contiguous)
        raw = RawArray(self._require_descriptor(), page.dataoffsets[0], shape, np.dtype(page.dtype).newbyteorder(order))
        raw.require_inside(os.fstat(self._require_descriptor()).st_size, "the file")
        if count == 1 and 0 < sum(page.databytecounts) < raw.nbytes:
            raise DataError(
                f"expected {raw.nbytes:,} bytes in its strips, got {sum(page.databytecounts):,}: it is damaged."
            )
        return raw

    def _segment_grid(self, page: Any, place: Place) -> tuple[int, int, int, int]:
        """Return the length and width of a strip or tile, and the numbers of rows and columns of them, if they fit."""
        length, width = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
        kind = "tiles" if page.is_tiled else "strips"
        if length < 1 or width < 1:
            raise DataError(f"{place} has {kind} of {length} x {width} pixels: it is damaged.")
        rows, columns = math.ceil(page.imagelength / length), math.ceil(page.imagewidth / width)
        expected = rows * columns * page.shaped[0]
        tags = place.tags(self._structure)
        counts = {tags[code].number for code in _SEGMENT_TAGS if code in tags}
        if counts != {expected}:
            raise DataError(
                f"{place}: expected {expected} {kind}, got {' and '.join(map(str, sorted(counts)))}: the file "
                "is damaged."
            )
        return length, width, rows, columns

    def _segments(self, page: Any, place: Place) -> _Segments:
        """Return the strips or tiles of a page, after a check of their size."""
        length, width, rows, columns = self._segment_grid(page, place)
        kind = "tiles" if page.is_tiled else "strips"
        size = length * width * page.shaped[4] * page.dtype.itemsize
        if size > _MAX_SEGMENT_BYTES:
            raise DataError(
                f"{place} has {kind} of {size:,} bytes, more than {_MAX_SEGMENT_BYTES:,}: rewrite it in "
                "tiles, for example with tifffile or libvips."
            )
        self._require_codec(page)
        fill = 0 if page.nodata is None else page.nodata
        page.init_decode() if hasattr(page, "init_decode") else page.decode
        return _Segments(
            place=place,
            shape=(length, width),
            grid=(rows, columns),
            offsets=np.asarray(page.dataoffsets),
            counts=np.asarray(page.databytecounts),
            decode=page.decode,
            check=SizeCheck(
                int(page.compression), (length, width), page.shaped[4], kind, page.jpegtables, page.jpegheader
            ),
            jpeg={"jpegtables": page.jpegtables, "jpegheader": page.jpegheader},
            separate=page.shaped[0],
            contiguous=page.shaped[4],
            fill=fill,
        )

    def _require_codec(self, page: Any) -> None:
        tifffile = needed("tifffile", "tiff", "a TIFF file")
        try:
            name = tifffile.COMPRESSION(page.compression).name
        except ValueError:
            raise DataError(
                f"its compression {page.compression} is unknown: rewrite it, for example with LZW."
            ) from None
        require_checked(int(page.compression), name)
        try:
            tifffile.TIFF.DECOMPRESSORS[page.compression]
            if page.predictor != 1:
                tifffile.TIFF.UNPREDICTORS[page.predictor]
        except (KeyError, ImportError) as error:  # ImportError: without imagecodecs, a module of a later Python is used
            raise DataError(
                f'its compression {name} needs a decoder of the package imagecodecs: pip install "fastmunit[tiff]". '
                f"tifffile says: {error.args[0]}"
            ) from error

    def _describe(self, page: Any, table: PageTable, description: str) -> None:
        """Set what the file says about its values."""
        self.channel_names = table.channel_names
        self.bits = table.bits if table.bits else self._significant_bits(page)
        nodata = self._structure.text(self._structure.pages[0].tags, 42113).strip(" \0")
        if nodata:
            try:
                self.nodata = float(nodata.replace(",", "."))
            except ValueError:
                raise DataError(f"its GDAL_NODATA is {nodata!r}, which is not a number: correct the tag.") from None
        if table.kind == "imagej":
            items = imagej_items(description)
            if "min" in items and "max" in items:
                self.window = float(items["min"]), float(items["max"])
        if not self.channel_names and (names := gdal_metadata.band_names(page.tags.valueof(gdal_metadata.TAG))):
            self.channel_names = names
        if not self.channel_names and page.photometric in (2, 6) and self.channels in (3, 4):
            self.channel_names = ("R", "G", "B", "A")[: self.channels]

    def _significant_bits(self, page: Any) -> int | None:
        bits = page.bitspersample
        if isinstance(bits, int) and bits < page.dtype.itemsize * 8:
            return bits
        highest = page.tags.valueof(281)  # MaxSampleValue
        highest = highest[0] if isinstance(highest, tuple) and highest else highest
        if page.dtype.kind == "u" and isinstance(highest, int) and highest > 0 and highest & (highest + 1) == 0:
            found = highest.bit_length()
            return found if found < page.dtype.itemsize * 8 else None
        return None

    def _profile(self, page: Any, table: PageTable, description: str) -> TiffProfile:
        tags = [
            (code, int(tag.dtype), int(tag.count), tag.value)
            for code in _KEPT_TAGS
            if (tag := page.tags.get(code)) is not None and code in self._structure.pages[0].tags
        ]
        x, y = page.tags.valueof(282), page.tags.valueof(283)
        has_resolution = isinstance(x, tuple) and isinstance(y, tuple) and min(*x, *y) > 0
        return TiffProfile(
            pages=table,
            description=description,
            samples=page.samplesperpixel,
            big=self._structure.big,
            tile=(page.tilelength, page.tilewidth) if page.is_tiled else None,
            compression=int(page.compression),
            planar=page.planarconfig == 2,
            photometric=int(page.photometric),
            extra_samples=tuple(int(extra) for extra in page.extrasamples),
            resolution=(x, y, int(page.tags.valueof(296, 1))) if has_resolution else None,
            icc=page.iccprofile,
            tags=tags,
        )

    @property
    def pages_per_plane(self) -> int:
        """The number of pages that hold the channels of a plane."""
        return int(self._pages.table.shape[1])

    def _read(self, region: Region, plane: int) -> np.ndarray:
        parts = [self._read_page(int(number), region) for number in self._pages.table[plane]]
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def _read_level(self, region: Region, plane: int, level: int) -> np.ndarray:
        if (level, int(self._pages.table[plane, 0])) not in self._sources:
            self._open_level(level)
        return np.concatenate([self._read_page(int(number), region, level) for number in self._pages.table[plane]])

    def _open_level(self, level: int) -> None:
        """Find how to read the pages of a level, which few readers need."""
        opened = {}
        with self._tifffile() as file:
            for number, place in self._smaller[level - 1].items():
                page = file.pages[place.page]
                if place.level is not None:
                    page = page.pages[place.level]
                if (page.imagelength, page.imagewidth) != self.levels[level] or page.dtype != self.stored_dtype:
                    raise DataError(f"{place} has another size or type than its tags say: it is damaged.")
                opened[level, number] = self._source(page, place)
        self._sources.update(opened)  # at once, as other threads may read

    def _read_page(self, number: int, region: Region, level: int = 0) -> np.ndarray:
        """Read a region of a page: (samples, height, width)."""
        source = self._stack if self._stack is not None else self._sources[level, number]
        if isinstance(source, RawArray):
            _, separate, _, _, contiguous = source.shape
            starts = (number if self._stack is not None else 0, 0, region.top, region.left, 0)
            block = source.read(starts, (1, separate, region.height, region.width, contiguous))
            return block[0].transpose(0, 3, 1, 2).reshape(separate * contiguous, region.height, region.width)
        return self._read_segments(source, region)

    def _read_segments(self, source: _Segments, region: Region) -> np.ndarray:
        length, width = source.shape
        rows, columns = source.grid
        result = np.empty((source.separate, source.contiguous, region.height, region.width), self.dtype)
        for sample in range(source.separate):
            for row in range(region.top // length, (region.bottom - 1) // length + 1):
                for column in range(region.left // width, (region.right - 1) // width + 1):
                    segment = self._segment(source, (sample * rows + row) * columns + column)
                    top, left = row * length, column * width
                    first = max(region.top, top), max(region.left, left)
                    last = min(region.bottom, top + length), min(region.right, left + width)
                    target = result[
                        sample,
                        :,
                        first[0] - region.top : last[0] - region.top,
                        first[1] - region.left : last[1] - region.left,
                    ]
                    if segment is None:
                        target[...] = source.fill
                    else:
                        inside = segment[first[0] - top : last[0] - top, first[1] - left : last[1] - left]
                        target[...] = inside.transpose(2, 0, 1)
        return result.reshape(-1, region.height, region.width)

    def _segment(self, source: _Segments, index: int) -> np.ndarray | None:
        """Decode a strip or tile (length, width, samples), or return None if it is not stored (a sparse file)."""
        count, offset = int(source.counts[index]), int(source.offsets[index])
        if count == 0:
            return None
        key = (*source.place.key, index)
        if (cached := self._cache.get(key)) is not None:
            return cached
        if offset < _MIN_OFFSET:
            raise DataError(f"{source.place} has pixels at byte {offset}, inside of the header: it is damaged.")
        data = os.pread(self._require_descriptor(), count, offset)
        if len(data) < count:
            raise DataError(
                f"{source.place} is truncated: expected {count:,} bytes at byte {offset:,}, got "
                f"{len(data):,}. Copy the file again."
            )
        source.check(data)
        decoded, _, _ = source.decode(data, index, **source.jpeg)
        segment = decoded[0].astype(self.dtype, copy=False)
        self._cache.put(key, segment)
        return segment

    def _require_descriptor(self) -> int:
        if self._descriptor is None:
            raise DataError("the file is closed: open it again.")
        return self._descriptor


@dataclass
class _Segments:
    """The strips or tiles of a page: size of one, numbers of rows and columns, positions, their check and decoder."""

    place: Place
    shape: tuple[int, int]
    grid: tuple[int, int]
    offsets: np.ndarray
    counts: np.ndarray
    check: SizeCheck
    decode: Callable[..., Any]
    jpeg: dict[str, bytes | None]
    separate: int
    contiguous: int
    fill: float
