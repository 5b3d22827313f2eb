"""TIFFs of one compressed tile or strip, whose tags and data are given, and the memory that reading them takes."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SIDE = 32
_SHORT, _LONG = 3, 4
_FORMATS = {_SHORT: "<H", _LONG: "<I"}


def write_encoded(
    path: Path, compression: int, data: bytes, samples: int = 1, bits: int = 8, strips: bool = False
) -> Path:
    """Write an image of `SIDE` pixels in one tile, or in one strip."""
    place, count = (273, 279) if strips else (324, 325)
    sizes = {278: (_LONG, [SIDE])} if strips else {322: (_LONG, [SIDE]), 323: (_LONG, [SIDE])}
    tags = {
        256: (_LONG, [SIDE]),
        257: (_LONG, [SIDE]),
        258: (_SHORT, [bits] * samples),
        259: (_SHORT, [compression]),
        262: (_SHORT, [2 if samples > 1 else 1]),
        277: (_SHORT, [samples]),
        **sizes,
        count: (_LONG, [len(data)]),
    }
    position = 8 + 2 + 12 * (len(tags) + 1) + 4
    tags[place] = (_LONG, [position + 8])
    entries, values = b"", b""
    for code, (kind, content) in sorted(tags.items()):
        raw = b"".join(struct.pack(_FORMATS[kind], value) for value in content)
        if len(raw) > 4:
            raw, values = struct.pack("<I", position), raw
        entries += struct.pack("<HHI", code, kind, len(content)) + raw.ljust(4, b"\0")
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4)
    path.write_bytes(head + values.ljust(8, b"\0") + data)
    return path


_READ = """
import json, re, sys
from pathlib import Path
import imagecodecs, tifffile
from fastmunit.errors import DataError
from fastmunit.image_files.open import open_image

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10

def read(path):
    try:
        with open_image(path) as reader:
            return str(reader.read().shape)
    except DataError as error:
        return str(error)

warm, *paths = sys.argv[1:]
for path in Path(warm).iterdir():
    read(path)
found = []
for path in paths:
    before = peak()
    found.append((read(path), peak() - before))
print(json.dumps(found))
"""


def read_measured(warm: Path, paths: list[Path]) -> list[tuple[str, int]]:
    """Read images in another process.

    Args:
        warm: A folder with images that are read first, so that decoders are loaded.
        paths: The images.

    Returns:
        For each image its shape as text or the message of the error, and the bytes by which the peak of memory grew.
    """
    run = subprocess.run(
        [sys.executable, "-c", _READ, str(warm), *map(str, paths)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads(run.stdout)
    return [(text, grown) for text, grown in found]
