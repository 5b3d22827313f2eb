"""Checks of style codes, and of numbers such as how many to return."""

from __future__ import annotations

import operator

import torch
from torch import Tensor

from fastmunit.errors import ConfigError, DataError


def require_codes(codes: object, name: str = "style codes", style_dim: int | None = None, kind: str = "float") -> None:
    """Check style codes: at least one, finite, of shape (S, style_dim, 1, 1).

    Args:
        codes: The value to check.
        name: Word for the codes in messages.
        style_dim: Length of a code. None is any.
        kind: "float" for floating point numbers, "integer" for integers (seeds of noise), "any" for both.

    Raises:
        DataError: If the codes are not as described.
    """
    shape = f"(S, {'style_dim' if style_dim is None else style_dim}, 1, 1)"
    if not isinstance(codes, Tensor):
        raise DataError(f"expected {name} {shape} as a tensor, got {type(codes).__name__}")
    if codes.dim() != 4 or not len(codes) or codes.shape[2:] != (1, 1) or style_dim not in (None, codes.shape[1]):
        raise DataError(f"expected {name} {shape}, got {tuple(codes.shape)}")
    found = "float" if codes.is_floating_point() else "integer"
    if codes.is_complex() or codes.dtype == torch.bool or kind not in ("any", found):
        words = "integers" if kind == "integer" else "floating point numbers"
        raise DataError(f"expected {name} as {words}, got {codes.dtype}")
    if not bool(codes.float().isfinite().all()):
        raise DataError(f"expected finite {name}, got infinite or NaN values")


def require_code(code: object, name: str = "style code", style_dim: int | None = None) -> None:
    """Check one style code (1, style_dim, 1, 1), as `require_codes` checks several."""
    require_codes(code, name, style_dim)
    assert isinstance(code, Tensor)
    if len(code) != 1:
        raise DataError(f"expected {name} (1, {code.shape[1]}, 1, 1), got {tuple(code.shape)}: give one code")


def require_integer(name: str, value: object, low: int, high: int | None = None) -> None:
    """Check that an argument is an integer of at least `low`, and of at most `high` if it is given.

    Raises:
        ConfigError: If it is not.
    """
    try:
        usable = low <= operator.index(value) <= (value if high is None else high)  # type: ignore[arg-type,operator]
    except TypeError:
        usable = False
    if not usable:
        largest = "" if high is None else f" and at most {high:,}"
        raise ConfigError(f"expected {name} as an integer of at least {low}{largest}, got {value!r}")
