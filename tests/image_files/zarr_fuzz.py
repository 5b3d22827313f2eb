"""Read Zarr images with damaged chunks, for each codec. Each must give an array or a DataError, in little memory.

Usage: python -m tests.image_files.zarr_fuzz SEED COUNT DIR
A decoder that crashes takes the process with it: DIR then holds the image, and the exit status is that of the signal.
"""

import faulthandler
import random
import resource
import sys
import warnings
from pathlib import Path

from fastmunit.errors import DataError
from fastmunit.image_files.open import open_image
from fastmunit.region import Region
from tests.image_files.fuzz import damaged
from tests.image_files.zarr_arrays import (
    BYTES,
    NAMES,
    SIDE,
    codec,
    encoded,
    image,
    shard,
    sharded,
    tiles,
    write_array,
    write_shard,
)

_MAX_MEMORY = 6 << 30
# Decoders of zstd have windows of at most 128 MiB, those of lzma what a stream asks for.
_MAX_GROWTH = 200 << 20


def write_damaged(path: Path, name: str, kind: str, random_: random.Random) -> None:
    """Write an image of several files, or of one shard, with damage in its first chunk or in its index."""
    chunks = [encoded(name, tile) for tile in tiles(image())]
    codecs = [BYTES, codec(name)]
    if random_.random() < 0.7:
        chunks[0] = damaged(chunks[0], random_)
    if kind == "files":
        write_array(path, codecs, chunks)
        return
    at_start = kind == "index at the start"
    content = shard(chunks, at_start, checksum=False)
    if random_.random() < 0.6:
        content = damaged(content, random_)
    write_shard(path, sharded(codecs, at_start, checksum=False), content)


def memory() -> int:
    """Return the largest memory that the process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def main(seed: int, count: int, folder: Path) -> None:
    faulthandler.enable()
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY, _MAX_MEMORY))
    folder.mkdir()
    random_ = random.Random(seed)
    kinds = [(name, kind) for name in NAMES for kind in ("files", "index at the end", "index at the start")]
    read, before = 0, 0
    for number in range(count):
        name, kind = kinds[number % len(kinds)]
        path = folder / f"{kind}.zarr".replace(" ", "_")
        write_damaged(path, name, kind, random_)
        for region in (None, Region(0, 0, SIDE, SIDE)):
            try:
                with open_image(path) as reader:
                    reader.read(region)
                read += 1
            except DataError as error:
                if path.name not in str(error):
                    raise
        before = before or memory()
    growth = memory() - before
    if growth > _MAX_GROWTH:
        sys.exit(f"The memory grew by {growth:,} bytes.")
    print(f"of {2 * count} damaged ones {read} read; memory grew by {growth >> 20} MiB")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
