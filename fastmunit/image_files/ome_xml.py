"""The XML of OME-TIFF files: which page has which plane and channel, and the same document for another image."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from fastmunit.errors import DataError

_NAMESPACE = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
_MAX_PAGES = 1 << 16
_TYPES = {"float32": "float", "float64": "double"}
_STORED_TYPES = frozenset({"int8", "int16", "int32", "uint8", "uint16", "uint32", "float", "double"})


class OmeImage(NamedTuple):
    """The first image of an OME-XML document.

    Attributes:
        table: Index of the page of each plane and channel, shape (frames, slices, pages per plane).
        channel_names: The names of the channels, or empty if one has none.
        bits: Number of significant bits, or None.
    """

    table: np.ndarray
    channel_names: tuple[str, ...]
    bits: int | None


def is_ome(description: str) -> bool:
    """Return True if the description of a TIFF is an OME-XML document."""
    return description.rstrip()[-4:] == "OME>"


def parse(description: str, pages: int, samples: int) -> OmeImage:
    """Find the pages of the first image of a document.

    Args:
        description: The document.
        pages: Number of pages in the file.
        samples: Number of samples per pixel of a page.

    Raises:
        DataError: If the document is damaged, its image has planes in other files, or planes are missing.
    """
    pixels = _pixels(_root(description))
    sizes = {axis: _integer(pixels, f"Size{axis}", None) for axis in "CZT"}
    channels = [child for child in pixels if _name(child) == "Channel"]
    per_page = _integer(channels[0], "SamplesPerPixel", samples) if channels else samples
    if per_page != samples or sizes["C"] % samples:
        raise DataError(
            f"its OME-XML describes {sizes['C']} channels with {per_page} samples per pixel, and its pages have "
            f"{samples}: the metadata do not belong to this file."
        )
    sizes["C"] //= samples
    if sizes["C"] * sizes["Z"] * sizes["T"] > _MAX_PAGES:
        raise DataError(f"its OME-XML describes more than {_MAX_PAGES:,} planes: it is damaged, or split the file.")
    order = pixels.get("DimensionOrder", "XYCZT")
    if sorted(order) != sorted("XYCZT") or order[:2] != "XY":
        raise DataError(f"expected a DimensionOrder such as XYCZT in its OME-XML, got {order!r}.")
    slow_to_fast = order[:1:-1]
    positions = list(product(*(range(sizes[axis]) for axis in slow_to_fast)))
    ordered = np.full(len(positions), -1)
    _require_one_file(pixels)
    for data in (child for child in pixels if _name(child) == "TiffData"):
        first = [_integer(data, f"First{axis}", 0) for axis in slow_to_fast]
        if any(not 0 <= index < sizes[axis] for index, axis in zip(first, slow_to_fast, strict=True)):
            raise DataError("its OME-XML refers to planes outside of the image: it is damaged.")
        start = int(np.ravel_multi_index(first, [sizes[axis] for axis in slow_to_fast]))
        page = _integer(data, "IFD", 0)
        count = _integer(data, "PlaneCount", 1 if "IFD" in data.attrib else min(pages, len(ordered) - start))
        if start + count > len(ordered) or not 0 <= page <= page + count <= pages:
            raise DataError(f"its OME-XML refers to page {page + count}, and the file has {pages}: it is truncated.")
        ordered[start : start + count] = np.arange(page, page + count)
    if (ordered < 0).any():
        raise DataError(
            f"{int((ordered < 0).sum())} of {len(ordered)} planes of its OME-XML are in no page: it is truncated, or "
            "one of several files. Join them in one file."
        )
    grid = ordered.reshape([sizes[axis] for axis in slow_to_fast])
    table = grid.transpose([slow_to_fast.index(axis) for axis in "TZC"])
    names = tuple(channel.get("Name", "") for channel in channels)
    bits = _integer(pixels, "SignificantBits", 0)
    return OmeImage(table, names if all(names) else (), bits or None)


def document(
    like: str | None,
    *,
    name: str,
    size: tuple[int, int],
    plane_sizes: tuple[int, int],
    dtype: np.dtype,
    channels: int,
    channel_names: Sequence[str],
    samples: int,
    keep_bits: bool,
    pixel_size: float | None = None,
    magnification: float | None = None,
    comment: str = "",
) -> str:
    """Return the OME-XML document of an image whose pages are in the order frames, slices, channels.

    Args:
        like: A document whose metadata are kept (instruments, physical sizes, annotations), or None for a new one.
        name: Name of the image, for a new document.
        size: Height and width.
        plane_sizes: Number of frames and of slices.
        dtype: Type of the values.
        channels: Number of channels.
        channel_names: Names of the channels, or empty.
        samples: Number of samples per pixel of a page.
        keep_bits: Whether the number of significant bits of `like` is still true.
        pixel_size: Size of a pixel in micrometers, for a new document.
        magnification: Magnification of the objective, for a new document.
        comment: Description of the image, for a new document.

    Raises:
        DataError: If OME has no such type.
    """
    kind = _TYPES.get(dtype.name, dtype.name)
    if kind not in _STORED_TYPES:
        raise DataError(f"OME-TIFF cannot store values of type {dtype.name}: use float32 or up to 32-bit integers.")
    root = _root(like) if like else _new(name, pixel_size, magnification, comment)
    images = [child for child in root if _name(child) == "Image"]
    for extra in images[1:]:
        root.remove(extra)
    pixels = _pixels(root)
    frames, slices = plane_sizes
    sizes = {"X": size[1], "Y": size[0], "C": channels, "Z": slices, "T": frames}
    pixels.attrib |= {f"Size{axis}": str(value) for axis, value in sizes.items()}
    pixels.attrib |= {"DimensionOrder": "XYCZT", "Type": kind, "BigEndian": "false"}
    for attribute in ("Interleaved", "PixelType", *(() if keep_bits else ("SignificantBits",))):
        pixels.attrib.pop(attribute, None)
    space = pixels.tag[: -len("Pixels")]
    _set_channels(pixels, space, channels, channel_names, samples)
    for child in list(pixels):
        is_stale = _name(child) in ("TiffData", "BinData", "MetadataOnly")
        beyond = _name(child) == "Plane" and _integer(child, "TheC", 0) >= channels // samples
        if is_stale or beyond:
            pixels.remove(child)
    data = ElementTree.Element(f"{space}TiffData", {"IFD": "0"})
    data.set("PlaneCount", str(frames * slices * (channels // samples)))
    pixels.insert(sum(_name(child) == "Channel" for child in pixels), data)
    root.attrib.pop("UUID", None)  # that of the other file
    if root.tag.startswith("{"):
        ElementTree.register_namespace("", root.tag[1:].split("}")[0])
    text = ElementTree.tostring(root, encoding="us-ascii", xml_declaration=False).decode("ascii")
    return f'<?xml version="1.0" encoding="UTF-8"?>{text}'


def _set_channels(pixels: ElementTree.Element, space: str, channels: int, names: Sequence[str], samples: int) -> None:
    """Describe the channels. Elements of channels that are kept are changed in their name only."""
    kept = [child for child in pixels if _name(child) == "Channel"]
    count = channels // samples
    if len(kept) != count or any(_integer(channel, "SamplesPerPixel", 1) != samples for channel in kept):
        for channel in kept:
            pixels.remove(channel)
        kept = [ElementTree.Element(f"{space}Channel", {"ID": f"Channel:0:{index}"}) for index in range(count)]
        for index, channel in enumerate(kept):
            pixels.insert(index, channel)
            channel.set("SamplesPerPixel", str(samples))
    if samples == 1 and len(names) == count:
        for channel, name in zip(kept, names, strict=True):
            channel.set("Name", name)


def _new(name: str, pixel_size: float | None, magnification: float | None, comment: str) -> ElementTree.Element:
    space = f"{{{_NAMESPACE}}}"
    root = ElementTree.Element(f"{space}OME", {"Creator": "fastmunit"})
    if magnification is not None:
        instrument = ElementTree.SubElement(root, f"{space}Instrument", {"ID": "Instrument:0"})
        objective = ElementTree.SubElement(instrument, f"{space}Objective", {"ID": "Objective:0"})
        objective.set("NominalMagnification", f"{magnification:g}")
    image = ElementTree.SubElement(root, f"{space}Image", {"ID": "Image:0", "Name": name})
    if comment:
        ElementTree.SubElement(image, f"{space}Description").text = comment
    if magnification is not None:
        ElementTree.SubElement(image, f"{space}InstrumentRef", {"ID": "Instrument:0"})
        ElementTree.SubElement(image, f"{space}ObjectiveSettings", {"ID": "Objective:0"})
    pixels = ElementTree.SubElement(image, f"{space}Pixels", {"ID": "Pixels:0"})
    if pixel_size is not None:
        for axis in "XY":
            pixels.set(f"PhysicalSize{axis}", f"{pixel_size:.10g}")
            pixels.set(f"PhysicalSize{axis}Unit", "µm")
    return root


def _root(description: str) -> ElementTree.Element:
    if "<!DOCTYPE" in description or "<!ENTITY" in description:
        raise DataError("its OME-XML has a document type or entities, which are not read: remove them.")
    try:
        return ElementTree.fromstring(description.strip().encode())
    except ElementTree.ParseError as error:
        raise DataError(f"its OME-XML is damaged: {error}.") from error


def _pixels(root: ElementTree.Element) -> ElementTree.Element:
    for image in root:
        if _name(image) == "Image":
            for child in image:
                if _name(child) == "Pixels":
                    return child
    raise DataError("its OME-XML describes no image: the pixels are in another file, or it is damaged.")


def _require_one_file(pixels: ElementTree.Element) -> None:
    """Refuse images in several files: a document from someone else could name any file of this machine."""
    references = [child for data in pixels if _name(data) == "TiffData" for child in data if _name(child) == "UUID"]
    if len({reference.text for reference in references}) > 1:
        names = sorted({reference.get("FileName", "?") for reference in references})
        raise DataError(f"its OME-XML has planes in several files ({', '.join(names[:3])}): join them in one.")


def _name(element: ElementTree.Element) -> str:
    return str(element.tag).rsplit("}", 1)[-1]


def _integer(element: ElementTree.Element, attribute: str, default: int | None) -> int:
    text = element.get(attribute)
    if text is None and default is not None:
        return default
    try:
        value = int(text or "")
    except ValueError:
        value = -1
    if not 0 <= value < 2**31:
        raise DataError(f"expected a number for {attribute} in its OME-XML, got {text!r}: it is damaged.")
    return value
