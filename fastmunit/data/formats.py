"""The image formats that can be read, and their file extensions."""

from __future__ import annotations

from PIL import Image

# EPS needs Ghostscript, which runs the program in the file. Pillow identifies the others, but cannot decode them.
_NOT_DECODED = frozenset({"EPS", "BUFR", "GRIB", "HDF5", "MPEG", "WMF"})
# Formats that Pillow opens as another one: it opens a multi-picture file as JPEG first.
_OPENED_AS_OTHERS = frozenset({"MPO"})


def readable_formats() -> tuple[str, ...]:
    """Return the names of the formats that Pillow decodes, including plugins of the user, in the order of trial."""
    Image.init()
    return tuple(name for name in Image.ID if name not in _NOT_DECODED)


def readable_extensions() -> frozenset[str]:
    """Return the extensions of `readable_formats`, in lower case and with the dot."""
    formats = {*readable_formats(), *_OPENED_AS_OTHERS}
    return frozenset(extension for extension, name in Image.registered_extensions().items() if name in formats)
