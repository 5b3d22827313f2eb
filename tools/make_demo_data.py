"""Make the built-in demo data (edges <-> fruit photos, 64x64) from a folder of Fruits-360 photos.

The input folder holds one folder per family (apple, cherry, tomato, ...) of 100x100 photos on a white background, named
VARIETY__[ROTATION_]FRAME_100.jpg. The output is a zip archive with these folders:

    trainA, trainB   edge drawings and photos for unpaired training; no photo is in both
    testA, testB     held-out pairs with equal file names
    pairsA           edge drawings of the photos of trainB, with equal file names, for paired training

and the license, which is also written next to the archive.

Each turn of the turntable is cut into three arcs with gaps between them: one for trainA, one for trainB, one for the
test pairs. No photo, and no two neighboring frames, are therefore in two of them. Varieties are represented equally.
File names start with a number that interleaves families and varieties, so the first files of a folder show many kinds
of fruit.

Edges are detected with scikit-image (Canny) and SciPy (silhouettes, distances). The shipped pairsA was made with
scikit-image 0.26.0, SciPy 1.17.1 and Pillow 13.0.0.

    pip install scikit-image
    python tools/make_demo_data.py FRUITS_360_TRAIN_FOLDER fastmunit/data/demo.zip
"""

import argparse
import io
import re
import struct
import zipfile
import zlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps
from scipy import ndimage
from skimage import color, feature, measure

SIZE = 64
# Width in source pixels of the white frame added around each photo: fruits touch the border of the photo, and their
# outline has to close.
PADDING = 4
# Edges are drawn this many times larger than SIZE and then reduced, which gives smooth lines.
OVERSAMPLING = 4
# Line width in pixels at SIZE.
LINE_WIDTH = 1.75
# Gray levels of an edge drawing: 4 fit in two bits per pixel.
EDGE_LEVELS = 4
JPEG_QUALITY = 90

# Arcs as fractions of a turn. A twentieth of a turn (18 degrees) is left out after each.
TRAIN_A_ARC = (0.0, 0.38)
TRAIN_B_ARC = (0.43, 0.81)
TEST_ARC = (0.86, 0.95)

# Apple_23 is an apple core, which does not have the shape of a fruit.
EXCLUDED_VARIETIES = ("Apple_23",)

LICENSE = """\
Demo data of fastmunit: edge drawings and photos of apples, cherries and tomatoes, 64x64
=========================================================================================

The photos are a subset of Fruits-360 by Mihai Oltean (https://mihaioltean.github.io,
https://www.kaggle.com/datasets/moltean/fruits), Copyright (c) 2017-, Mihai Oltean.

License: Creative Commons Attribution-ShareAlike 4.0 International (CC BY-SA 4.0),
https://creativecommons.org/licenses/by-sa/4.0/ (legal text: https://creativecommons.org/licenses/by-sa/4.0/legalcode).

Changes made: a subset of varieties and frames was taken, the files were renamed, a white frame of {padding} pixels was
added, the photos were reduced from 100x100 to 64x64 and compressed again (trainB, testB), and edge drawings were made
from them (trainA, testA, and pairsA, which is unpacked as the trainA of paired data). No endorsement by the author is
implied.

The adapted material in this archive, photos and edge drawings, is shared under the same license, CC BY-SA 4.0. It is
not covered by the license of fastmunit's code.
"""

NAME = re.compile(r"(?P<variety>.+?)__(?:(?P<rotation>r\d*)_)?(?P<frame>\d+)_100\.jpg")


class Photo(NamedTuple):
    """A photo of the source with its family, variety, turn of the turntable (rotation axis) and frame in that turn."""

    family: str
    variety: str
    rotation: str
    frame: int
    path: Path


class Split(NamedTuple):
    """The photos of three disjoint parts: trainA, trainB and the test pairs."""

    train_a: list[Photo]
    train_b: list[Photo]
    test: list[Photo]


@dataclass(frozen=True)
class Counts:
    """The numbers of photos per variety and training domain, and of test pairs over all varieties."""

    train: int
    test: int


def list_photos(folder: Path) -> list[Photo]:
    """Return the photos below `folder`, sorted."""
    photos = []
    for path in sorted(folder.glob("*/*.jpg")):
        match = NAME.fullmatch(path.name)
        if match is None:
            raise SystemExit(f"{path}: expected a name like VARIETY__[ROTATION_]FRAME_100.jpg")
        if match["variety"] not in EXCLUDED_VARIETIES:
            photos.append(Photo(path.parent.name, match["variety"], match["rotation"] or "", int(match["frame"]), path))
    if not photos:
        raise SystemExit(f"{folder}: no photos found; expected FAMILY/VARIETY__[ROTATION_]FRAME_100.jpg")
    return sorted(photos)


