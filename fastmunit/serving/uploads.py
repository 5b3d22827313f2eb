"""Uploaded pictures and style values as tensors, checked against the limits before they are decoded."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

import torch
from fastapi import HTTPException
from torch import Tensor

from fastmunit.data.images import read_header
from fastmunit.data.opening import ImageBytes, PixelLimitError
from fastmunit.data.pixels import read_pixels
from fastmunit.data.value_range import PixelValues
from fastmunit.errors import DataError
from fastmunit.serving.limits import Limits
from fastmunit.systems.translators import Translator
from fastmunit.translation.output_sheet import resized

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""Image formats that are accepted, which browsers write. Fewer decoders read bytes of strangers that way."""

_JPEG, _SCAN, _MAX_SCANS = b"\xff\xd8", b"\xff\xda", 100
"""The start of a JPEG, and of a scan in it. Each scan may visit all pixels, and takes only a few bytes of the file."""


def picture(
    content: bytes, name: str, channels: int, size: int | None, limits: Limits, values: PixelValues | None = None
) -> Tensor:
    """Decode an uploaded picture as an image (C, H, W) in [-1, 1].

    Args:
        content: Bytes of the picture.
        name: Name of its field, for messages.
        channels: Channels of the result.
        size: Length to resize the shortest side to. None keeps it.
        limits: Limits to check first.
        values: How pixels are read. With a value range, TIFFs are accepted too: they hold signed and float values.

    Raises:
        HTTPException: With status 413 if the picture is too large, and 422 if it cannot be read.
    """
    if not content:
        raise HTTPException(422, f"{name} is empty: send a picture.")
    if content.startswith(_JPEG) and content.count(_SCAN) > _MAX_SCANS:
        raise HTTPException(422, f"{name} has more than {_MAX_SCANS} JPEG scans: save it again.")
    plain = channels in (1, 2, 3, 4) and (values is None or values.range is None)
    formats = _FORMATS if plain else (*_FORMATS, "TIFF")
    upload = ImageBytes(content, name, formats)
    try:
        header = read_header(upload, limits.upload_pixels)
        if 0 in header[:2]:
            raise HTTPException(422, f"{name} has no pixels: send a picture.")
        _require_few_pixels(name, header.height, header.width, size, limits.pixels)
        return resized(read_pixels(upload, channels, limits.upload_pixels, values), size)
    except PixelLimitError as error:
        raise HTTPException(
            413, f"{name} has more than {limits.upload_pixels:,} pixels: scale it down first."
        ) from error
    except DataError as error:
        raise HTTPException(422, f"{error} Accepted are {', '.join(formats)}.") from error


def codes_of(text: str, translator: Translator, limits: Limits) -> Tensor:
    """Convert style values to style codes (S, style_dim, 1, 1).

    Args:
        text: A JSON list of styles, each a list of `style_dim` numbers. Integers may be strings of digits, because
            JavaScript has no large integers.
        translator: The model.
        limits: Limits to check.

    Raises:
        HTTPException: With status 422 if they are not the model's, or not finite.
    """
    floats = takes_floats(translator)
    try:
        styles = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise HTTPException(422, "codes is not JSON: send a list of styles, such as [[0.5, -1, …]].") from error
    length = translator.style_dim
    if not isinstance(styles, list) or not styles or not all(isinstance(s, list) and len(s) == length for s in styles):
        raise HTTPException(422, f"codes: expected a list of styles, each a list of {length} numbers.")
    require_few_styles(len(styles), limits)
    try:
        values = [[_number(value, floats) for value in style] for style in styles]
        codes = torch.tensor(values, dtype=torch.float32 if floats else torch.int64)
    except (ValueError, OverflowError, RuntimeError) as error:
        kind = "finite numbers" if floats else "integers of 64 bits"
        raise HTTPException(422, f"codes: expected {kind}.") from error
    if floats and not bool(codes.isfinite().all()):
        raise HTTPException(422, "codes: expected finite numbers in float32.")
    return codes.view(len(styles), length, 1, 1)


def values_of(codes: Tensor) -> list[list[float | str]]:
    """Return style codes as the values that `codes_of` takes. Integers are strings."""
    rows = codes.flatten(1).tolist()
    return rows if codes.is_floating_point() else [[str(value) for value in row] for row in rows]


def takes_floats(translator: Translator) -> bool:
    """Return True if style codes are floating point numbers, and False if they are seeds of noise."""
    return translator.random_styles(1, torch.Generator().manual_seed(0)).is_floating_point()


def require_few_styles(count: int, limits: Limits) -> None:
    """Raise HTTPException with status 422 if there are more styles than the limit."""
    if count > limits.styles:
        raise HTTPException(422, f"{count} styles are more than the limit of {limits.styles}: send several requests.")


def _require_few_pixels(name: str, height: int, width: int, size: int | None, limit: int) -> None:
    """Check the size of an image after its resize."""
    scale = 1.0 if size is None else size / min(height, width)
    pixels = height * scale * width * scale
    if pixels > limit * (1 + 1e-9):
        largest = math.isqrt(limit * min(height, width) // max(height, width))
        raise HTTPException(
            413,
            f"{name} would be translated with {pixels:,.0f} pixels and the limit is {limit:,}: send a size of at most "
            f"{largest}.",
        )


def _number(value: Any, floats: bool) -> float | int:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError
    if floats:
        if isinstance(value, str):
            raise ValueError
        return float(value)
    if isinstance(value, float):
        raise ValueError
    return int(value)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)
