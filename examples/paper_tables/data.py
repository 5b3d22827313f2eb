"""Data sets for the tables, made from a folder of Fruits-360 photos: FAMILY/VARIETY__ROTATION_FRAME_100.jpg.

Each turn of the turntable is cut into arcs with gaps between them, by the rule of tools/make_demo_data.py. The training
data thus hold no test image and no frame next to one.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image

from fastmunit.metrics.classifier_training import labeled_images, split_by_blocks

FAMILIES = ("apple", "tomato", "cherry")
SIZE = 64
_MARKER = "made.json"
_JPEG_QUALITY = 95


def edges_data(photos: Path | None, output: Path, per_variety: int, test_pairs: int, seed: int) -> tuple[Path, Path]:
    """Make edge drawings and photos, and return two data roots: (unpaired, paired).

    In the unpaired data, the drawings are of other photos than those of trainB. In the paired data, trainA has the
    drawings of trainB under equal names. Both have the same test pairs. Data that exist already need neither photos nor
    scikit-image.

    Raises:
        SystemExit: If photos are missing, damaged, too few or wrongly named, or other photos made the existing data.
    """
    unpaired, paired = output / "edges_unpaired", output / "edges_paired"
    settings = {"per_variety": per_variety, "test_pairs": test_pairs, "seed": seed}
    missing = [root for root in (unpaired, paired) if not _is_made(root, photos, settings)]
    if missing:
        rule, source = _rule(), _require(photos, output)
        split = rule.split_photos(rule.list_photos(source), rule.Counts(per_variety, test_pairs), seed)
    for root in missing:
        with _whole(root, source, settings) as partial:
            for part, members, draw in (
                ("trainA", split.train_a if root == unpaired else split.train_b, True),
                ("trainB", split.train_b, False),
                ("testA", split.test, True),
                ("testB", split.test, False),
            ):
                (partial / part).mkdir()
                for index, photo in enumerate(members):
                    padded = rule.padded(photo)
                    image = rule.draw_edges(padded).convert("RGB") if draw else _small(padded)
                    image.save(partial / part / f"{rule.file_stem(index, photo)}.png")
    return unpaired, paired


def family_data(photos: Path | None, output: Path, seed: int, families: Iterable[str] = FAMILIES) -> dict[str, Path]:
    """Sort photos by family and variety, for table 2 and classifiers: FAMILY/{train,test}/VARIETY/….

    Data that exist already need neither photos nor scikit-image.

    Raises:
        SystemExit: If there are no photos of a family, and as `edges_data`.
        DataError: If there are too few varieties or photos for a classifier.
    """
    roots = {family: output / family for family in families}
    settings = {"seed": seed}
    for family, root in roots.items():
        if _is_made(root, photos, settings):
            continue
        rule, source = _rule(), _require(photos, output)
        members = [photo for photo in rule.list_photos(source) if photo.family == family]
        if not members:
            raise SystemExit(f"{source} has no photos of {family}: expected {source / family}/VARIETY__FRAME_100.jpg")
        rng = rule.np.random.default_rng(seed)
        with _whole(root, source, settings) as partial:
            for variety in sorted({photo.variety for photo in members}):
                parts = rule.arcs([photo for photo in members if photo.variety == variety], rng)
                _write(rule, partial / "train" / variety, [*parts.train_a, *parts.train_b])
                _write(rule, partial / "test" / variety, parts.test)
            split_by_blocks(labeled_images(partial / "train"))
            labeled_images(partial / "test")
    return roots


def facts(root: Path) -> dict[str, Any]:
    """Return the settings and photos that the data in `root` were made from."""
    try:
        found: dict[str, Any] = json.loads((root / _MARKER).read_text())
    except ValueError as error:
        raise SystemExit(f"{root / _MARKER} cannot be read ({error}): remove {root}.") from error
    return found


def _write(rule: ModuleType, folder: Path, photos: Iterable[Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for photo in photos:
        name = f"{photo.rotation or 'r0'}_{photo.frame:03d}.jpg"
        _small(rule.padded(photo)).save(folder / name, quality=_JPEG_QUALITY, subsampling=0)


def _small(image: Image.Image) -> Image.Image:
    return image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def _require(photos: Path | None, output: Path) -> Path:
    if photos is None:
        raise SystemExit(f"{output} does not hold all the data yet: give --data, the folder of photos.")
    return photos


def _source(photos: Path) -> dict[str, Any]:
    """Describe photos by their number and a hash of their names, so that data may move to another machine."""
    names = sorted(f"{path.parent.name}/{path.name}" for path in photos.glob("*/*.jpg"))
    return {"photos": len(names), "names": hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]}


def _is_made(root: Path, photos: Path | None, settings: dict[str, Any]) -> bool:
    if not root.exists():
        return False
    if not (root / _MARKER).is_file():
        raise SystemExit(f"{root} was not made by this program: give another --output, or remove it.")
    expected = settings | (_source(photos) if photos is not None else {})
    found = facts(root)
    differences = [f"{key} {found.get(key)}, not {value}" for key, value in expected.items() if found.get(key) != value]
    if differences:
        raise SystemExit(
            f"{root} was made with other settings ({'; '.join(differences)}): give another --output, or remove it."
        )
    return True


@contextmanager
def _whole(root: Path, photos: Path, settings: dict[str, Any]) -> Iterator[Path]:
    """Fill a folder and rename it to `root` at the end: `root` is complete or absent, even with several processes."""
    print(f"preparing {root}", flush=True)
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}.", dir=root.parent, ignore_cleanup_errors=True) as name:
        partial = Path(name) / root.name
        partial.mkdir()
        yield partial
        (partial / _MARKER).write_text(json.dumps(settings | _source(photos)))
        try:
            partial.rename(root)
        except OSError:  # another process was faster
            if not _is_made(root, photos, settings):
                raise


def _rule() -> ModuleType:
    """Import tools/make_demo_data.py, a program that is not part of the package."""
    try:
        from tools import make_demo_data
    except ImportError as error:
        raise SystemExit(
            f"preparing data needs scikit-image and scipy ({error}): pip install scikit-image, and run this in the "
            "root folder of the repository"
        ) from error
    return make_demo_data
