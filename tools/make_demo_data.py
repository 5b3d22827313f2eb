"""Makes the built-in demo data (edges <-> fruit photos, 64x64) from a folder of Fruits-360 photos.

The input folder holds one folder per family (apple, cherry, tomato, ...) of 100x100 photos on white ground named
VARIETY__[ROTATION_]FRAME_100.jpg. The output is a zip with trainA (edge drawings), trainB (photos), testA and testB
(held-out pairs with equal names) and the licence, which is also written beside the zip.

Every turn of the turntable is cut into three arcs with gaps between them: one for domain A, one for domain B, one for
the test pairs. So no photo, and no neighbouring frame of a photo, is in two of them. Varieties are represented equally
and file names start with a number that interleaves families and varieties, so the first few files of a folder show
many kinds of fruit.

    pip install scikit-image
    python tools/make_demo_data.py FRUITS_360_TRAIN_FOLDER fastmunit/data/demo.zip
"""

import argparse
import io
import re
import zipfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps
from scipy import ndimage
from skimage import color, feature, measure

SIZE = 64
# White frame around the photo in source pixels: fruits touch the photo's frame, and an outline has to close.
PADDING = 4
# Edges are drawn this many times larger than SIZE and reduced, which gives smooth lines.
OVERSAMPLING = 4
# Line width at SIZE, in pixels.
LINE_WIDTH = 1.75
# Grey levels of an edge drawing: 4 fit two bits a pixel.
EDGE_LEVELS = 4
JPEG_QUALITY = 90

# Arcs of one turn, as fractions of it, with a twentieth of a turn (18 degrees) left out after each.
TRAIN_A_ARC = (0.0, 0.38)
TRAIN_B_ARC = (0.43, 0.81)
TEST_ARC = (0.86, 0.95)

# An apple core: not the shape of a fruit.
EXCLUDED_VARIETIES = ("Apple_23",)

LICENCE = """\
Demo data of fastmunit: edge drawings and photos of apples, cherries and tomatoes, 64x64
=========================================================================================

The photos are a subset of Fruits-360 by Mihai Oltean (https://mihaioltean.github.io,
https://www.kaggle.com/datasets/moltean/fruits), Copyright (c) 2017-, Mihai Oltean.

Licence: Creative Commons Attribution-ShareAlike 4.0 International (CC BY-SA 4.0),
https://creativecommons.org/licenses/by-sa/4.0/ (legal text: https://creativecommons.org/licenses/by-sa/4.0/legalcode).

Changes made: a subset of varieties and frames was taken, the files were renamed, a white frame of {padding} pixels was
added, the photos were reduced from 100x100 to 64x64 and compressed again (trainB, testB), and edge drawings were made
from them (trainA, testA). No endorsement by the author is implied.

The adapted material in this archive, photos and edge drawings, is shared under the same licence, CC BY-SA 4.0. It is
not covered by the licence of fastmunit's code.
"""

NAME = re.compile(r"(?P<variety>.+?)__(?:(?P<rotation>r\d*)_)?(?P<frame>\d+)_100\.jpg")


class Photo(NamedTuple):
    """One photo of the source: family, variety, turn of the turntable (rotation axis) and frame in it."""

    family: str
    variety: str
    rotation: str
    frame: int
    path: Path


class Split(NamedTuple):
    """The photos of the three disjoint parts."""

    train_a: list[Photo]
    train_b: list[Photo]
    test: list[Photo]


@dataclass(frozen=True)
class Counts:
    """Photos per variety and training domain, and test pairs over all varieties."""

    train: int
    test: int


