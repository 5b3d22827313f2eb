"""The formats: which file has which, and opening and writing of each."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastmunit.errors import DataError
from fastmunit.files import printable, require_regular_file
from fastmunit.image_files import png
from fastmunit.image_files.dicom_reader import DicomReader
from fastmunit.image_files.dicom_slices import is_dicom
from fastmunit.image_files.dicom_writer import DicomWriter
from fastmunit.image_files.nifti import NiftiReader, NiftiWriter
from fastmunit.image_files.npy import NpyReader, NpyWriter
from fastmunit.image_files.png import PngReader, PngWriter
from fastmunit.image_files.reader import ImageReader, names_for
from fastmunit.image_files.tiff_pages import Pages
from fastmunit.image_files.tiff_reader import TiffReader
from fastmunit.image_files.tiff_structure import is_ordinary
from fastmunit.image_files.tiff_writer import TiffWriter
from fastmunit.image_files.writer import ImageWriter
from fastmunit.image_files.zarr_reader import ZarrReader
from fastmunit.image_files.zarr_store import METADATA_NAMES
from fastmunit.image_files.zarr_writer import ZarrWriter

_NPY_MAGIC = b"\x93NUMPY"
_TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ZIPPED = (".zarr", ".zarr.zip", ".ozx")
# A folder is a DICOM series if one of this many of its entries is a DICOM file.
_MAX_LOOKED_AT = 64
_SUFFIXES = (".tif", ".tiff", ".btf", ".tf8", ".svs", ".npy", ".png", ".nii", ".nii.gz", ".dcm", ".zarr")
_WRITERS: dict[type[ImageReader], Any] = {
    TiffReader: TiffWriter,
    NpyReader: NpyWriter,
    PngReader: PngWriter,
    ZarrReader: ZarrWriter,
    NiftiReader: NiftiWriter,
    DicomReader: DicomWriter,
}


def suffixes() -> tuple[str, ...]:
    """Return the suffixes of the formats, in lower case and with the dot.

    Of PNGs, those with 16 bits per sample belong to them; see `is_image_file`.
    """
    return _SUFFIXES


def is_image_file(path: str | os.PathLike[str]) -> bool:
    """Return True if a path has one of the formats, by its suffix and its content.

    TIFFs that `is_ordinary` describes are left to Pillow, and so are PNGs with fewer than 16 bits. `open_image` opens
    such TIFFs, too. A path that cannot be read has no format.
    """
    kind = _kind(Path(path))
    return kind is not None and not (kind is TiffReader and is_ordinary(Path(path)))


def open_image(path: str | os.PathLike[str], pages: Pages = "auto") -> ImageReader:
    """Open an image file, to read it by region.

    Args:
        path: The file, or the folder of a Zarr image or a DICOM series.
        pages: Meaning of the pages of a TIFF that does not describe them (see `tiff_pages.page_table`), and of the
            fourth dimension of a NIfTI file.

    Raises:
        DataError: If the format is unknown, its package is not installed, or the file is damaged.
    """
    source = Path(path)
    kind = _kind(source)
    if kind is None:
        require_regular_file(source, "image", DataError)
        if source.name.lower().endswith(_ZIPPED):
            raise DataError(
                f"{printable(source)} is a Zarr image in one file, which is not read: unzip it to a folder."
            )
        raise DataError(f"{printable(source)} has no known format: expected one of {', '.join(_SUFFIXES)}.")
    return kind(source, pages) if issubclass(kind, TiffReader | NiftiReader) else kind(source)


def writer_like(
    reader: ImageReader,
    path: str | os.PathLike[str],
    channels: int,
    dtype: DTypeLike,
    channel_names: Sequence[str] | None = None,
) -> ImageWriter:
    """Create an image file with the format, size, planes and metadata of another one.

    Args:
        reader: The other image, which stays open until the writer has finished.
        path: File to write, or folder for formats that are folders. It should have the suffix `output_suffix(reader)`.
        channels: Number of channels.
        dtype: Type of the values to write.
        channel_names: Names of the channels. None keeps those of the other image if it has as many channels.

    Raises:
        DataError: If the format cannot store the channels or the type, or the path is a folder that is not empty.
        FastmunitError: If the file cannot be written.
    """
    names = names_for(channels, channel_names, reader)
    writer: ImageWriter = _WRITERS[type(reader)](path, reader, channels, np.dtype(dtype), names)
    return writer


def output_suffix(reader: ImageReader) -> str:
    """Return the suffix of files that are written like `reader`: its own, or ".ome.tif" for a slide (.svs)."""
    name = reader.path.name.lower()
    if isinstance(reader, TiffReader) and reader.profile.pages.kind == "svs":
        return ".ome.tif"
    known = [suffix for suffix in (".ome.tiff", ".ome.tif", ".ome.zarr", *_SUFFIXES) if name.endswith(suffix)]
    return known[0] if known else ""


def _kind(path: Path) -> type[ImageReader] | None:
    """Return the reader of a path, or None if there is none."""
    try:
        if path.is_dir():
            return _kind_of_folder(path)
        if not path.name.lower().endswith(_SUFFIXES) or not path.is_file():
            return None
        with path.open("rb") as file:
            start = file.read(29)
    except (OSError, ValueError):  # also a name that is too long, or has a null byte
        return None
    if is_dicom(path):  # first, because the 128 bytes before its mark may be the header of a TIFF
        return DicomReader
    if start.startswith(_TIFF_MAGICS):
        return TiffReader
    if start.startswith(_NPY_MAGIC):
        return NpyReader
    if path.name.lower().endswith((".nii", ".nii.gz")):
        return NiftiReader
    header = png.read_header(start)
    return PngReader if header is not None and header.bits == 16 else None


def _kind_of_folder(path: Path) -> type[ImageReader] | None:
    if any((path / name).is_file() for name in METADATA_NAMES):
        return ZarrReader
    try:
        with os.scandir(path) as entries:
            first = [Path(entry.path) for entry in itertools.islice(entries, _MAX_LOOKED_AT)]
    except OSError:
        return None
    return DicomReader if any(is_dicom(entry) for entry in sorted(first)) else None
