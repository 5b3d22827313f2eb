"""Style files: safetensors files with a tensor `styles` (S, style_dim, 1, 1) and names in the metadata."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fastmunit.errors import DataError
from fastmunit.files import atomic_write, printable, require_regular_file

SUFFIX = ".safetensors"
_KEY, _NAMES = "styles", "names"


class Styles(NamedTuple):
    """Style codes (S, style_dim, 1, 1) and one name per code, or no names."""

    codes: Tensor
    names: list[str]


def read_styles(path: str | os.PathLike[str]) -> Styles:
    """Read a style file.

    Raises:
        DataError: If the file is missing or damaged, or is not a style file.
    """
    require_regular_file(path, "styles file", DataError)
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            keys, metadata = list(file.keys()), file.metadata() or {}
            codes = file.get_tensor(_KEY) if _KEY in keys else None
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"styles file {printable(path)} is damaged or not a safetensors file ({reason[:200]}): replace it."
        ) from error
    if codes is None:
        held = ", ".join(repr(key) for key in keys[:3]) or "nothing"
        raise DataError(
            f"styles file {printable(path)} has no tensor {_KEY!r} (it holds {held[:200]}): give a file of style codes."
        )
    if codes.dim() != 4 or not len(codes) or codes.shape[2:] != (1, 1):
        raise DataError(
            f"styles file {printable(path)}: expected {_KEY!r} (S, style_dim, 1, 1), got {tuple(codes.shape)}."
        )
    if codes.is_floating_point() and not bool(codes.float().isfinite().all()):
        raise DataError(f"styles file {printable(path)}: {_KEY!r} has infinite or NaN values.")
    return Styles(codes, _names(metadata.get(_NAMES), len(codes), path))


def write_styles(path: str | os.PathLike[str], codes: Tensor, names: Sequence[str] = ()) -> None:
    """Write a style file atomically.

    Args:
        path: The file, usually with the suffix .safetensors.
        codes: Style codes (S, style_dim, 1, 1).
        names: One name per code, or none.

    Raises:
        ValueError: If the codes have another shape, or the numbers of codes and names differ.
        FastmunitError: If the file cannot be written.
    """
    if codes.dim() != 4 or not len(codes) or codes.shape[2:] != (1, 1):
        raise ValueError(f"expected codes (S, style_dim, 1, 1), got {tuple(codes.shape)}")
    if names and len(names) != len(codes):
        raise ValueError(f"expected {len(codes)} names, one per code, got {len(names)}")
    metadata = {_NAMES: json.dumps(list(names), ensure_ascii=False)} if names else None
    with atomic_write(Path(path)) as file:
        file.write(save({_KEY: codes.detach().cpu().contiguous()}, metadata))


def _names(text: str | None, count: int, path: str | os.PathLike[str]) -> list[str]:
    if text is None:
        return []
    try:
        names = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"styles file {printable(path)}: {_NAMES!r} in its metadata is not a JSON list.") from error
    if not isinstance(names, list) or len(names) != count or not all(isinstance(name, str) for name in names):
        raise DataError(
            f"styles file {printable(path)}: {_NAMES!r} in its metadata must be a JSON list of {count} strings."
        )
    return names


def as_codes(codes: Tensor, style_dim: int, example: Tensor, name: str) -> Tensor:
    """Convert style codes to the device and dtype of `example`, a code that the model has drawn.

    Raises:
        ValueError: If the shape is not the model's, or only one of codes and example is of integers.
    """
    if codes.dim() != 4 or not len(codes) or tuple(codes.shape[1:]) != (style_dim, 1, 1):
        raise ValueError(f"expected {name} (S, {style_dim}, 1, 1), got {tuple(codes.shape)}")
    if codes.is_complex() or codes.dtype == torch.bool or codes.is_floating_point() != example.is_floating_point():
        kind = "floating point numbers" if example.is_floating_point() else "integers"
        raise ValueError(f"expected {name} as {kind}, got {codes.dtype}")
    return codes.to(example)
