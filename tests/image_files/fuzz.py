"""Read damaged files of all formats. Each must give an array or a DataError.

Usage: python -m tests.image_files.fuzz SEED COUNT DIR
A decoder that crashes takes the process with it: DIR then holds the file, and the exit status is that of the signal.
"""

import faulthandler
import logging
import random
import resource
import sys
import warnings
from pathlib import Path

import numpy as np
import pydicom
import tifffile
from imagecodecs import png_encode
from nibabel import Nifti1Image, save

from fastmunit.errors import DataError
from fastmunit.image_files.open import open_image

_DICOM = ("MR_small", "MR_small_RLE", "SC_rgb_rle_2frame", "MR_small_implicit", "SC_rgb_jpeg_dcmtk")
# Without a limit, damaged sizes would request gigabytes.
_MAX_VALUES = 1 << 22
_MAX_MEMORY = 6 << 30


def examples(folder: Path) -> dict[str, bytes]:
    """Return undamaged files by name."""
    values = np.random.default_rng(0).integers(0, 4000, (3, 40, 50), dtype=np.uint16)
    rgb = np.ascontiguousarray((values >> 4).astype(np.uint8).transpose(1, 2, 0))
    tiles = {"photometric": "minisblack", "tile": (16, 16)}
    tifffile.imwrite(folder / "plain.tif", values.transpose(1, 2, 0), photometric="rgb")
    for compression in ("lzw", "zlib", "zstd", "packbits"):
        tifffile.imwrite(folder / f"{compression}.tif", values, compression=compression, **tiles)
    for compression in ("jpeg", "webp", "jpeg2000"):
        options = {"photometric": "rgb", "tile": (16, 16), "compression": compression}
        tifffile.imwrite(folder / f"{compression}.tif", rgb, **options)
    float_options = {"photometric": "minisblack", "bigtiff": True, "rowsperstrip": 7, "compression": "zlib"}
    tifffile.imwrite(folder / "float.tif", values.astype(np.float32), predictor=3, **float_options)
    tifffile.imwrite(folder / "image.ome.tif", np.stack([values, values]), metadata={"axes": "ZCYX"}, **tiles)
    tifffile.imwrite(folder / "imagej.tif", np.stack([values, values]), imagej=True)
    np.save(folder / "array.npy", values)
    (folder / "rgb.png").write_bytes(png_encode(np.ascontiguousarray(values.transpose(1, 2, 0))))
    for suffix in (".nii", ".nii.gz"):
        save(Nifti1Image(values.astype(np.int16), np.eye(4)), folder / f"volume{suffix}")
    for name in _DICOM:
        (folder / f"{name}.dcm").write_bytes(Path(pydicom.data.get_testdata_file(f"{name}.dcm")).read_bytes())
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def damaged(content: bytes, random_: random.Random) -> bytes:
    """Return a file that is cut off, or has changed bytes, many of them in its header."""
    if random_.random() < 0.25:
        return content[: random_.randrange(len(content))]
    data = bytearray(content)
    for _ in range(random_.choice((1, 1, 2, 8, 50))):
        position = random_.randrange(len(data) if random_.random() < 0.4 else min(len(data), 900))
        data[position] = random_.choice((0, 255, random_.randrange(256), data[position] ^ 1 << random_.randrange(8)))
    return bytes(data)


def main(seed: int, count: int, folder: Path) -> None:
    faulthandler.enable()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY, _MAX_MEMORY))
    folder.mkdir()
    files = examples(folder)
    random_ = random.Random(seed)
    read = 0
    for _ in range(count):
        name = random_.choice(sorted(files))
        path = folder / f"damaged_{name}"
        path.write_bytes(damaged(files[name], random_))
        try:
            with open_image(path) as reader:
                for plane in range(min(reader.planes, 3)):
                    if reader.channels * reader.height * reader.width <= _MAX_VALUES:
                        reader.read(plane=plane)
            read += 1
        except DataError:
            pass
    print(f"{len(files)} kinds of files; of {count} damaged ones {read} read")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
