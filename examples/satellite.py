"""Translate scenes of one sensor into those of another, and measure whether styles recover the other sensor's gain.

    pip install "fastmunit[tiff]"
    python -m examples.satellite --minutes 1.5

Run it in the root folder of the repository; run it again to train for longer. The scenes are made here: water, plants
and soil with four bands. Sensor A stores 10,000 times the reflectance as 16-bit integers, with 0 where it saw nothing.
Sensor B stores gain * reflectance + offset as 32-bit floats, with another gain and offset for every scene. Both are
GeoTIFFs. The networks never see gains and offsets.

Comes out, in the folder --output:

- trainA/ and trainB/, the scenes; held_out/, more scenes of B; gains.json, gain and offset of each scene of B;
- run/, the training; translated/scene_reference00.tif and 01, a scene of A in the styles of the held-out scenes of B
  with the lowest and the highest gain: 32-bit floats with the georeference of A, and without data where A has none;
- satellite.jpg: that scene, both references, both translations.

It prints two correlations over the held-out scenes:

- gains predicted from style codes with true gains. The prediction is linear, fitted on the scenes of trainB. The same
  with networks that are not trained is printed, too;
- the mean of a scene of A translated in the style of a scene of B with the mean that B's gain and offset would give.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import typer

import fastmunit
from examples.scientific import correlation, needed, save_panels, train, translate
from fastmunit import Config
from fastmunit.data import PixelValues, ValueRange
from fastmunit.errors import FastmunitError
from fastmunit.files import atomic_write, write_text
from fastmunit.image_files.open import open_image
from fastmunit.systems.translators import Translator

SIDE = 192
SPECTRA = np.array([[0.06, 0.05, 0.03, 0.01], [0.03, 0.07, 0.04, 0.42], [0.10, 0.16, 0.24, 0.30]])
"""Reflectance of water, plants and soil in the bands blue, green, red and near infrared."""
SCALE = 10_000
"""Stored values of sensor A per unit of reflectance."""
DOMAIN = {"input_dim": 4, "value_range": "auto", "background": "none"}
"""Keys of the configuration for each domain."""
COUNTS = {"trainA": 6, "trainB": 24, "held_out": 12}


class Sensor(NamedTuple):
    """The calibration of a scene: stored value = gain * reflectance + offset."""

    gain: float
    offset: float


def landscape(random: np.random.Generator) -> np.ndarray:
    """Return the reflectance of a random scene (4, SIDE, SIDE)."""
    height, cover = (smooth_noise(random, cells) for cells in (5, 9))
    shares = np.stack([height < -0.3, (height >= -0.3) & (cover > 0), (height >= -0.3) & (cover <= 0)])
    texture = 1 + 0.15 * smooth_noise(random, 48)
    return np.tensordot(SPECTRA.T, shares.astype(np.float64), 1) * texture


def smooth_noise(random: np.random.Generator, cells: int) -> np.ndarray:
    """Return noise (SIDE, SIDE) with about `cells` bumps per side, mean 0 and standard deviation 1 before smoothing."""
    coarse = torch.from_numpy(random.standard_normal((1, 1, cells, cells)))
    return F.interpolate(coarse, size=(SIDE, SIDE), mode="bicubic", align_corners=False)[0, 0].numpy()


def write_scene(path: Path, bands: np.ndarray, nodata: str | None, east: float) -> None:
    """Write bands (4, H, W) as a tiled GeoTIFF in UTM zone 32N, 10 m per pixel, whose left edge is at `east`."""
    tifffile = needed("tifffile", '"fastmunit[tiff]"')
    keys = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32632)
    tags: list[tuple[int, str, int, object, bool]] = [
        (33550, "d", 3, (10.0, 10.0, 0.0), True),
        (33922, "d", 6, (0.0, 0.0, 0.0, east, 5_300_000.0, 0.0), True),
        (34735, "H", len(keys), keys, True),
    ]
    if nodata is not None:
        tags.append((42113, "s", 0, nodata, True))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        tifffile.imwrite(
            tifffile.FileHandle(file, name=path.name),
            np.ascontiguousarray(bands.transpose(1, 2, 0)),
            photometric="minisblack",
            planarconfig="contig",
            tile=(64, 64),
            compression="adobe_deflate",
            metadata=None,
            extratags=tags,
        )


def write_scenes(folder: Path, seed: int) -> dict[str, Sensor]:
    """Write all scenes. Return the calibration of those of sensor B, by their paths in `folder`."""
    random = np.random.default_rng(seed)
    calibrations: dict[str, Sensor] = {}
    for part, count in COUNTS.items():
        for number in range(count):
            path = folder / part / f"scene_{number:02d}.tif"
            reflectance = landscape(random)
            if part == "trainA":
                values = np.rint(SCALE * reflectance).clip(1, 65535).astype(np.uint16)
                values[:, np.add.outer(np.arange(SIDE), np.arange(SIDE)) < SIDE // 4] = 0
                write_scene(path, values, "0", east=500_000.0 + 2_000 * number)
            else:
                sensor = Sensor(float(random.uniform(0.6, 1.4)), float(random.uniform(0, 0.05)))
                values = (sensor.gain * reflectance + sensor.offset).astype(np.float32)
                write_scene(path, values, None, east=700_000.0 + 2_000 * number)
                calibrations[path.relative_to(folder).as_posix()] = sensor
    write_text(folder / "gains.json", json.dumps({name: s._asdict() for name, s in calibrations.items()}, indent=1))
    return calibrations


def style_codes(translator: Translator, values: ValueRange, files: Sequence[Path]) -> np.ndarray:
    """Return the style codes (N, style_dim) of scenes of sensor B."""
    codes = []
    for file in files:
        with open_image(file) as reader:
            codes.append(translator.style_of(values.to_network(reader.read())).flatten())
    return torch.stack(codes).cpu().numpy()


def predicted_gains(codes: np.ndarray, gains: np.ndarray, new_codes: np.ndarray) -> np.ndarray:
    """Estimate the gains of new codes (M, style_dim) by least squares on codes (N, style_dim) with known gains (N,)."""
    weights = np.linalg.lstsq(np.column_stack([codes, np.ones(len(codes))]), gains, rcond=None)[0]
    return np.column_stack([new_codes, np.ones(len(new_codes))]) @ weights


def measure(folder: Path, run: Path, calibrations: dict[str, Sensor]) -> dict[str, float]:
    """Return the correlations that are printed."""
    config = Config.load(run / "config.yaml")
    values = PixelValues.of(config, "b").range_of(np.dtype(np.float32), None, "sensor B")
    known, new = (sorted(name for name in calibrations if name.startswith(part)) for part in ("trainB", "held_out"))
    gains, true_gains = (np.array([calibrations[name].gain for name in names]) for names in (known, new))
    torch.manual_seed(config.seed)
    trained, untrained = fastmunit.load_translator(run), fastmunit.MUNIT(config).evaluation_translator("a2b")
    figures = {}
    for label, translator in (("trained", trained), ("not trained", untrained)):
        codes, new_codes = (style_codes(translator, values, [folder / n for n in names]) for names in (known, new))
        figures[f"correlation of predicted gains, {label}"] = correlation(
            predicted_gains(codes, gains, new_codes), true_gains
        )
    scene = folder / "trainA" / "scene_00.tif"
    with open_image(scene) as reader:
        stored = reader.read()
    seen = (stored != 0).all(axis=0)
    reflectance = stored[:, seen].mean() / SCALE
    outputs = fastmunit.translate(trained, scene, styles=[folder / name for name in new])
    means = [values.from_network(output, np.float32)[:, seen].mean() for output in outputs]
    expected = [calibrations[name].gain * reflectance + calibrations[name].offset for name in new]
    return figures | {"correlation of means of translations": correlation(np.array(means), np.array(expected))}


def composite(path: Path, brightest: float) -> np.ndarray:
    """Return the bands near infrared, red and green of a scene as RGB (H, W, 3) uint8."""
    with open_image(path) as reader:
        bands = np.nan_to_num(reader.read()[[3, 2, 1]].astype(np.float64))
    return np.rint(255 * np.clip(bands / brightest, 0, 1) ** 0.7).astype(np.uint8).transpose(1, 2, 0)


def main(
    output: Annotated[Path, typer.Option("--output", "-o", help="Write everything into this folder.")] = Path(
        "runs/satellite"
    ),
    minutes: Annotated[float, typer.Option(min=0.001, help="Train for this time.")] = 1.5,
    seed: Annotated[int, typer.Option(min=0, help="Seed of scenes, weights and crops.")] = 0,
) -> None:
    """Write scenes of two sensors, train, translate a scene, and measure the styles."""
    try:
        figures = calibrate(output, minutes, seed)
    except FastmunitError as error:
        raise SystemExit(f"error: {error}") from error
    for name, value in figures.items():
        print(f"{name}: {value:.3f}")
    print(f"Look at {output / 'satellite.jpg'}.")


def calibrate(output: Path, minutes: float, seed: int) -> dict[str, float]:
    """Do everything, and return the figures. The arguments are the options of `main`."""
    calibrations = write_scenes(output, seed)
    changes = {f"{key}_{domain}": value for domain in "ab" for key, value in DOMAIN.items()}
    run = train(output, minutes, seed, changes)
    held_out = sorted((name for name in calibrations if "held_out" in name), key=lambda name: calibrations[name].gain)
    references = [output / held_out[0], output / held_out[-1]]
    scene = output / "trainA" / "scene_00.tif"
    options = [part for reference in references for part in ("--reference", str(reference))]
    translations = translate(run, scene, output / "translated", *options)
    panels = [composite(scene, 0.5 * SCALE), *(composite(path, 0.6) for path in (*references, *translations))]
    captions = ["sensor A", "B, low gain", "B, high gain", "A as low gain", "A as high gain"]
    save_panels(output / "satellite.jpg", [panels], captions)
    return measure(output, run, calibrations)


if __name__ == "__main__":
    typer.run(main)
