"""Names of the dimensions of stored arrays."""

from __future__ import annotations

from collections.abc import Sequence

# The last dimension of an array without names holds channels if it is this short: gray with alpha, RGB, RGBA.
_MAX_INTERLEAVED = 4


def guessed_axes(shape: Sequence[int]) -> str:
    """Return the axes of an array that does not name them, such as a `.npy` file.

    - 2 dimensions are "YX".
    - 3 dimensions are "YXC" if the last one has at most 4 elements and the others have more, otherwise "CYX".
    - 4 dimensions are the same with "Z" first.

    Raises:
        ValueError: If the array has another number of dimensions.
    """
    if len(shape) == 2:
        return "YX"
    if len(shape) not in (3, 4):
        raise ValueError(f"expected 2, 3 or 4 dimensions, got {len(shape)} in the shape {tuple(shape)}")
    last_are_channels = shape[-1] <= _MAX_INTERLEAVED < min(shape[-3:-1])
    return ("Z" if len(shape) == 4 else "") + ("YXC" if last_are_channels else "CYX")
