"""The image formats that can be read, and their file extensions."""

from __future__ import annotations

from PIL import Image

from fastmunit.image_files.open import suffixes

# EPS needs Ghostscript, which runs the program in the file. Pillow identifies the others, but cannot decode them.
_NOT_DECODED = frozenset({"EPS", "BUFR", "GRIB", "HDF5", "MPEG", "WMF"})
# Formats that Pillow opens as another one: it opens a multi-picture file as JPEG first.
_DOUBLE = frozenset({".ome.tif", ".ome.tiff"})
_OPENED_AS_OTHERS = frozenset({"MPO"})


def readable_formats() -> tuple[str, ...]:
    """Return the names of the formats that Pillow decodes, including plugins of the user, in the order of trial."""
    Image.init()
    return tuple(name for name in Image.ID if name not in _NOT_DECODED)


def readable_extensions() -> frozenset[str]:
    """Return the extensions of `readable_formats`, in lower case and with the dot."""
    formats = {*readable_formats(), *_OPENED_AS_OTHERS}
    return frozenset(extension for extension, name in Image.registered_extensions().items() if name in formats)


def without_extension(name: str) -> str:
    """Return the name of a file without its extension, or without both if it has two (".nii.gz", ".ome.tif")."""
    known = readable_extensions() | set(suffixes()) | _DOUBLE
    found = [extension for extension in known if name.lower().endswith(extension) and len(extension) < len(name)]
    return name.removesuffix(name[-max(map(len, found)) :]) if found else name