def spread(photos: list[Photo], count: int) -> list[Photo]:
    """Pick `count` evenly spaced photos."""
    if len(photos) < count:
        raise SystemExit(f"variety {photos[0].variety if photos else '?'}: {len(photos)} photos, {count} needed")
    return [photos[(2 * i + 1) * len(photos) // (2 * count)] for i in range(count)]


def arcs(photos: list[Photo], rng: np.random.Generator) -> Split:
    """Cut each turn of one variety into the three arcs, starting at a random angle."""
    turns = defaultdict(list)
    for photo in photos:
        turns[photo.rotation].append(photo)
    split = Split([], [], [])
    for _, turn in sorted(turns.items()):
        if len(turn) < 2:
            raise SystemExit(f"{turn[0].path}: the only photo of its turn; a turn of the turntable is cut into arcs")
        start = rng.random()
        # The last frame of a turn is one step before its first.
        length = max(photo.frame for photo in turn) * len(turn) / (len(turn) - 1)
        for photo in turn:
            angle = (photo.frame / length + start) % 1.0
            for part, (low, high) in zip(split, (TRAIN_A_ARC, TRAIN_B_ARC, TEST_ARC), strict=True):
                if low <= angle < high:
                    part.append(photo)
    return split


def interleave(photos: dict[str, list[Photo]], order: list[str]) -> list[Photo]:
    """Order the photos of all varieties in rounds with one photo per variety."""
    longest = max(len(group) for group in photos.values())
    return [photos[variety][i] for i in range(longest) for variety in order if i < len(photos[variety])]


def variety_order(photos: list[Photo], rng: np.random.Generator) -> list[str]:
    """Return the varieties in random order, with the families spread evenly over it."""
    families = defaultdict(set)
    for photo in photos:
        families[photo.family].add(photo.variety)
    placed = []
    for family, varieties in sorted(families.items()):
        for rank, variety in enumerate(rng.permutation(sorted(varieties)).tolist()):
            placed.append(((rank + 0.5) / len(varieties), family, variety))
    return [variety for _, _, variety in sorted(placed)]


def split_photos(photos: list[Photo], counts: Counts, seed: int) -> Split:
    """Split the photos into three parts, balanced over the varieties."""
    rng = np.random.default_rng(seed)
    order = variety_order(photos, rng)
    train_a, train_b, test = {}, {}, {}
    for place, variety in enumerate(order):
        parts = arcs([photo for photo in photos if photo.variety == variety], rng)
        test_count = counts.test // len(order) + (place < counts.test % len(order))
        train_a[variety] = shuffled(spread(parts.train_a, counts.train), rng)
        train_b[variety] = shuffled(spread(parts.train_b, counts.train), rng)
        test[variety] = shuffled(spread(parts.test, test_count), rng)
    return Split(interleave(train_a, order), interleave(train_b, order), interleave(test, order))


def shuffled(photos: list[Photo], rng: np.random.Generator) -> list[Photo]:
    """Return the photos in random order."""
    return [photos[i] for i in rng.permutation(len(photos))]


def padded(photo: Photo) -> Image.Image:
    """Load a photo and add the white frame."""
    try:
        with Image.open(photo.path) as image:
            return ImageOps.expand(image.convert("RGB"), border=PADDING, fill=(255, 255, 255))
    except OSError as error:
        raise SystemExit(f"{photo.path} cannot be read as an image ({error}): get it again") from error


def silhouette(image: Image.Image, side: int) -> np.ndarray:
    """Return the shape of the fruit as a (side, side) mask: pixels that are not white, with holes filled, smoothed."""
    white_distance = 255.0 - np.asarray(image, dtype=np.float64).min(axis=2)
    mask = ndimage.binary_fill_holes(white_distance > 14)
    labels = measure.label(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    mask = labels == sizes.argmax()
    smooth = np.asarray(Image.fromarray(np.uint8(255 * mask)).resize((side, side), Image.Resampling.BICUBIC))
    return ndimage.gaussian_filter(smooth / 255.0, 0.5 * OVERSAMPLING) > 0.5


def inner_lines(image: Image.Image, shape: np.ndarray) -> np.ndarray:
    """Return the strongest edges inside the fruit (stems, calyx, highlights), one pixel wide, without short lines."""
    side = shape.shape[0]
    large = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC)) / 255.0
    lightness = color.rgb2lab(large)[..., 0] / 100.0
    inside = ndimage.distance_transform_edt(shape) > 4.5 * OVERSAMPLING
    # These thresholds keep stems, calyxes and highlights, and leave out the texture of the skin.
    lines = feature.canny(lightness, sigma=1.6 * OVERSAMPLING, low_threshold=0.04, high_threshold=0.09, mask=inside)
    labels = measure.label(lines, connectivity=2)
    long = np.bincount(labels.ravel()) > 10 * OVERSAMPLING
    long[0] = False
    return long[labels]


def draw_edges(image: Image.Image) -> Image.Image:
    """Draw the outline and the strongest inner lines of a photo with a white frame, SIZE x SIZE, in few gray levels.

    The outline is the inner rim of the silhouette, so it is always closed.
    """
    side = SIZE * OVERSAMPLING
    width = LINE_WIDTH * OVERSAMPLING
    shape = silhouette(image, side)
    rim = shape & (ndimage.distance_transform_edt(shape) <= width)
    lines = inner_lines(image, shape)
    # Without any line, the distance transform would measure from a corner of the image, and draw a dot there.
    inner = ndimage.distance_transform_edt(~lines) <= width / 2 if lines.any() else lines
    ink = (rim | inner).reshape(SIZE, OVERSAMPLING, SIZE, OVERSAMPLING).mean(axis=(1, 3))
    levels = np.rint((1.0 - ink) * (EDGE_LEVELS - 1)) * (255 / (EDGE_LEVELS - 1))
    return Image.fromarray(levels.astype(np.uint8))


def png_bytes(drawing: Image.Image) -> bytes:
    """Encode a drawing as a grayscale PNG of two bits per pixel, a fifth smaller than what Pillow writes."""
    levels = np.asarray(drawing) >> 6
    bits = np.stack([levels >> 1, levels & 1], axis=-1).reshape(SIZE, -1)
    rows = np.pad(np.packbits(bits, axis=1), ((0, 0), (1, 0)))  # Each row starts with its filter: 0, none.
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", SIZE, SIZE, 2, 0, 0, 0, 0),
        b"IDAT": zlib.compress(rows.tobytes(), 9),
        b"IEND": b"",
    }
    encoded = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks.items())
    return b"\x89PNG\r\n\x1a\n" + b"".join(encoded)


