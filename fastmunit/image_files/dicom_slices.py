"""The slices of a DICOM file or of a folder with a series, in the order of their position."""

from __future__ import annotations

import os
import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fastmunit.errors import DataError
from fastmunit.files import printable, require_regular_file
from fastmunit.image_files.packages import needed
from fastmunit.image_files.reader import naming
from fastmunit.image_files.rescale import Rescale

_MAX_FILES = 1 << 17
_DEFLATED = "1.2.840.10008.1.2.1.99"
_DIRECTORY = "1.2.840.10008.1.3.10"
_WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
_SAME = (
    "SeriesInstanceUID",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
    "PhotometricInterpretation",
    "PlanarConfiguration",
)
# Relative deviation of distances and directions that scanners round.
_TOLERANCE = 0.05
_GAP = 1.5


@dataclass
class DicomFile:
    """A DICOM file without its pixels.

    Attributes:
        path: The file.
        header: Its dataset.
        element: Position of the element with the pixels.
        offset: Position of the first pixel, or None if the pixels are compressed.
        length: Length of the pixels in bytes.
        order: Byte order of the pixels.
        rescales: Rescaling of each frame.
    """

    path: Path
    header: Any
    element: int
    offset: int | None
    length: int
    order: Literal["<", ">"]
    rescales: list[Rescale]


