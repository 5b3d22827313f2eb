"""Decoding of compressed frames of a DICOM file, whose own sizes are checked before that."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from fastmunit.errors import DataError
from fastmunit.files import printable, require_regular_file
from fastmunit.image_files.dicom_slices import DicomFile
from fastmunit.image_files.encoded_size import jpeg2000_size, jpeg_size
from fastmunit.image_files.packages import needed

_MAX_SAMPLES = 4
_RLE_SEGMENTS = 15
_RLE_HEADER_BYTES = 64
_RLE_PADDING = 1 << 16  # bytes that writers may add to a segment
_ELEMENT_BYTES = 12  # before the fragments of frames


def decode_frame(file: DicomFile, index: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Decode a compressed frame as pydicom does.

    Args:
        file: The file, for whose transfer syntax there is a decoder.
        index: Number of the frame.
        shape: Height, width and number of samples of a frame.

    Raises:
        DataError: If the frame would be larger than the file declares.
    """
    pydicom = needed("pydicom", "dicom", "a DICOM file")
    options = pydicom.pixels.as_pixel_options(file.header)
    offsets = options.pop("extended_offsets", None)
    require_regular_file(file.path, "image", DataError)
    with file.path.open("rb") as content:
        content.seek(file.element + _ELEMENT_BYTES)
        frame = pydicom.encaps.get_frame(content, index, extended_offsets=offsets, number_of_frames=len(file.rescales))
    syntax = file.header.file_meta.TransferSyntaxUID
    _check(frame, pydicom.uid, syntax, shape, file)
    options |= {"number_of_frames": 1, "pixel_keyword": "PixelData", "pixel_vr": "OB"}
    # The bytes that were checked are decoded. Nothing is looked up in the file again.
    fragments = pydicom.encaps.encapsulate([frame])
    decoded: np.ndarray = pydicom.pixels.get_decoder(syntax).as_array(fragments, index=0, **options)[0]
    return decoded


def _check(frame: bytes, uid: Any, syntax: Any, shape: tuple[int, int, int], file: DicomFile) -> None:
    """Raise DataError if a frame has more pixels or samples than `shape`."""
    height, width, samples = shape
    if syntax in uid.RLETransferSyntaxes:
        _check_rle(frame, height * width, file)
        return
    if syntax in (*uid.JPEGTransferSyntaxes, *uid.JPEGLSTransferSyntaxes):
        size = jpeg_size(frame)
    elif syntax in uid.JPEG2000TransferSyntaxes:
        size = jpeg2000_size(frame)
    else:
        raise DataError(f"{printable(file.path.name)}: its compression {syntax.name} is not read: convert it.")
    if size.height > height or size.width > width or size.samples > max(samples, _MAX_SAMPLES):
        raise DataError(
            f"{printable(file.path.name)}: a frame decodes to {size.height:,} x {size.width:,} pixels of "
            f"{size.samples:,} samples, where the file declares {height:,} x {width:,} of {samples:,}: it is damaged."
        )


def _check_rle(frame: bytes, pixels: int, file: DicomFile) -> None:
    """Raise DataError if a segment, which has a byte of each pixel, decodes to a lot more than the pixels."""
    if len(frame) < _RLE_HEADER_BYTES:
        raise DataError(f"{printable(file.path.name)}: a frame has no RLE header: it is damaged.")
    count, *offsets = struct.unpack(f"<{1 + _RLE_SEGMENTS}I", frame[:_RLE_HEADER_BYTES])
    ends = [*offsets[1:count], len(frame)]
    for start, end in zip(offsets[:count], ends, strict=False):
        if not _unpacks_to(frame[start:end], pixels + _RLE_PADDING):
            raise DataError(
                f"{printable(file.path.name)}: a frame decodes to more than the {pixels:,} pixels that the file "
                "declares: it is damaged."
            )


def _unpacks_to(data: bytes, limit: int) -> bool:
    """Return True if data in PackBits have at most `limit` bytes after decoding."""
    size = position = 0
    while position < len(data) and size <= limit:
        head = data[position]
        if head < 128:  # so many bytes follow
            size, position = size + head + 1, position + head + 2
        elif head > 128:  # the next byte is repeated
            size, position = size + 257 - head, position + 2
        else:
            position += 1
    return size <= limit
