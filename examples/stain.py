"""Separate the stains of a large slide: RGB → hematoxylin and DAB, on a pyramidal OME-TIFF that is read by region.

    pip install "fastmunit[tiff]" scikit-image
    python -m examples.stain --minutes 1                  # a slide of 1,024 x 1,024 pixels
    python -m examples.stain --minutes 2 --side 10000

Run it in the root folder of the repository; run it again to train for longer. The slide repeats a picture of
scikit-image (immunohistochemistry: "No known copyright restrictions"), mirrored at each repetition so that borders
match. Domain B has its hematoxylin and DAB channels by color deconvolution, as 32-bit floats. Nothing tells the
training that regions of A and B belong to each other.

Comes out, in the folder --output:

- trainA/slide.ome.tif and trainB/stains.ome.tif, the slide and its channels;
- run/, the training; translated/slide_style00.ome.tif, the two channels as the model sees them;
- stain.jpg: a crop of the slide, its DAB channel, the translation of each tile alone, and that of the whole slide.

It prints the correlation with the color deconvolution, and the mean jump across the borders of tiles relative to the
mean jump next to them. A ratio near 1 means that there is no seam.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import fastmunit
from examples.scientific import correlation, gray, needed, save_panels, train, translate
from fastmunit import Config
from fastmunit.data import PixelValues
from fastmunit.errors import FastmunitError
from fastmunit.files import atomic_write
from fastmunit.image_files.open import open_image
from fastmunit.region import Region

TILE = 256
"""Side of the tiles of the files."""
SHOWN, CORNER = 288, 200
"""Side of the crop in the picture, and its first row and column."""
NAIVE_TILE = 96
"""Side of the tiles that are translated alone."""


def stains() -> tuple[np.ndarray, np.ndarray]:
    """Return the picture (512, 512, 3) uint8, and its hematoxylin and DAB channels (512, 512, 2) float32."""
    skimage_data, color = needed("skimage.data", "scikit-image"), needed("skimage.color", "scikit-image")
    picture = skimage_data.immunohistochemistry()
    return picture, color.rgb2hed(picture)[..., [0, 2]].astype(np.float32)


def mirrored(picture: np.ndarray, rows: range, columns: range) -> np.ndarray:
    """Return a part of the plane that repeats a picture (H, W, C), mirrored at each repetition."""
    indices = (
        np.where((at := np.asarray(wanted) % (2 * size)) < size, at, 2 * size - 1 - at)
        for wanted, size in zip((rows, columns), picture.shape, strict=False)
    )
    return picture[np.ix_(*indices)]


def halved(picture: np.ndarray) -> np.ndarray:
    """Return a picture (H, W, C) of half the size, the means of 2 x 2 pixels."""
    height, width, channels = picture.shape
    means = picture.reshape(height // 2, 2, width // 2, 2, channels).mean(axis=(1, 3))
    return (np.rint(means) if picture.dtype.kind == "u" else means).astype(picture.dtype)


def write_slide(path: Path, picture: np.ndarray, side: int, names: list[str]) -> None:
    """Write the repeated picture (H, W, C) as a pyramidal OME-TIFF of side x side pixels, tile by tile.

    Args:
        path: The file.
        picture: RGB, or channels that are stored as pages.
        side: Height and width.
        names: Names of channels that are not RGB.
    """
    tifffile = needed("tifffile", '"fastmunit[tiff]"')
    rgb = picture.shape[2] == 3
    levels = [(picture, side)]
    while levels[-1][1] > 2 * TILE:
        levels.append((halved(levels[-1][0]), levels[-1][1] // 2))
    axes = {"axes": "YXS"} if rgb else {"axes": "CYX", "Channel": {"Name": names}}
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        atomic_write(path) as file,
        tifffile.TiffWriter(tifffile.FileHandle(file, name=path.name), bigtiff=True, ome=True) as tiff,
    ):
        for number, (level, length) in enumerate(levels):
            tiff.write(
                tiles(level, length),
                shape=(length, length, 3) if rgb else (level.shape[2], length, length),
                dtype=level.dtype,
                tile=(TILE, TILE),
                photometric="rgb" if rgb else "minisblack",
                compression="adobe_deflate",
                metadata=axes if number == 0 else None,
                **({"subifds": len(levels) - 1} if number == 0 else {"subfiletype": 1}),
            )


def tiles(picture: np.ndarray, side: int) -> Iterator[np.ndarray]:
    """Yield the tiles of a level, row by row: of RGB pixels, or of one channel after the other."""
    for planes in [picture] if picture.shape[2] == 3 else np.split(picture, picture.shape[2], axis=2):
        for top in range(0, side, TILE):
            for left in range(0, side, TILE):
                tile = mirrored(planes, range(top, min(top + TILE, side)), range(left, min(left + TILE, side)))
                yield np.ascontiguousarray(tile if tile.shape[2] == 3 else tile[..., 0])


def translate_tiles(run: Path, pixels: np.ndarray) -> np.ndarray:
    """Translate each tile of an image (H, W, 3) alone, as if there were no other. Return the channels (2, H, W)."""
    translator = fastmunit.load_translator(run)
    values = PixelValues.of(Config.load(run / "config.yaml"), "b").range_of(np.dtype(np.float32), None, "translation")
    height, width = pixels.shape[:2]
    channels = np.empty((2, height, width), np.float32)
    for top in range(0, height, NAIVE_TILE):
        for left in range(0, width, NAIVE_TILE):
            rows, columns = slice(top, top + NAIVE_TILE), slice(left, left + NAIVE_TILE)
            output = fastmunit.translate(translator, pixels[rows, columns], styles=1)
            channels[:, rows, columns] = values.from_network(output[0], np.float32)
    return channels


def seam_ratio(image: np.ndarray) -> float:
    """Return the mean jump across borders of tiles in an image (H, W), relative to jumps next to them.

    The latter are 4 and 8 pixels away, where up-sampled pixels have the same phase.
    """
    across: list[np.ndarray] = []
    near: list[np.ndarray] = []
    for axis in (0, 1):
        jumps = np.moveaxis(np.abs(np.diff(image, axis=axis)), axis, 0)
        for border in range(NAIVE_TILE - 1, len(jumps), NAIVE_TILE):
            across.append(jumps[border])
            near += [jumps[border + distance] for distance in (-8, -4, 4, 8) if border + distance < len(jumps)]
    return float(np.mean(across) / np.mean(near))


def compare(run: Path, slide: Path, stain_file: Path, translated: Path, picture: Path) -> dict[str, float]:
    """Write the picture of a crop of the slide, and return the figures that are printed."""
    with open_image(slide) as reader:
        side = min(SHOWN, reader.height)
        corner = min(CORNER, reader.height - side)
        region = Region(corner, corner, side, side)
        pixels = np.ascontiguousarray(reader.read(region).transpose(1, 2, 0))
    with open_image(stain_file) as reader:
        target = reader.read(region)[1]
    with open_image(translated) as reader:
        ours = reader.read(region)[1]
    alone = translate_tiles(run, pixels)[1]
    low, high = np.percentile(target, (0.5, 99.5))
    panels = [pixels, *(gray(image, low, high) for image in (target, alone, ours))]
    save_panels(picture, [panels], ["slide", "DAB, color deconvolution", "DAB, each tile alone", "DAB, whole slide"])
    return {
        "correlation with color deconvolution": correlation(ours, target),
        "correlation of tiles translated alone": correlation(alone, target),
        "jump at borders, tiles translated alone": seam_ratio(alone),
        "jump at borders, whole slide": seam_ratio(ours),
        "jump at borders, color deconvolution": seam_ratio(target),
    }


def main(
    output: Annotated[Path, typer.Option("--output", "-o", help="Write everything into this folder.")] = Path(
        "runs/stain"
    ),
    side: Annotated[int, typer.Option(min=NAIVE_TILE, help="Make a slide of this height and width.")] = 1024,
    minutes: Annotated[float, typer.Option(min=0.001, help="Train for this time.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights and crops.")] = 0,
) -> None:
    """Write a slide and its stains, train, translate the slide, and compare tiles with the whole slide."""
    try:
        figures = separate(output, side, minutes, seed)
    except FastmunitError as error:
        raise SystemExit(f"error: {error}") from error
    for name, value in figures.items():
        print(f"{name}: {value:.3f}")
    print(f"Look at {output / 'stain.jpg'}.")


def separate(output: Path, side: int, minutes: float, seed: int) -> dict[str, float]:
    """Do everything, and return the figures. The arguments are the options of `main`."""
    slide, stain_file = output / "trainA" / "slide.ome.tif", output / "trainB" / "stains.ome.tif"
    picture, channels = stains()
    write_slide(slide, picture, side, [])
    write_slide(stain_file, channels, side, ["Hematoxylin", "DAB"])
    # With a value range, the slide is read by region. Without one, Pillow reads a small one as a single picture.
    changes = {"input_dim_a": 3, "value_range_a": [0, 255], "background_a": "none"}
    changes |= {"input_dim_b": 2, "value_range_b": "auto", "background_b": "none"}
    run = train(output, minutes, seed, changes)
    translated = translate(run, slide, output / "translated", "--styles", "1")[0]
    return compare(run, slide, stain_file, translated, output / "stain.jpg")


if __name__ == "__main__":
    typer.run(main)