def list_photos(folder: Path) -> list[Photo]:
    """Photos below `folder`, sorted."""
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
    """`count` of the photos, evenly spaced."""
    if len(photos) < count:
        raise SystemExit(f"variety {photos[0].variety if photos else '?'}: {len(photos)} photos, {count} needed")
    return [photos[(2 * i + 1) * len(photos) // (2 * count)] for i in range(count)]


def arcs(photos: list[Photo], rng: np.random.Generator) -> Split:
    """Cuts each turn of one variety into the three arcs, starting at a random angle."""
    turns = defaultdict(list)
    for photo in photos:
        turns[photo.rotation].append(photo)
    split = Split([], [], [])
    for _, turn in sorted(turns.items()):
        if len(turn) < 2:
            raise SystemExit(f"{turn[0].path}: the only photo of its turn; a turn of the turntable is cut into arcs")
        start = rng.random()
        # The last frame of a turn is a step before its first.
        length = max(photo.frame for photo in turn) * len(turn) / (len(turn) - 1)
        for photo in turn:
            angle = (photo.frame / length + start) % 1.0
            for part, (low, high) in zip(split, (TRAIN_A_ARC, TRAIN_B_ARC, TEST_ARC), strict=True):
                if low <= angle < high:
                    part.append(photo)
    return split


def interleave(photos: dict[str, list[Photo]], order: list[str]) -> list[Photo]:
    """The photos of all varieties in rounds, one of each variety a round."""
    longest = max(len(group) for group in photos.values())
    return [photos[variety][i] for i in range(longest) for variety in order if i < len(photos[variety])]


def variety_order(photos: list[Photo], rng: np.random.Generator) -> list[str]:
    """Varieties in random order with the families spread evenly over it."""
    families = defaultdict(set)
    for photo in photos:
        families[photo.family].add(photo.variety)
    placed = []
    for family, varieties in sorted(families.items()):
        for rank, variety in enumerate(rng.permutation(sorted(varieties)).tolist()):
            placed.append(((rank + 0.5) / len(varieties), family, variety))
    return [variety for _, _, variety in sorted(placed)]


def split_photos(photos: list[Photo], counts: Counts, seed: int) -> Split:
    """The three parts, balanced over the varieties."""
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
    """The photos in random order."""
    return [photos[i] for i in rng.permutation(len(photos))]


def padded(photo: Photo) -> Image.Image:
    """The photo with its white frame."""
    try:
        with Image.open(photo.path) as image:
            return ImageOps.expand(image.convert("RGB"), border=PADDING, fill=(255, 255, 255))
    except OSError as error:
        raise SystemExit(f"{photo.path} cannot be read as an image ({error}): get it again") from error


def silhouette(image: Image.Image, side: int) -> np.ndarray:
    """The fruit's shape as a (side, side) mask: whatever is not background-white, its holes filled, smoothed."""
    white_distance = 255.0 - np.asarray(image, dtype=np.float64).min(axis=2)
    mask = ndimage.binary_fill_holes(white_distance > 14)
    labels = measure.label(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    mask = labels == sizes.argmax()
    smooth = np.asarray(Image.fromarray(np.uint8(255 * mask)).resize((side, side), Image.Resampling.BICUBIC))
    return ndimage.gaussian_filter(smooth / 255.0, 0.5 * OVERSAMPLING) > 0.5


def inner_lines(image: Image.Image, shape: np.ndarray) -> np.ndarray:
    """The strongest edges inside the fruit (stems, calyx, highlights), one pixel wide, without short scraps."""
    side = shape.shape[0]
    large = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC)) / 255.0
    lightness = color.rgb2lab(large)[..., 0] / 100.0
    inside = ndimage.distance_transform_edt(shape) > 4.5 * OVERSAMPLING
    # Thresholds that keep stems, calyxes and highlights and leave out the skin's texture.
    lines = feature.canny(lightness, sigma=1.6 * OVERSAMPLING, low_threshold=0.04, high_threshold=0.09, mask=inside)
    labels = measure.label(lines, connectivity=2)
    long = np.bincount(labels.ravel()) > 10 * OVERSAMPLING
    long[0] = False
    return long[labels]


def draw_edges(image: Image.Image) -> Image.Image:
    """Edge drawing of a padded photo: black outline and strongest inner lines on white, SIZE x SIZE, few grey levels.

    The outline is the silhouette's inner rim, so it is always closed.
    """
    side = SIZE * OVERSAMPLING
    width = LINE_WIDTH * OVERSAMPLING
    shape = silhouette(image, side)
    rim = shape & (ndimage.distance_transform_edt(shape) <= width)
    inner = ndimage.distance_transform_edt(~inner_lines(image, shape)) <= width / 2
    ink = (rim | inner).reshape(SIZE, OVERSAMPLING, SIZE, OVERSAMPLING).mean(axis=(1, 3))
    steps = np.rint((1.0 - ink) * (EDGE_LEVELS - 1)).astype(np.uint8)
    drawing = Image.fromarray(steps, mode="P")
    drawing.putpalette([round(255 * i / (EDGE_LEVELS - 1)) for i in range(EDGE_LEVELS) for _ in "RGB"])
    return drawing


def png_bytes(image: Image.Image) -> bytes:
    """The image as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True, bits=(EDGE_LEVELS - 1).bit_length())
    return buffer.getvalue()


def jpeg_bytes(image: Image.Image) -> bytes:
    """The padded photo as a JPEG of SIZE x SIZE."""
    buffer = io.BytesIO()
    reduced = image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    reduced.save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True, subsampling=0)
    return buffer.getvalue()


def file_stem(index: int, photo: Photo) -> str:
    """Position, variety, rotation ("r0" where the source names none) and frame, e.g. 0007_Cherry_Wax_2_r0_105."""
    return "_".join([f"{index:04d}", photo.variety, photo.rotation or "r0", str(photo.frame)])


def write_archive(split: Split, archive: Path) -> None:
    """Writes the zip (fixed time stamps, so the same input gives the same bytes) and the licence beside it."""
    licence = LICENCE.format(padding=PADDING)
    files = {"LICENSE.txt": licence.encode()}
    for index, photo in enumerate(split.train_a):
        files[f"trainA/{file_stem(index, photo)}.png"] = png_bytes(draw_edges(padded(photo)))
    for index, photo in enumerate(split.train_b):
        files[f"trainB/{file_stem(index, photo)}.jpg"] = jpeg_bytes(padded(photo))
    for index, photo in enumerate(split.test):
        files[f"testA/{file_stem(index, photo)}.png"] = png_bytes(draw_edges(padded(photo)))
        files[f"testB/{file_stem(index, photo)}.jpg"] = jpeg_bytes(padded(photo))
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as output:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            output.writestr(entry, content)
    archive.with_name(f"{archive.stem}_LICENSE.txt").write_text(licence, encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "photos", type=Path, help="folder of Fruits-360 photos: FAMILY/VARIETY__[ROTATION_]FRAME_100.jpg"
    )
    parser.add_argument("archive", type=Path, help="the zip to write")
    parser.add_argument("--train-per-variety", type=int, default=17, help="photos per variety and domain")
    parser.add_argument("--test-pairs", type=int, default=100, help="held-out pairs over all varieties")
    parser.add_argument("--seed", type=int, default=0, help="seed of the split")
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
