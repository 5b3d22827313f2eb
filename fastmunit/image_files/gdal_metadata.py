"""GDAL's metadata in GeoTIFF files: names of bands, and items that are no longer true of other pixels."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

TAG = 42112


def band_names(text: object) -> tuple[str, ...]:
    """Return the descriptions of the bands in the text of the tag, or nothing if it has none."""
    root = _parsed(text)
    if root is None:
        return ()
    found = {item.get("sample") or "": item.text or "" for item in root if item.get("role") == "description"}
    if not all(sample.isdecimal() for sample in found):
        return ()
    return tuple(name for _, name in sorted((int(sample), name) for sample, name in found.items()))


def adapted(text: object, names: Sequence[str], same_bands: bool) -> str | None:
    """Return the text of the tag for other pixels, or None if nothing is left.

    Statistics are removed. The names of the bands are replaced.

    Args:
        text: Text of the tag, or None if there is none.
        names: Names of the bands, or empty.
        same_bands: Whether items of single bands, such as scale and offset, are kept.
    """
    root = _parsed(text)
    if root is None:
        root = ElementTree.Element("GDALMetadata")
    for item in list(root):
        is_name = item.get("role") == "description"
        of_other_bands = item.get("sample") is not None and not same_bands
        if is_name or of_other_bands or (item.get("name") or "").startswith("STATISTICS_"):
            root.remove(item)
    for index, name in enumerate(names):
        attributes = {"name": "DESCRIPTION", "sample": str(index), "role": "description"}
        ElementTree.SubElement(root, "Item", attributes).text = name
    return ElementTree.tostring(root, encoding="us-ascii").decode("ascii") if len(root) else None


def _parsed(text: object) -> ElementTree.Element | None:
    if not isinstance(text, str) or "<!DOCTYPE" in text or "<!ENTITY" in text:
        return None
    try:
        return ElementTree.fromstring(text.strip())
    except ElementTree.ParseError:
        return None
