"""NIfTI-1 and NIfTI-2 volumes, `.nii` and `.nii.gz`, read by slice and region."""

from __future__ import annotations

import gzip
import io
import logging
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np

from fastmunit.errors import DataError
from fastmunit.files import atomic_write, printable
from fastmunit.image_files.packages import needed
from fastmunit.image_files.raw_array import RawArray
from fastmunit.image_files.reader import ImageReader
from fastmunit.image_files.rescale import Rescale, limits
from fastmunit.image_files.staging import Staging
from fastmunit.image_files.tiff_pages import Pages
from fastmunit.image_files.writer import ImageWriter
from fastmunit.region import Region

_GZIP = b"\x1f\x8b"
_MAX_HEADER_BYTES = 1 << 26
_BLOCK = 1 << 20
_TIMES = ("sec", "msec", "usec")
# Type codes of pixels with interleaved bytes of color -> number of channels.
_COLORS = {128: 3, 2304: 4}


class NiftiReader(ImageReader):
    """A NIfTI file. Planes are the slices of the third dimension; rows are the second one and columns the first.

    The fourth dimension is time (planes) if the header has a time unit and a time step, otherwise channels; the fifth
    is channels. Slices are stored order, neither flipped nor rotated: the affine matrix says where they are.

    A compressed file cannot be read by region. The first `read` decompresses it into an unnamed temporary file of the
    size of the volume, with bounded memory; another process does it again.
    """

    format = "NIfTI"
    _decompressed: IO[bytes] | None = None

    def __init__(self, path: str | os.PathLike[str], pages: Pages = "auto") -> None:
        """Open a file.

        Args:
            path: The file.
            pages: Meaning of the fourth dimension. "auto" decides by the header.
        """
        self._rule = pages
        super().__init__(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self._rule)

    def _open(self) -> None:
        descriptor = self._open_descriptor()
        self.is_compressed = os.pread(descriptor, 2, 0) == _GZIP
        with self._uncompressed() as file:
            self.header = _read_header(file)
        header = self.header
        code = int(header["datatype"])
        self._colors = _COLORS.get(code, 1)
        self.stored_dtype = np.dtype(np.uint8) if code in _COLORS else header.get_data_dtype()
        shape = [int(size) for size in header.get_data_shape()]
        while len(shape) > 3 and shape[-1] == 1:
            shape.pop()
        if not 2 <= len(shape) <= 5 or (len(shape) == 5 and self._colors > 1) or min(shape) < 1:
            raise DataError(f"expected a volume of 2 to 5 dimensions, got the shape {tuple(shape)}.")
        self._set_shape(shape)
        slope, intercept = header.get_slope_inter()
        self.rescale = Rescale() if slope is None else Rescale(slope, intercept)
        native = self.stored_dtype.newbyteorder("=")
        self.dtype = native
        super()._check()
        if native.kind in "iu":
            self.dtype = self.rescale.dtype(native, *limits(native))
        else:
            self.dtype = self.rescale.dtype(native, 0, 0)
        if (low := float(header["cal_min"])) < (high := float(header["cal_max"])):
            self.window = low, high
        self._require_size(os.fstat(descriptor).st_size)

    def _set_shape(self, shape: list[int]) -> None:
        width, height, slices, fourth, fifth = [*shape, 1, 1, 1][:5]
        _, time = self.header.get_xyzt_units()
        is_time = self._rule == "planes" or len(shape) == 5
        if self._rule == "auto":
            is_time = is_time or (time in _TIMES and float(self.header["pixdim"][4]) > 0)
        self.width, self.height, self.slices = width, height, slices
        self.frames, channels = (fourth, fifth) if is_time else (1, fourth * fifth)
        self.planes = slices * self.frames
        if channels > 1 and self._colors > 1:
            raise DataError("expected either colors or a dimension of channels, got both: split the file.")
        self.channels = channels * self._colors
        if self._colors > 1:
            self.channel_names = ("R", "G", "B", "A")[: self._colors]

    @property
    def offset(self) -> int:
        """The position of the first value in the (decompressed) file."""
        return int(self.header["vox_offset"])

    def _file_shape(self) -> tuple[int, ...]:
        channels = self.channels // self._colors
        return (channels, self.frames, self.slices, self.height, self.width, self._colors)

    def _require_size(self, size: int) -> None:
        """Check that the file is large enough for the volume, as far as a compressed one tells."""
        end = self.offset + math.prod(self._file_shape()) * self.stored_dtype.itemsize
        expands = 1032 if self.is_compressed else 1  # Deflate shrinks data at most 1032 times.
        if self.offset < 0 or end > size * expands:
            raise DataError(
                f"expected at least {-(-end // expands):,} bytes for the shape {self.header.get_data_shape()}, got "
                f"{size:,}: it is truncated; copy it again."
            )

    @contextmanager
    def _uncompressed(self) -> Iterator[IO[bytes]]:
        """Yield the file, with the decompressed content of a compressed one."""
        if self._descriptor is None:
            raise DataError("the file is closed: open it again.")
        with os.fdopen(os.dup(self._descriptor), "rb") as raw:
            raw.seek(0)
            if self.is_compressed:
                with gzip.GzipFile(fileobj=raw) as file:
                    yield file  # type: ignore[misc]
            else:
                yield raw

    def close(self) -> None:
        """Close the file, and delete the decompressed volume."""
        super().close()
        if self._decompressed is not None:
            self._decompressed.close()
            self._decompressed = None

    def _values(self) -> RawArray:
        dtype = self.stored_dtype.newbyteorder(self.header.endianness)
        if not self.is_compressed:
            if self._descriptor is None:
                raise DataError("the file is closed: open it again.")
            return RawArray(self._descriptor, self.offset, self._file_shape(), dtype)
        if self._decompressed is None:
            self._decompressed = self._decompress()
        return RawArray(self._decompressed.fileno(), 0, self._file_shape(), dtype)

    def _decompress(self) -> IO[bytes]:
        target = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        try:
            with self._uncompressed() as file:
                file.seek(self.offset)
                missing = math.prod(self._file_shape()) * self.stored_dtype.itemsize
                while missing > 0:
                    block = file.read(min(_BLOCK, missing))
                    if not block:
                        raise DataError(f"the volume ends {missing:,} bytes early: it is truncated; copy it again.")
                    target.write(block)
                    missing -= len(block)
                file.read(_BLOCK)  # the checksum, which is verified at the end
            target.flush()
        except BaseException:
            target.close()
            raise
        return target

    def _read(self, region: Region, plane: int) -> np.ndarray:
        frame, depth = divmod(plane, self.slices)
        starts = (0, frame, depth, region.top, region.left, 0)
        channels = self.channels // self._colors
        block = self._values().read(starts, (channels, 1, 1, region.height, region.width, self._colors))
        block = block[:, 0, 0].transpose(0, 3, 1, 2).reshape(self.channels, region.height, region.width)
        return self.rescale.decode(block, self.dtype)


