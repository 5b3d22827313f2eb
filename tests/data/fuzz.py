"""Decode damaged images. Each must give a tensor or a DataError: `python -m tests.data.fuzz SEED COUNT FILE`.

A decoder that crashes takes the process with it: FILE then holds the image, and the exit status is that of the signal.
"""

import faulthandler
import io
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fastmunit.data.images import decode_image, read_header
from fastmunit.errors import DataError
from tests.data.deep import SIGNATURE, deep_png, with_changed_rows

# Without a limit, damaged sizes would request gigabytes.
MAX_PIXELS = 1 << 20

# Formats that Pillow writes, with modes and options that use different decoders.
_WRITTEN: list[tuple[str, str, dict[str, Any]]] = [
    *(("PNG", mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    ("PNG", "P", {"transparency": 3}),
    ("PNG", "RGB", {"save_all": True}),
    *(("TIFF", mode, {}) for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "F")),
    *(
        ("TIFF", "RGB", {"compression": name})
        for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "lzma", "zstd")
    ),
    ("TIFF", "1", {"compression": "group4"}),
    ("TIFF", "L", {"save_all": True}),
    ("JPEG", "L", {}),
    ("JPEG", "RGB", {"progressive": True}),
    ("JPEG", "CMYK", {}),
    ("MPO", "RGB", {"save_all": True}),
    ("WEBP", "RGB", {}),
    ("WEBP", "RGBA", {"lossless": True}),
    ("WEBP", "RGB", {"save_all": True}),
    ("AVIF", "RGB", {"speed": 10}),
    ("GIF", "P", {}),
    ("GIF", "P", {"save_all": True}),
    *(("BMP", mode, {}) for mode in ("1", "P", "RGB", "RGBA")),
    ("DIB", "RGB", {}),
    *(("PPM", mode, {}) for mode in ("1", "L", "RGB", "I;16", "F")),
    *(("TGA", mode, {"compression": "tga_rle"}) for mode in ("L", "P", "RGB", "RGBA")),
    *(("DDS", mode, {}) for mode in ("L", "RGB", "RGBA")),
    *(("DDS", "RGBA", {"pixel_format": name}) for name in ("DXT1", "DXT3", "DXT5", "BC2", "BC3", "BC5")),
    ("ICO", "RGBA", {}),
    ("ICNS", "RGBA", {}),
    *(("PCX", mode, {}) for mode in ("1", "L", "P", "RGB")),
    *(("SGI", mode, {}) for mode in ("L", "RGB", "RGBA")),
    ("QOI", "RGBA", {}),
    ("JPEG2000", "RGB", {}),
    ("JPEG2000", "RGBA", {"irreversible": True}),
    ("MSP", "1", {}),
    ("XBM", "1", {}),
    *(("IM", mode, {}) for mode in ("L", "P", "RGB")),
    ("SPIDER", "F", {}),
    ("BLP", "P", {}),
]

# First bytes of files in formats that Pillow reads but does not write.
_STARTS = (
    b"8BPS\0\1\0\0\0\0\0\0\0\3\0\0\0\x18\0\0\0\x18\0\x08\0\3" + bytes(14),
    b"\0\0\0\0\x12\xaf\1\0\x18\0\x18\0\x08\0\3\0" + bytes(120),
    b"FTEX\0\0\0\0\x18\0\0\0\x18\0\0\0\1\0\0\0\1\0\0\0" + bytes(20),
    b"\0\0\0\x1c\0\0\0\2\0\0\0\x18\0\0\0\x18\0\0\0\1GIMP\0\0\0\1",
    b"SIMPLE  =                    T" + b" " * 50 + b"BITPIX  =                    8" + b" " * 50 + b"END" + b" " * 77,
    b"P7 332\n#XVVERSION\n#END_OF_COMMENTS\n24 24 255\n",
    b"\x59\xa6\x6a\x95\0\0\0\x18\0\0\0\x18\0\0\0\x18\0\0\6\xc0\0\0\0\1" + bytes(8),
    b'/* XPM */\nstatic char *x[] = {\n"24 24 2 1",\n"a c #000000",\n"b c #ffffff",\n',
    b"\x3a\xde\x68\xb1\1\0\0\0\x10\0\0\0" + bytes(80),
    bytes(2048) + b"PCD_" + bytes(4096),
    b"\x80\xe8\0\0" + bytes(412) + b"\x18\0\x18\0\x08\0" + bytes(612),
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 24 24\n%%EndComments\n{} loop\n",
)