def jpeg_bytes(image: Image.Image) -> bytes:
    """Encode a padded photo as a JPEG of SIZE x SIZE pixels."""
    buffer = io.BytesIO()
    reduced = image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    reduced.save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True, subsampling=0)
    return buffer.getvalue()


def file_stem(index: int, photo: Photo) -> str:
    """Join position, variety, rotation ("r0" if the source names none) and frame, as in 0007_Cherry_Wax_2_r0_105."""
    return "_".join([f"{index:04d}", photo.variety, photo.rotation or "r0", str(photo.frame)])


def drawing_bytes(photo: bytes) -> bytes:
    """Return the edge drawing of an encoded photo of trainB as PNG."""
    with Image.open(io.BytesIO(photo)) as image:
        return png_bytes(draw_edges(image))


def write_archive(split: Split, archive: Path) -> None:
    """Write the archive, with fixed time stamps so that equal input gives equal bytes, and the license next to it."""
    license_text = LICENSE.format(padding=PADDING)
    files = {"LICENSE.txt": license_text.encode()}
    for index, photo in enumerate(split.train_a):
        files[f"trainA/{file_stem(index, photo)}.png"] = png_bytes(draw_edges(padded(photo)))
    for index, photo in enumerate(split.train_b):
        stem, encoded = file_stem(index, photo), jpeg_bytes(padded(photo))
        files[f"trainB/{stem}.jpg"], files[f"pairsA/{stem}.png"] = encoded, drawing_bytes(encoded)
    for index, photo in enumerate(split.test):
        files[f"testA/{file_stem(index, photo)}.png"] = png_bytes(draw_edges(padded(photo)))
        files[f"testB/{file_stem(index, photo)}.jpg"] = jpeg_bytes(padded(photo))
    write_zip(files, archive)
    archive.with_name(f"{archive.stem}_LICENSE.txt").write_text(license_text, encoding="utf-8")


def write_zip(files: dict[str, bytes], archive: Path) -> None:
    """Write files, by their names in the archive, as a zip. PNG is compressed already."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as output:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_STORED if name.endswith(".png") else zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            output.writestr(entry, content)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "photos", type=Path, help="Folder of Fruits-360 photos: FAMILY/VARIETY__[ROTATION_]FRAME_100.jpg."
    )
    parser.add_argument("archive", type=Path, help="Zip archive to write.")
    parser.add_argument(
        "--train-per-variety", type=int, default=17, help="Number of photos per variety and training domain."
    )
    parser.add_argument("--test-pairs", type=int, default=100, help="Number of held-out pairs over all varieties.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the split.")
    options = parser.parse_args()
    counts = Counts(options.train_per_variety, options.test_pairs)
    split = split_photos(list_photos(options.photos), counts, options.seed)
    write_archive(split, options.archive)
    print(
        f"{options.archive}: {options.archive.stat().st_size / 1e6:.2f} MB, {len(split.train_a)} drawings and "
        f"{len(split.train_b)} photos for training, {len(split.test)} test pairs"
    )


if __name__ == "__main__":
    main()
