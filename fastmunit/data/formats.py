"""The image formats that are read, and the file extensions by which images are found in folders."""

from __future__ import annotations

from PIL import Image

# EPS is decoded by Ghostscript, which runs the program that the file holds. Pillow identifies the others without
# decoding them.
_NOT_DECODED = frozenset({"EPS", "BUFR", "GRIB", "HDF5", "MPEG", "WMF"})
# Formats that open as another one: a multi-picture file is a JPEG file first.
_OPENED_AS_OTHERS = frozenset({"MPO"})


def readable_formats() -> tuple[str, ...]:
    """Return the names of the formats that Pillow decodes by itself, those of plugins registered by the user included.

    Returns:
        The names in the order in which Pillow tries them.
    """
    Image.init()
    return tuple(name for name in Image.ID if name not in _NOT_DECODED)


def readable_extensions() -> frozenset[str]:
    """Return the extensions of `readable_formats`: lower case, with the dot."""
    formats = {*readable_formats(), *_OPENED_AS_OTHERS}
    return frozenset(extension for extension, name in Image.registered_extensions().items() if name in formats)
