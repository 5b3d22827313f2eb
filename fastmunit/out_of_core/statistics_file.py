"""Files with the statistics of an image, which give other images the same look."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fastmunit.errors import DataError, FastmunitError
from fastmunit.files import atomic_write, printable, require_regular_file, unicode_path
from fastmunit.out_of_core.moments import Moments

_FORMAT = "fastmunit statistics 1"
_PARTS = ("count", "mean", "squares")


class Statistics(NamedTuple):
    """Statistics of the norms of a model for one image.

    Attributes:
        weights: Digest of the weights of the model.
        moments: Statistics by the name of a map.
    """

    weights: str
    moments: dict[str, Moments]


def write_statistics(path: str | os.PathLike[str], weights: str, moments: Mapping[str, Moments]) -> None:
    """Write a statistics file, a safetensors file, atomically.

    Raises:
        FastmunitError: If the file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    for name, value in moments.items():
        tensors[f"{name}:count"] = torch.tensor([value.count])
        tensors[f"{name}:mean"], tensors[f"{name}:squares"] = value.mean.contiguous(), value.squares.contiguous()
    with atomic_write(Path(path)) as file:
        file.write(save(tensors, {"format": _FORMAT, "weights": weights}))


def read_statistics(path: str | os.PathLike[str]) -> Statistics:
    """Read a statistics file.

    Raises:
        DataError: If the file is missing or damaged, or is not a statistics file.
    """
    require_regular_file(path, "statistics file", DataError)
    try:
        with unicode_path(path) as readable, safe_open(readable, framework="pt") as file:
            metadata = file.metadata() or {}
            names = list(file.keys()) if metadata.get("format") == _FORMAT else []
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"statistics file {printable(path)} is damaged or not a safetensors file ({reason[:200]}): replace it."
        ) from error
    if not tensors:
        raise DataError(
            f"{printable(path)} is not a statistics file: give one that a translation with --save-statistics has "
            "written."
        )
    return Statistics(metadata.get("weights", ""), _moments(path, tensors))


def require_replaceable(path: str | os.PathLike[str]) -> None:
    """Check that a path is free or holds a statistics file, before a statistics file is written there.

    Raises:
        FastmunitError: If another file would be lost.
    """
    if not Path(path).exists():
        return
    try:
        read_statistics(path)
    except DataError as error:
        raise FastmunitError(
            f"{printable(path)} exists and is not a statistics file: choose another path to save statistics."
        ) from error


def _moments(path: str | os.PathLike[str], tensors: Mapping[str, Tensor]) -> dict[str, Moments]:
    moments = {}
    for name in {key.rsplit(":", 1)[0] for key in tensors}:
        parts = [tensors.get(f"{name}:{part}") for part in _PARTS]
        count, mean, squares = parts
        if count is None or mean is None or squares is None or not _is_sound(count, mean, squares):
            raise DataError(
                f"statistics file {printable(path)} has no valid statistics of {name[:100]!r}: save them again."
            )
        moments[name] = Moments(int(count), mean, squares)
    return moments


def _is_sound(count: Tensor, mean: Tensor, squares: Tensor) -> bool:
    if count.shape != (1,) or count.dtype != torch.int64 or int(count) < 1:
        return False
    if mean.dim() != 1 or mean.shape != squares.shape or not mean.dtype == squares.dtype == torch.float64:
        return False
    return bool(mean.isfinite().all()) and bool((squares.isfinite() & (squares >= 0)).all())
