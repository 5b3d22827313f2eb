"""The memory that the translation of a whole image takes."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from fastmunit.out_of_core.maps import Map, Written
from fastmunit.out_of_core.windows import Padded, TransposedConvolved

_MARGIN = 1.05
_GAPS = 16_000_000
"""Bytes in gaps between blocks that an allocator keeps, whatever the size of the image."""

_IMAGE_COPIES = 3
"""The image and the result exist in several dtypes and sizes."""

_KEPT = 2
"""Networks hold maps for this many further operations after they were read for the last time."""


def whole_bytes(maps: Sequence[Map]) -> int:
    """Return an upper bound of the bytes that the translation of a whole image into one style takes at its peak.

    Every map is computed once. For convolutions, oneDNN copies input and result to other layouts, and transposed ones
    have their result once more. The constants are such that peaks of the resident memory of all systems, for images of
    384 x 384 to 2048 x 2048 pixels, are 0.5 to 1 times the result.

    Args:
        maps: The maps of the translation, inputs before what reads them.
    """
    readers: dict[Map, list[Map]] = {x: [] for x in maps}
    for reader in maps:
        for x in reader.inputs:
            readers[x].append(reader)

    def size(x: Map) -> int:
        # The op writes the padded map alone.
        is_padded_only = isinstance(x, Written) and len(readers[x]) == 1 and isinstance(readers[x][0], Padded)
        return 0 if is_padded_only else x.bytes_of(x.whole)

    last = {x: number for number, reader in enumerate(maps) for x in (*reader.inputs, reader)}
    live, peak, released = 0, 0, deque([0] * _KEPT)
    for number, x in enumerate(maps):
        live += size(x)
        copies = size(x) + sum(source.bytes_of(source.whole) for source in x.inputs) if x.products else 0
        if isinstance(x, TransposedConvolved):
            copies += size(x)
        peak = max(peak, live + copies)
        released.append(sum(size(source) for source in dict.fromkeys(x.inputs) if last[source] == number))
        live -= released.popleft()
    ends = maps[0].bytes_of(maps[0].whole) + maps[-1].bytes_of(maps[-1].whole)
    return int(_MARGIN * (peak + _IMAGE_COPIES * ends)) + _GAPS
