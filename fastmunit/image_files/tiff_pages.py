"""The meaning of the pages of a TIFF file: channels, or planes."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from fastmunit.errors import DataError
from fastmunit.image_files import ome_xml

_MAX_PAGES = 1 << 16

Pages = Literal["auto", "channels", "planes"]


class PageTable(NamedTuple):
    """The pages of an image.

    Attributes:
        kind: "ome", "imagej", "shaped" (axes in JSON, as tifffile writes), "svs" or "plain".
        table: Index of the page of each plane and channel, shape (planes, pages per plane).
        plane_axes: Names and sizes of the dimensions of the planes, in the order in which they are numbered.
        channel_names: Names of the channels, or empty.
        bits: Number of significant bits, or None.
    """

    kind: str
    table: np.ndarray
    plane_axes: tuple[tuple[str, int], ...] = ()
    channel_names: tuple[str, ...] = ()
    bits: int | None = None


def page_table(description: str, pages: int, samples: int, rule: Pages) -> PageTable:
    """Decide what the pages of a file mean.

    - OME-XML, ImageJ's and tifffile's descriptions say which pages are channels (C). Their other dimensions (time and
      depth, for example) are planes.
    - An Aperio slide has one image; its other pages are smaller copies.
    - Without such a description, pages are channels, as in ordinary images, unless `rule` is "planes".

    Args:
        description: ImageDescription of the first page.
        pages: Number of pages with the size and type of the first one.
        samples: Number of samples per pixel of a page.
        rule: Meaning of pages without a description: "auto" and "channels" are the same.

    Raises:
        DataError: If the description does not fit the pages.
    """
    if ome_xml.is_ome(description):
        image = ome_xml.parse(description, pages, samples)
        frames, slices, per_plane = image.table.shape
        table = image.table.reshape(frames * slices, per_plane)
        return PageTable("ome", table, (("T", frames), ("Z", slices)), image.channel_names, image.bits)
    if description.startswith("Aperio"):
        return PageTable("svs", np.zeros((1, 1), int))
    if description.startswith("ImageJ="):
        return _from_axes("imagej", *_imagej_axes(description, pages, samples))
    if (shaped := shaped_description(description)) is not None:
        leading = _shaped_axes(shaped, pages)
        if leading is not None:
            return _from_axes("shaped", *leading)
        if shaped.get("truncated"):  # one page stands for a stack whose dimensions have no names
            pages = math.prod(shaped["shape"][: -3 if samples > 1 else -2])
            if pages > _MAX_PAGES:
                raise DataError(f"its description has {pages:,} pages, more than {_MAX_PAGES:,}: split it.")
    if rule == "planes":
        return PageTable("plain", np.arange(pages)[:, None], (("Z", pages),))
    return PageTable("plain", np.arange(pages)[None])


def shaped_description(description: str) -> dict[str, Any] | None:
    """Return the JSON object that tifffile writes as a description, or None if it is another description."""
    # Older releases of tifffile, such as 2025.5.10, write the shape after the other entries.
    if not description.startswith("{") or '"shape":' not in description:
        return None
    try:
        found = json.loads(description)
    except (ValueError, RecursionError):
        return None
    shape = found.get("shape")
    valid = isinstance(shape, list) and all(isinstance(size, int) and 0 < size < 2**31 for size in shape)
    return found if valid else None


def imagej_items(description: str) -> dict[str, str]:
    """Return the entries "key=value" of ImageJ's description."""
    return dict(line.split("=", 1) for line in description.splitlines() if "=" in line)


def _from_axes(kind: str, axes: str, sizes: Sequence[int]) -> PageTable:
    """Order pages whose dimensions are given from the slowest to the fastest."""
    count = math.prod(sizes)
    if count > _MAX_PAGES:
        raise DataError(f"its description has {count:,} pages, more than {_MAX_PAGES:,}: it is damaged, or split it.")
    order = sorted(range(len(axes)), key=lambda index: axes[index] in "CS")
    table = np.arange(count).reshape(sizes).transpose(order)
    planes = tuple((axis, size) for axis, size in zip(axes, sizes, strict=True) if axis not in "CS")
    return PageTable(kind, table.reshape(math.prod(size for _, size in planes), -1), planes)


def _imagej_axes(description: str, pages: int, samples: int) -> tuple[str, tuple[int, ...]]:
    items = imagej_items(description)
    try:
        sizes = {axis: int(items.get(key, 1)) for axis, key in (("T", "frames"), ("Z", "slices"), ("C", "channels"))}
        images = int(items.get("images", 1))
    except ValueError as error:
        raise DataError(f"its ImageJ description is damaged: {error}.") from error
    if min(*sizes.values(), images) < 1:
        raise DataError("its ImageJ description has sizes below 1: it is damaged.")
    if samples > 1 and sizes["C"] == samples:
        sizes["C"] = 1
    if math.prod(sizes.values()) == 1:
        sizes["Z"] = max(images, pages)
    order = items.get("order", "czt").upper()
    axes = order[::-1] if sorted(order) == sorted("CZT") else "TZC"
    return axes, tuple(sizes[axis] for axis in axes)


def _shaped_axes(shaped: dict[str, Any], pages: int) -> tuple[str, tuple[int, ...]] | None:
    """Return the dimensions of the pages, or None if the description does not name them."""
    axes, shape = shaped.get("axes"), shaped["shape"]
    if not isinstance(axes, str) or len(axes) != len(shape) or not {"X", "Y"} <= set(axes):
        return None
    # The dimensions of a page are the last ones: YX, YXS, or SYX.
    inside = 2 + (axes.endswith("S") or axes.endswith("SYX"))
    leading = axes[:-inside]
    if axes[-inside:] not in ("YX", "YXS", "SYX") or len(set(leading)) != len(leading):
        return None
    sizes = tuple(shape[: len(leading)])
    if math.prod(sizes) < pages:
        return None
    return leading, sizes
