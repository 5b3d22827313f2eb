"""The data of the tables in miniature, from a folder of Fruits-360 photos: FAMILY/VARIETY__ROTATION_FRAME_100.jpg.

Each turn of the turntable is cut into arcs with gaps between them by the rule of tools/make_demo_data.py, so that no
test image, and no neighbouring frame of one, is in the training data.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image

FAMILIES = ("apple", "tomato", "cherry")
SIZE = 64
_MARKER = "made.json"
_JPEG_QUALITY = 95


def edges_data(photos: Path, output: Path, per_variety: int, test_pairs: int, seed: int) -> tuple[Path, Path]:
    """Edge drawings and photos, as two data roots: (unpaired, paired).

    Unpaired, the drawings are of other photos than those of trainB. Paired, trainA has the drawings of trainB, under
    equal names. The test pairs are the same.
    """
    rule = _rule()
    unpaired, paired = output / "edges_unpaired", output / "edges_paired"
    settings = {"photos": str(photos), "per_variety": per_variety, "test_pairs": test_pairs, "seed": seed}
    if _is_made(unpaired, settings) and _is_made(paired, settings):
        return unpaired, paired
    split = rule.split_photos(rule.list_photos(photos), rule.Counts(per_variety, test_pairs), seed)
    for root, drawn in ((unpaired, split.train_a), (paired, split.train_b)):
        for part, members, draw in (
            ("trainA", drawn, True),
            ("trainB", split.train_b, False),
            ("testA", split.test, True),
            ("testB", split.test, False),
        ):
            (root / part).mkdir(parents=True, exist_ok=True)
            for index, photo in enumerate(members):
                padded = rule.padded(photo)
                image = rule.draw_edges(padded).convert("RGB") if draw else _small(padded)
                image.save(root / part / f"{rule.file_stem(index, photo)}.png")
        _mark(root, settings)
    return unpaired, paired


def family_data(photos: Path, output: Path, seed: int) -> dict[str, Path]:
    """Photos by family and variety: FAMILY/train/VARIETY/… and FAMILY/test/VARIETY/…, for table 2 and classifiers."""
    rule = _rule()
    settings = {"photos": str(photos), "seed": seed}
    everything = rule.list_photos(photos)
    roots = {}
    for family in FAMILIES:
        root = roots[family] = output / family
        if _is_made(root, settings):
            continue
        members = [photo for photo in everything if photo.family == family]
        if not members:
            raise SystemExit(f"{photos} has no photos of {family}: expected {photos / family}/VARIETY__FRAME_100.jpg")
        rng = rule.np.random.default_rng(seed)
        for variety in sorted({photo.variety for photo in members}):
            parts = rule.arcs([photo for photo in members if photo.variety == variety], rng)
            _write(rule, root / "train" / variety, [*parts.train_a, *parts.train_b])
            _write(rule, root / "test" / variety, parts.test)
        _mark(root, settings)
    return roots


def _write(rule: ModuleType, folder: Path, photos: Iterable[Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for photo in photos:
        name = f"{photo.rotation or 'r0'}_{photo.frame:03d}.jpg"
        _small(rule.padded(photo)).save(folder / name, quality=_JPEG_QUALITY, subsampling=0)


def _small(image: Image.Image) -> Image.Image:
    return image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def _is_made(root: Path, settings: dict[str, object]) -> bool:
    marker = root / _MARKER
    if not marker.is_file():
        return False
    if json.loads(marker.read_text()) != settings:
        raise SystemExit(f"{root} was made with other settings: give another --output, or remove it.")
    return True


def _mark(root: Path, settings: dict[str, object]) -> None:
    """Written last: a folder without it is made again."""
    (root / _MARKER).write_text(json.dumps(settings))


def _rule() -> ModuleType:
    """tools/make_demo_data.py, which is a program and not part of the package."""
    path = Path(__file__).parents[1] / "tools" / "make_demo_data.py"
    spec = importlib.util.spec_from_file_location("make_demo_data", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise SystemExit(f"{path} is missing: run this from a checkout of the repository.")
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_demo_data"] = module
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        raise SystemExit(f"drawing edges needs scikit-image and scipy ({error}): pip install scikit-image") from error
    return module
