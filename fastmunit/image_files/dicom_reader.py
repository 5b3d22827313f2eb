"""Reading of DICOM files and series by slice and region."""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np

from fastmunit.errors import DataError
from fastmunit.files import require_regular_file
from fastmunit.image_files.decoded_cache import DecodedCache
from fastmunit.image_files.dicom_frames import decode_frame
from fastmunit.image_files.dicom_slices import DicomFile, read_file, read_folder
from fastmunit.image_files.packages import needed
from fastmunit.image_files.raw_array import RawArray
from fastmunit.image_files.reader import ImageReader
from fastmunit.image_files.rescale import Rescale, limits
from fastmunit.region import Region

_MAX_FRAME_BYTES = 1 << 30


class DicomReader(ImageReader):
    """A DICOM file, or a folder with one series, whose slices are sorted by position.

    Values have the rescale slope and intercept applied. MONOCHROME1 is not inverted. Uncompressed pixels are read by
    region; compressed frames are decoded as a whole.
    """

    format = "DICOM"

    def _open(self) -> None:
        self.is_series = self.path.is_dir()
        if self.is_series:
            self.files = read_folder(self.path)
        else:
            file = read_file(self.path)
            assert file is not None  # only optional files are None
            self.files = [file]
        header = self.files[0].header
        self.height, self.width = int(header.Rows), int(header.Columns)
        self.channels = int(header.get("SamplesPerPixel", 1))
        self.frames = [(file, index) for file in self.files for index in range(len(file.rescales))]
        self.planes = len(self.frames)
        allocated, signed = int(header.BitsAllocated), int(header.get("PixelRepresentation", 0))
        self.stored_bits = int(header.get("BitsStored", allocated))
        self.stored_dtype = self.dtype = np.dtype(f"{'i' if signed else 'u'}{allocated // 8}")
        super()._check()
        self._set_values(header)
        if self.channels == 3:
            self.channel_names = ("R", "G", "B")
        self._cache = DecodedCache()
        self._check_sizes()

    def rescale(self, plane: int) -> Rescale:
        """Return the rescaling of a plane."""
        file, frame = self.frames[plane]
        return file.rescales[frame]

    def _set_values(self, header: Any) -> None:
        rescales = {self.rescale(plane) for plane in range(self.planes)}
        low, high = limits(self.stored_dtype, self.stored_bits)
        self.dtype = np.result_type(*(rescale.dtype(self.stored_dtype, low, high) for rescale in rescales))
        if self.stored_bits < self.stored_dtype.itemsize * 8:
            self.bits = self.stored_bits
        if self.channels > 1:
            return
        ends = [rescale.slope * end + rescale.intercept for rescale in rescales for end in (low, high)]
        self.value_range = min(ends), max(ends)
        padding = header.get("PixelPaddingValue")
        if isinstance(padding, int) and len(rescales) == 1:
            rescale = next(iter(rescales))
            self.nodata = rescale.slope * padding + rescale.intercept
        center, width = (header.get(name) for name in ("WindowCenter", "WindowWidth"))
        if center is not None and width is not None:
            center, width = (float(np.atleast_1d(np.asarray(value, float))[0]) for value in (center, width))
            if width > 0:
                self.window = center - width / 2, center + width / 2

    def _check_sizes(self) -> None:
        frame_bytes = self.height * self.width * self.channels * self.stored_dtype.itemsize
        for file in self.files:
            if self._is_raw(file):
                expected = frame_bytes * len(file.rescales)
                if file.length < expected:
                    raise DataError(f"{file.path.name}: expected {expected:,} bytes of pixels, got {file.length:,}.")
                self._raw(file, -1).require_inside(file.path.stat().st_size, file.path.name)
            elif frame_bytes > _MAX_FRAME_BYTES:
                raise DataError(f"{file.path.name}: its frames have {frame_bytes:,} bytes, more than can be decoded.")

    def _is_raw(self, file: DicomFile) -> bool:
        """Return True if pixels are stored as the values themselves."""
        kind = str(file.header.get("PhotometricInterpretation", ""))
        swapped = file.order == ">" and self.stored_dtype.itemsize == 1  # its bytes are swapped in pairs
        return file.offset is not None and kind in ("MONOCHROME1", "MONOCHROME2", "RGB") and not swapped

    def _raw(self, file: DicomFile, descriptor: int) -> RawArray:
        size = (self.height, self.width)
        planar = self.channels > 1 and file.header.get("PlanarConfiguration", 0) == 1
        shape = (len(file.rescales), *((self.channels, *size) if planar else (*size, self.channels)))
        return RawArray(descriptor, file.offset or 0, shape, self.stored_dtype.newbyteorder(file.order))

    def _read(self, region: Region, plane: int) -> np.ndarray:
        file, frame = self.frames[plane]
        if self._is_raw(file):
            stored = self._read_raw(file, frame, region)
        else:
            rows, columns = region.slices
            stored = self._decoded(file, frame, plane)[:, rows, columns]
        return file.rescales[frame].decode(stored, self.dtype)

    def _read_raw(self, file: DicomFile, frame: int, region: Region) -> np.ndarray:
        require_regular_file(file.path, "image", DataError)
        descriptor = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            raw = self._raw(file, descriptor)
            if raw.shape[1:3] == (self.height, self.width):
                size = (1, region.height, region.width, self.channels)
                block = raw.read((frame, region.top, region.left, 0), size)[0].transpose(2, 0, 1)
            else:
                size = (1, self.channels, region.height, region.width)
                block = raw.read((frame, 0, region.top, region.left), size)[0]
        finally:
            os.close(descriptor)
        unused = self.stored_dtype.itemsize * 8 - self.stored_bits
        # Bits above those of the value may hold an overlay. The shifts extend the sign, too.
        return (block << unused) >> unused if unused else block

    def _decoded(self, file: DicomFile, frame: int, plane: int) -> np.ndarray:
        """Decode a frame: (channels, height, width)."""
        if (found := self._cache.get((plane, 0))) is not None:
            return found
        pydicom = needed("pydicom", "dicom", "a DICOM file")
        require_regular_file(file.path, "image", DataError)
        self._require_decoder(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if file.header.file_meta.TransferSyntaxUID.is_compressed:
                array = decode_frame(file, frame, (self.height, self.width, self.channels))
            else:
                array = pydicom.pixels.pixel_array(file.path, index=frame)
        array = array[..., None] if self.channels == 1 else array
        if array.shape != (self.height, self.width, self.channels):
            raise DataError(f"{file.path.name}: its pixels decode to the shape {array.shape}: it is damaged.")
        decoded = np.ascontiguousarray(array.transpose(2, 0, 1)).astype(self.stored_dtype, copy=False)
        self._cache.put((plane, 0), decoded)
        return decoded

    def _require_decoder(self, file: DicomFile) -> None:
        pydicom = needed("pydicom", "dicom", "a DICOM file")
        syntax = file.header.file_meta.get("TransferSyntaxUID")
        try:
            available = pydicom.pixels.get_decoder(syntax).is_available
        except NotImplementedError:
            available = False
        if not available:
            raise DataError(
                f"{file.path.name}: its pixels are compressed as {getattr(syntax, 'name', syntax)}, which needs a "
                "decoder that is not installed: pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg."
            )