def originals() -> Iterator[bytes]:
    """Return undamaged files of every kind. Some consist only of their header."""
    noise = np.random.default_rng(0)
    levels = noise.integers(0, 256, (24, 24, 4), dtype=np.uint8)
    levels[8:] = levels[:1, :1]  # runs, for formats that compress them
    for file_format, mode, options in _WRITTEN:
        chosen = dict(options)
        image = _in_mode(levels, mode)
        if chosen.get("save_all"):
            chosen["append_images"] = [_in_mode(levels[::-1].copy(), mode)]
        encoded = io.BytesIO()
        try:
            image.save(encoded, file_format, **chosen)
        except (OSError, KeyError, ValueError, RuntimeError):
            continue  # this Pillow lacks the codec or the option
        yield encoded.getvalue()
    for bands in (2, 3, 4):
        for interlaced in (False, True):
            deep = noise.integers(0, 65536, (9, 11, bands), dtype=np.uint16)
            yield deep_png(deep, orientation=bands, interlaced=interlaced)
    for start in _STARTS:
        yield start + levels.tobytes()


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Damage a file in one or more places. PNGs may also get damaged data with correct checksums."""
    if content.startswith(SIGNATURE) and draw.random() < 0.5:
        return with_changed_rows(content, lambda rows: draw.choice(_ROW_DAMAGES)(rows, draw))
    for _ in range(draw.choice((1, 1, 1, 2, 8))):
        content = draw.choice(_DAMAGES)(content, draw)
    return content


def _in_mode(levels: np.ndarray, mode: str) -> Image.Image:
    if mode == "F":
        return Image.fromarray(levels[..., 0].astype(np.float32) / 255)
    if mode == "I;16":
        return Image.fromarray(levels[..., 0].astype(np.uint16) * 257)
    image = Image.fromarray(levels)
    return image if mode == "RGBA" else image.convert("RGB").convert(mode)


def _flip_bits(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    # Headers have more influence than pixels.
    reach = draw.choice((len(changed), min(64, len(changed)), min(256, len(changed))))
    for _ in range(draw.choice((1, 1, 2, 5))):
        if changed:
            changed[draw.randrange(reach)] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _set_bytes(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    start, length = draw.randrange(len(changed) + 1), draw.choice((1, 2, 4, 16))
    value = draw.choice((b"\0", b"\xff", b"\x7f", b"\x80", draw.randbytes(1)))
    changed[start : start + length] = value * len(changed[start : start + length])
    return bytes(changed)


def _cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content) + 1)]


def _take_out(content: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(content) + 1)
    return content[:start] + content[start + draw.choice((1, 4, 100)) :]


def _put_in(content: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(content) + 1)
    return content[:start] + draw.randbytes(draw.choice((1, 4, 100))) + content[start:]


def _repeat(content: bytes, draw: random.Random) -> bytes:
    start, end = sorted((draw.randrange(len(content) + 1), draw.randrange(len(content) + 1)))
    return content[:end] + content[start:]


_Damage = Callable[[bytes, random.Random], bytes]
_DAMAGES: tuple[_Damage, ...] = (_flip_bits, _flip_bits, _set_bytes, _cut, _take_out, _put_in, _repeat)
_ROW_DAMAGES: tuple[_Damage, ...] = (_flip_bits, _set_bytes, _cut, _take_out, _put_in)


def _try(path: Path, channels: int) -> bool:
    """Return True if the file can be read. Anything except an image or a DataError ends the process."""
    try:
        read_header(path, MAX_PIXELS)
        image = decode_image(path, channels, MAX_PIXELS)
    except DataError:
        return False
    assert image.shape[0] == channels, image.shape
    assert image.numel() > 0, image.shape
    assert image.dtype == torch.uint8 or (image.dtype == torch.float32 and 0 <= image.min() <= image.max() <= 1)
    return True


def main(seed: int, count: int, path: Path) -> None:
    faulthandler.enable()
    draw = random.Random(seed)
    files = list(originals())
    readable = sum(max(_written(path, content, channels) for channels in (1, 2, 3, 4)) for content in files)
    read = sum(_written(path, damaged(draw.choice(files), draw), draw.choice((1, 2, 3, 3, 3, 4))) for _ in range(count))
    print(f"{len(files)} kinds of files, {readable} undamaged ones read; of {count} damaged ones {read} read")


def _written(path: Path, content: bytes, channels: int) -> bool:
    path.write_bytes(content)
    return _try(path, channels)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
