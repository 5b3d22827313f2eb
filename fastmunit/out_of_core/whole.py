"""The memory that the translation of a whole image takes."""

from __future__ import annotations

from collections.abc import Sequence

from fastmunit.out_of_core.maps import Map
from fastmunit.out_of_core.windows import Padded

_MARGIN = 1.3
"""Measured peaks are up to this many times the estimate."""


def whole_bytes(maps: Sequence[Map]) -> int:
    """Return about how many bytes the translation of a whole image into one style takes at its peak.

    Every map is computed once and kept until it has been read for the last time. oneDNN copies the larger one of a
    convolution's input and result.

    Args:
        maps: The maps of the translation, inputs before what reads them.
    """
    last = {x: number for number, reader in enumerate(maps) for x in (*reader.inputs, reader)}
    live, peak = 0, 0
    for number, x in enumerate(maps):
        size = 0 if isinstance(x, Padded) else x.bytes_of(x.whole)  # an op writes the padded map alone
        copies = max((source.bytes_of(source.whole) for source in x.inputs), default=0)
        live += size
        peak = max(peak, live + (max(size, copies) if x.products else 0))
        live -= sum(
            source.bytes_of(source.whole)
            for source in dict.fromkeys(x.inputs)
            if last[source] == number and not isinstance(source, Padded)
        )
    return int(_MARGIN * peak)
