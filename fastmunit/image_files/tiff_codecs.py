"""The compressions of TIFFs whose strips and tiles have their own size, which is checked before they are decoded."""

from __future__ import annotations

from collections.abc import Callable

from fastmunit.errors import DataError
from fastmunit.image_files.encoded_size import (
    EncodedSize,
    jpeg2000_size,
    jpeg_size,
    lerc_size,
    png_size,
    require_jpeg_tables,
    webp_size,
)

_MAX_SAMPLES = 4  # of a JPEG, WebP or PNG image
_SIZES: dict[int, Callable[[bytes], EncodedSize]] = {
    **dict.fromkeys((6, 7, 33007, 34892), jpeg_size),
    **dict.fromkeys((33003, 33004, 33005, 34712), jpeg2000_size),
    **dict.fromkeys((34927, 50001), webp_size),
    34887: lerc_size,
    34933: png_size,
}
# Decoders of the others know the size of a strip or tile: none, CCITT, LZW, deflate, PackBits, LZMA and zstd.
_BOUNDED = frozenset({1, 2, 3, 4, 5, 8, 32773, 32946, 34925, 34926, 50000, 50013})


def require_checked(compression: int, name: str) -> None:
    """Raise DataError if the size of a strip or tile is not known before it is decoded.

    Args:
        compression: TIFF's number of the compression.
        name: Its name, for the message.
    """
    if compression not in _SIZES and compression not in _BOUNDED:
        raise DataError(
            f"its compression {name} is not read, as the size of its parts cannot be checked: rewrite it, for example "
            "with LZW or JPEG 2000."
        )


class SizeCheck:
    """A check of the sizes that the strips or tiles of a page state.

    Args:
        compression: TIFF's number of the compression.
        shape: Length and width of a strip or tile.
        samples: Number of its samples.
        kind: What they are, for the message.
        tables: JPEG tables of the page, or None.
        header: The start of each JPEG image if all have the same one, or None.

    Raises:
        DataError: If the JPEG tables have an image.
    """

    def __init__(
        self,
        compression: int,
        shape: tuple[int, int],
        samples: int,
        kind: str,
        tables: bytes | None,
        header: bytes | None,
    ) -> None:
        self._measure = _SIZES.get(compression)
        self._limit = EncodedSize(*shape, max(samples, _MAX_SAMPLES))
        self._kind, self._header = kind, header or b""
        if tables is not None and self._measure is jpeg_size:
            require_jpeg_tables(tables)

    def __call__(self, data: bytes) -> None:
        """Check the compressed data of a strip or tile.

        Raises:
            DataError: If they are larger than it after decoding, or damaged.
        """
        if self._measure is None:
            return
        size = self._measure(self._header + data)
        if any(found > most for found, most in zip(size, self._limit, strict=True)):
            length, width, _ = self._limit
            raise DataError(
                f"one of its {self._kind} decodes to {size.height:,} x {size.width:,} pixels of {size.samples:,} "
                f"samples, where the tags say {length:,} x {width:,}: it is damaged."
            )