class NiftiWriter(ImageWriter):
    """A NIfTI file with the header of another one: affine matrices, spacing, units, extensions, and compression.

    If the other one stores rescaled integers, this one does, too, with the same slope and intercept if they fit.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        like: NiftiReader,
        channels: int,
        dtype: np.dtype,
        channel_names: tuple[str, ...],
    ) -> None:
        self._like = like
        rescaled = like.stored_dtype.kind in "iu" and like.rescale != (1.0, 0.0)
        self._stored = like.stored_dtype if rescaled else np.dtype(dtype)
        self._is_rescaled = rescaled
        self._colors = channels if channels in (3, 4) and like.channel_names and self._stored == np.uint8 else 1
        super().__init__(path, like, channels, dtype, channel_names)

    def _prepare(self) -> None:
        nibabel = needed("nibabel", "nifti", "a NIfTI file")
        try:
            self._header(Rescale())
        except nibabel.spatialimages.HeaderDataError as error:
            raise DataError(
                f"{printable(self.path)}: NIfTI cannot store {self._stored.name} in this shape: {error}."
            ) from error

    def _header(self, rescale: Rescale) -> Any:
        like = self._like
        header = like.header.copy()
        channels = self.channels // self._colors
        shape = [like.width, like.height, like.slices]
        if like.frames > 1:
            shape += [like.frames, channels]
        elif channels > 1:
            shape.append(channels)
            space, _ = header.get_xyzt_units()
            header.set_xyzt_units(space, "unknown")
        while len(shape) > len(like.header.get_data_shape()) and shape[-1] == 1:
            shape.pop()
        if self._colors > 1:
            header["datatype"], header["bitpix"] = {v: k for k, v in _COLORS.items()}[self._colors], 8 * self._colors
        else:
            header.set_data_dtype(self._stored)
        header.set_data_shape(shape)
        header["scl_slope"], header["scl_inter"] = rescale
        header["vox_offset"] = 0
        return header

    def _encode(self, pixels: Staging) -> None:
        rescale, low, high = self._like.rescale, 0, 0
        if self._is_rescaled:
            low, high = limits(self._stored)
            # The header stores float32.
            fitted = rescale.fitted(self.low, self.high, low, high)
            rescale = Rescale(float(np.float32(fitted.slope)), float(np.float32(fitted.intercept)))
        else:
            rescale = Rescale()
        header = self._header(rescale)
        dtype = self._stored.newbyteorder(header.endianness)
        with atomic_write(self.path) as file, _compressing(file, self._like.is_compressed) as target:
            head = io.BytesIO()
            header.write_to(head)
            target.write(head.getvalue().ljust(int(header["vox_offset"]), b"\0"))
            for first in range(0, self.channels, self._colors):
                for plane in range(self.planes):
                    for band in pixels.bands(plane, slice(first, first + self._colors)):
                        stored = rescale.encode(band, self._stored, low, high) if self._is_rescaled else band
                        target.write(np.ascontiguousarray(stored.transpose(1, 2, 0), dtype).data)


@contextmanager
def _compressing(file: IO[bytes], compressed: bool) -> Iterator[Any]:
    """Yield a file that compresses what it is given, or the file itself."""
    if not compressed:
        yield file
        return
    with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0) as target:
        yield target


def _read_header(file: IO[bytes]) -> Any:
    nibabel = needed("nibabel", "nifti", "a NIfTI file")
    start = file.read(540)
    sizes = {int.from_bytes(start[:4], order): order for order in ("little", "big")}
    kinds = {348: nibabel.nifti1.Nifti1Header, 540: nibabel.nifti2.Nifti2Header}
    found = [kind for size, kind in kinds.items() if size in sizes]
    if not found:
        raise DataError("expected a NIfTI file (.nii or .nii.gz, one file with header and data).")
    head = found[0](start[: found[0].template_dtype.itemsize], check=False)
    if head["magic"].item()[:2] not in (b"n+",):
        raise DataError("expected a NIfTI file with header and data in one; convert it to .nii.")
    offset = float(head["vox_offset"])
    if not 0 <= offset <= _MAX_HEADER_BYTES:
        raise DataError(f"its values begin at byte {offset:g}: it is damaged.")
    start += file.read(max(0, int(offset) - len(start)))
    logger = logging.getLogger("nibabel.global")
    previous, logger.disabled = logger.disabled, True  # it prints what it corrects
    try:
        return found[0].from_fileobj(io.BytesIO(start))
    finally:
        logger.disabled = previous
