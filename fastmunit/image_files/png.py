"""16-bit PNG files. Decoding needs all rows before a region, so it is done once, into a temporary file."""

from __future__ import annotations

import os
import struct
import tempfile
import zlib
from collections.abc import Iterator
from typing import IO, NamedTuple

import numpy as np

from fastmunit.errors import DataError
from fastmunit.files import atomic_write, printable
from fastmunit.image_files.packages import needed
from fastmunit.image_files.raw_array import RawArray
from fastmunit.image_files.reader import ImageReader
from fastmunit.image_files.staging import Staging, reserve
from fastmunit.image_files.writer import ImageWriter
from fastmunit.region import Region

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Color type -> number of channels.
_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}
_COLOR_TYPES = {channels: kind for kind, channels in _CHANNELS.items()}
# Chunks that describe the image as a whole and are true of one with other values.
_KEPT = frozenset({b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP", b"pHYs", b"tEXt", b"zTXt", b"iTXt", b"tIME", b"eXIf"})
_COLOR_CHUNKS = frozenset({b"iCCP"})
_MAX_KEPT_BYTES = 1 << 24
_UP = 2  # the filter that stores differences to the row above


class Header(NamedTuple):
    """The size of a PNG, its bits per sample, and its color type."""

    width: int
    height: int
    bits: int
    color: int


def read_header(start: bytes) -> Header | None:
    """Return the header in the first 29 bytes of a PNG, or None if they belong to another format."""
    if len(start) < 29 or not start.startswith(SIGNATURE) or start[12:16] != b"IHDR":
        return None
    return Header(*struct.unpack(">IIBB", start[16:26]))


class PngReader(ImageReader):
    """A PNG with 16 bits per sample.

    The first `read` decodes the file into an unnamed temporary file of the size of the pixels; regions are read from
    that one. While it decodes, the process holds the compressed bytes. Another process decodes it again.
    """

    format = "16-bit PNG"
    _decoded: IO[bytes] | None = None

    def _open(self) -> None:
        descriptor = self._open_descriptor()
        header = read_header(os.pread(descriptor, 29, 0))
        if header is None or header.bits != 16 or header.color not in _CHANNELS:
            raise DataError("expected a PNG with 16 bits per sample: other PNGs are read as ordinary images.")
        self.height, self.width, self.channels = header.height, header.width, _CHANNELS[header.color]
        self.stored_dtype = self.dtype = np.dtype(np.uint16)
        self.channel_names = {3: ("R", "G", "B"), 4: ("R", "G", "B", "A")}.get(self.channels, ())
        self.chunks = list(_kept_chunks(descriptor))
        for kind, data in self.chunks:
            if kind == b"sBIT" and len(set(data)) == 1 and 0 < data[0] < 16:
                self.bits = data[0]
        file_size = os.fstat(descriptor).st_size
        # Deflate shrinks data at most 1032 times.
        if self.height * self.width * self.channels * 2 > 1032 * file_size:
            raise DataError(
                f"it has {file_size:,} bytes, too few for {self.height} x {self.width} pixels: it is truncated or "
                "damaged; copy it again."
            )

    def close(self) -> None:
        """Close the file, and delete the decoded pixels."""
        super().close()
        if self._decoded is not None:
            self._decoded.close()
            self._decoded = None

    def _read(self, region: Region, plane: int) -> np.ndarray:
        if self._decoded is None:
            self._decoded = self._decode()
        shape = (self.height, self.width, self.channels)
        raw = RawArray(self._decoded.fileno(), 0, shape, self.dtype)
        block = raw.read((region.top, region.left, 0), (region.height, region.width, self.channels))
        return block.transpose(2, 0, 1)

    def _decode(self) -> IO[bytes]:
        imagecodecs = needed("imagecodecs", "png", "a 16-bit PNG")
        if self._descriptor is None:
            raise DataError("the file is closed: open it again.")
        shape = (self.height, self.width, self.channels)
        decoded = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        try:
            size = self.height * self.width * self.channels * 2
            reserve(decoded.fileno(), size)  # writing to a map of a full disk would end the process
            data = os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)
            _require_end(data)
            pixels: np.ndarray = np.memmap(decoded, np.uint16, "r+", shape=shape)
            imagecodecs.png_decode(data, out=pixels if self.channels > 1 else pixels[..., 0])
        except BaseException:
            decoded.close()
            raise
        return decoded


class PngWriter(ImageWriter):
    """A PNG with 16 bits per sample, written row by row, with the text and color chunks of another one."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        like: PngReader,
        channels: int,
        dtype: np.dtype,
        channel_names: tuple[str, ...],
    ) -> None:
        self._chunks = [
            (kind, data)
            for kind, data in like.chunks
            if kind in _KEPT and (channels == like.channels or kind not in _COLOR_CHUNKS)
        ]
        super().__init__(path, like, channels, dtype, channel_names)

    def _prepare(self) -> None:
        if self.channels not in _COLOR_TYPES or self.dtype != np.uint16:
            raise DataError(
                f"{printable(self.path)}: a 16-bit PNG has 1 to 4 channels of uint16, got {self.channels} of "
                f"{self.dtype.name}: write a TIFF instead."
            )

    def _encode(self, pixels: Staging) -> None:
        with atomic_write(self.path) as file:
            file.write(SIGNATURE)
            color = _COLOR_TYPES[self.channels]
            _write_chunk(file, b"IHDR", struct.pack(">IIBBBBB", self.width, self.height, 16, color, 0, 0, 0))
            for kind, data in self._chunks:
                _write_chunk(file, kind, data)
            compressor = zlib.compressobj(6)
            above = np.zeros(self.width * self.channels * 2, np.uint8)
            for band in pixels.bands(0):
                rows = band.transpose(1, 2, 0).astype(">u2").reshape(band.shape[1], -1).view(np.uint8)
                filtered = np.empty((len(rows), rows.shape[1] + 1), np.uint8)
                filtered[:, 0] = _UP
                filtered[0, 1:] = rows[0] - above
                filtered[1:, 1:] = rows[1:] - rows[:-1]
                above = rows[-1]
                if compressed := compressor.compress(filtered.data):
                    _write_chunk(file, b"IDAT", compressed)
            _write_chunk(file, b"IDAT", compressor.flush())
            _write_chunk(file, b"IEND", b"")


def _write_chunk(file: IO[bytes], kind: bytes, data: bytes) -> None:
    file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind))))


def _kept_chunks(descriptor: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the chunks before the pixels that are kept, and the number of significant bits."""
    position, total = len(SIGNATURE), 0
    while len(head := os.pread(descriptor, 8, position)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind in (b"IDAT", b"IEND"):
            return
        if kind in _KEPT or kind == b"sBIT":
            total += length
            data = os.pread(descriptor, length, position + 8) if total <= _MAX_KEPT_BYTES else b""
            if len(data) < length:
                raise DataError(f"its chunk {kind.decode()} is larger than expected or truncated: it is damaged.")
            yield kind, data
        position += length + 12


def _require_end(data: bytes) -> None:
    """Check the checksums of all chunks: decoders accept a damaged PNG, and fill up a truncated one."""
    view, position = memoryview(data), len(SIGNATURE)
    while position + 12 <= len(data):
        length, kind = struct.unpack(">I4s", view[position : position + 8])
        end = position + 8 + length
        if end + 4 > len(data):
            break
        if zlib.crc32(view[position + 4 : end]) != struct.unpack(">I", view[end : end + 4])[0]:
            raise DataError(f"its chunk {kind!r} has a wrong checksum: it is damaged; copy it again.")
        if kind == b"IEND":
            return
        position = end + 4
    raise DataError("it ends before its pixels do: it is truncated; copy it again.")
