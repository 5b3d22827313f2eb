"""Checks of stored values before training: ranges that networks would use only a part of, or cannot use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastmunit.data.datasets import ImageDataset
from fastmunit.errors import DataError
from fastmunit.files import printable

_IMAGES = 4


def range_note(dataset: ImageDataset, indices: Sequence[int], source: str) -> str | None:
    """Return a line if images of more than 8 bits use less than half of their range, and have no value range.

    Args:
        dataset: Training images of a domain.
        indices: Images with more than 8 bits. At most 4 of them are read, evenly spaced.
        source: Name of the folder, list or source, for messages.

    Raises:
        DataError: If values are negative, above 65535, or floats outside of [0, 1]: they need a value range.
    """
    values = dataset.values
    if values.range is not None or not indices:
        return None
    count = min(len(indices), _IMAGES)
    images = [dataset.stored(indices[k * len(indices) // count]).pixels for k in range(count)]
    if all(image.dtype == np.uint8 for image in images):
        return None
    finite = [image[np.isfinite(image)] for image in images]
    low = min((float(part.min()) for part in finite if part.size), default=0.0)
    high = max((float(part.max()) for part in finite if part.size), default=0.0)
    kind, limit = ("integer", 65535) if all(image.dtype.kind in "iu" for image in images) else ("float", 1)
    key = f"value_range{values.keys}"
    if not 0 <= low <= high <= limit:
        raise DataError(
            f"{source}: {kind} values {low:g}..{high:g} are outside [0, {limit}]: set {key} to [{low:g}, {high:g}] or "
            "auto."
        )
    if any(part.size < image.size for part, image in zip(finite, images, strict=True)):
        raise DataError(f"{source}: pixels are NaN or infinite: set {key} to [low, high] or auto, which allows them.")
    bits = int(high).bit_length()
    if kind == "float" or not 0 < bits < 16:
        return None
    return (
        f"{printable(source)}: values up to {high:.0f} in 16-bit files, so networks see 1/{2 ** (16 - bits)} of their "
        f"range: set {key}: [0, {2**bits - 1}], or auto."
    )