def is_dicom(path: Path) -> bool:
    """Return True if a path is a regular file that begins like DICOM files: 128 bytes, then "DICM"."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_folder(folder: Path) -> list[DicomFile]:
    """Read the headers of the series in a folder, sorted by position.

    Raises:
        DataError: If the folder has no series or several, slices differ in size or spacing, or slices are missing.
    """
    with os.scandir(folder) as entries:
        paths = sorted(Path(entry.path) for entry in entries if entry.is_file())
    if len(paths) > _MAX_FILES:
        raise DataError(f"expected at most {_MAX_FILES:,} files in a series, got {len(paths):,}.")
    files = [found for path in paths if is_dicom(path) if (found := read_file(path, optional=True)) is not None]
    if not files:
        raise DataError("expected a DICOM series, got a folder without DICOM images.")
    _require_same(files)
    if any(len(file.rescales) != 1 for file in files):
        raise DataError("expected one slice per file in a series: give the path of a file with several frames.")
    return _sorted(files)


def read_file(path: Path, optional: bool = False) -> DicomFile | None:
    """Read the header of a file.

    Args:
        path: The file.
        optional: Return None instead of raising an error for a DICOM file that is no image, such as a report.

    Raises:
        DataError: If the file is damaged or no image, or its pixels are stored in a way that is not read.
    """
    pydicom = needed("pydicom", "dicom", "a DICOM file")
    require_regular_file(path, "image", DataError)
    with naming(path), path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        meta = pydicom.filereader.read_file_meta_info(path)
        syntax = str(meta.get("TransferSyntaxUID", pydicom.uid.ExplicitVRLittleEndian))
        if syntax == _DEFLATED:
            raise DataError("it is deflated as a whole, so it is not read by region: write it without compression.")
        if meta.get("MediaStorageSOPClassUID") == _DIRECTORY and optional:
            return None
        header = pydicom.dcmread(file, stop_before_pixels=True)
        position = file.tell()
        file.seek(position)
        start = file.read(12)
        if header.get("Rows") is None or header.get("SOPClassUID") is None:
            if optional:
                return None
            raise DataError("it is a DICOM file without an image.")
        _require_supported(header)
        implicit, little = header.original_encoding
        offset, length, order = _pixel_position(start, position, implicit, little)
        if not pydicom.uid.UID(syntax).is_compressed and offset is None:
            raise DataError("its pixels are missing: it is truncated; copy it again.")
        frames = int(header.get("NumberOfFrames") or 1)
        if not 1 <= frames <= _MAX_FILES:
            raise DataError(f"expected 1 to {_MAX_FILES:,} frames, got {frames:,}.")
        if not hasattr(header, "file_meta"):
            header.file_meta = meta
        rescales = [_rescale(header, frame) for frame in range(frames)]
        return DicomFile(path, header, position, offset, length, order, rescales)


def _pixel_position(
    start: bytes, position: int, implicit: bool, little: bool
) -> tuple[int | None, int, Literal["<", ">"]]:
    """Return the position, length and byte order of pixels whose element begins with `start`; None if compressed."""
    order: Literal["<", ">"] = "<" if little else ">"
    if len(start) < 12 or struct.unpack(f"{order}HH", start[:4]) != (0x7FE0, 0x0010):
        raise DataError("its pixels are missing: it is truncated, or has pixels of another kind than integers.")
    head = 8 if implicit else 12
    (length,) = struct.unpack(f"{order}I", start[head - 4 : head])
    return (None if length == 0xFFFFFFFF else position + head), length, order


def _require_supported(header: Any) -> None:
    kind = str(header.get("PhotometricInterpretation", ""))
    bits = header.get("BitsAllocated")
    if bits not in (8, 16, 32) or not 1 <= int(header.get("BitsStored", bits)) <= bits:
        raise DataError(f"expected 8, 16 or 32 bits per value, got {bits}.")
    if int(header.get("HighBit", header.get("BitsStored", bits) - 1)) != header.get("BitsStored", bits) - 1:
        raise DataError("its values do not begin at the lowest bit: write it again with a current tool.")
    if kind == "PALETTE COLOR" or header.get("SamplesPerPixel", 1) not in (1, 3):
        raise DataError(f"expected gray or RGB values, got {kind or 'none'}: convert it.")
    if "ModalityLUTSequence" in header:
        raise DataError("its values are given by a table (Modality LUT): convert it to one with a rescale slope.")
    if header.get("SOPClassUID") == _WHOLE_SLIDE:
        raise DataError("it is a whole-slide image, whose frames are tiles: convert it to OME-TIFF.")


def _rescale(header: Any, frame: int) -> Rescale:
    """Return the rescaling of a gray frame, which enhanced multi-frame files have in functional groups."""
    if header.get("SamplesPerPixel", 1) > 1:
        return Rescale()
    groups = [header]
    for name, index in (("SharedFunctionalGroupsSequence", 0), ("PerFrameFunctionalGroupsSequence", frame)):
        sequence = header.get(name)
        if sequence is not None and index < len(sequence):
            transformation = sequence[index].get("PixelValueTransformationSequence")
            if transformation:
                groups.append(transformation[0])
    slope = next((group.RescaleSlope for group in reversed(groups) if group.get("RescaleSlope") is not None), 1)
    start = next((group.RescaleIntercept for group in reversed(groups) if group.get("RescaleIntercept") is not None), 0)
    rescale = Rescale(float(slope), float(start))
    if rescale.slope == 0 or not np.isfinite(rescale).all():
        raise DataError(f"expected a rescale slope other than 0, got slope {slope} and intercept {start}.")
    return rescale


def _require_same(files: Sequence[DicomFile]) -> None:
    first = files[0]
    for file in files[1:]:
        for name in _SAME:
            expected, got = first.header.get(name), file.header.get(name)
            if expected != got:
                raise DataError(
                    f"{printable(file.path.name)} has {name} {got}, and {printable(first.path.name)} has {expected}: "
                    "expected one series of slices of one kind. Put each series in a folder of its own."
                )
        for name in ("PixelSpacing", "ImageOrientationPatient"):
            expected, got = (list(each.header.get(name) or []) for each in (first, file))
            if len(expected) != len(got) or not np.allclose(
                np.asarray(expected, float), np.asarray(got, float), atol=1e-3
            ):
                raise DataError(
                    f"{printable(file.path.name)} has {name} {got or 'no values'}, and {printable(first.path.name)} "
                    f"has {expected or 'no values'}: expected the same in all slices. Put each series in a folder of "
                    "its own."
                )


def _sorted(files: list[DicomFile]) -> list[DicomFile]:
    """Sort slices by their position along the normal of the slices, otherwise by their number."""
    positions = [file.header.get("ImagePositionPatient") for file in files]
    if all(position is not None for position in positions):
        x, y = np.asarray(files[0].header.get("ImageOrientationPatient") or [1, 0, 0, 0, 1, 0], float).reshape(2, 3)
        keys = np.asarray(positions, float) @ np.cross(x, y)
        what, unit = "position", " mm"
    else:
        numbers = [file.header.get("InstanceNumber") for file in files]
        if any(number is None for number in numbers):
            raise DataError("expected slices with an ImagePositionPatient or an InstanceNumber, which some lack.")
        keys = np.asarray(numbers, float)
        what, unit = "number", ""
    if not np.isfinite(keys).all():
        raise DataError(f"expected finite {what}s of slices.")
    order = np.argsort(keys, kind="stable")
    _require_even([files[index].path.name for index in order], keys[order], what, unit)
    return [files[index] for index in order]


def _require_even(names: Sequence[str], keys: np.ndarray, what: str, unit: str) -> None:
    """Refuse slices at the same place, missing slices and mixed spacings."""
    if len(keys) < 2:
        return
    steps = np.diff(keys)
    typical = float(np.median(steps))
    index = int(np.argmin(steps))
    if steps[index] <= 1e-4:
        raise DataError(
            f"{printable(names[index])} and {printable(names[index + 1])} have the same {what}, {keys[index]:g}{unit}: "
            "put each time, echo or copy in a folder of its own."
        )
    index = int(np.argmax(np.abs(steps - typical)))
    if abs(steps[index] - typical) > _TOLERANCE * typical:
        problem = "slices are missing" if steps[index] > _GAP * typical else "the spacings are mixed"
        raise DataError(
            f"{problem}: {printable(names[index])} and {printable(names[index + 1])} are {steps[index]:g}{unit} apart, "
            f"others {typical:g}{unit}. Complete the series, or split it."
        )
