"""The data of the tables in miniature, from a folder of Fruits-360 photos: FAMILY/VARIETY__ROTATION_FRAME_100.jpg.

Each turn of the turntable is cut into arcs with gaps between them by the rule of tools/make_demo_data.py, so that no
test image, and no neighbouring frame of one, is in the training data.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image

from fastmunit.metrics.classifier import labelled_images, split_by_blocks

FAMILIES = ("apple", "tomato", "cherry")
SIZE = 64
_MARKER = "made.json"
_JPEG_QUALITY = 95


def edges_data(photos: Path | None, output: Path, per_variety: int, test_pairs: int, seed: int) -> tuple[Path, Path]:
    """Edge drawings and photos, as two data roots: (unpaired, paired).

    Unpaired, the drawings are of other photos than those of trainB. Paired, trainA has the drawings of trainB, under
    equal names. The test pairs are the same. Data that are there already need neither photos nor scikit-image.

    Raises:
        SystemExit: the photos are missing, damaged, too few or named otherwise, or others made what is there.
    """
    unpaired, paired = output / "edges_unpaired", output / "edges_paired"
    settings = {"per_variety": per_variety, "test_pairs": test_pairs, "seed": seed}
    wanted = [root for root in (unpaired, paired) if not _is_made(root, photos, settings)]
    if wanted:
        rule, everything = _rule(), _require(photos, output)
        split = rule.split_photos(rule.list_photos(everything), rule.Counts(per_variety, test_pairs), seed)
    for root in wanted:
        with _whole(root, everything, settings) as partial:
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
    """Photos by family and variety: FAMILY/train/VARIETY/… and FAMILY/test/VARIETY/…, for table 2 and classifiers.

    Data that are there already need neither photos nor scikit-image.

    Raises:
        SystemExit: there are no photos of a family, or as of `edges_data`.
        DataError: too few varieties or photos for a classifier of them.
    """
    roots = {family: output / family for family in families}
    settings = {"seed": seed}
    for family, root in roots.items():
        if _is_made(root, photos, settings):
            continue
        rule, everything = _rule(), _require(photos, output)
        members = [photo for photo in rule.list_photos(everything) if photo.family == family]
        if not members:
            raise SystemExit(
                f"{photos} has no photos of {family}: expected {everything / family}/VARIETY__FRAME_100.jpg"
            )
        rng = rule.np.random.default_rng(seed)
        with _whole(root, everything, settings) as partial:
            for variety in sorted({photo.variety for photo in members}):
                parts = rule.arcs([photo for photo in members if photo.variety == variety], rng)
                _write(rule, partial / "train" / variety, [*parts.train_a, *parts.train_b])
                _write(rule, partial / "test" / variety, parts.test)
            split_by_blocks(labelled_images(partial / "train"))
            labelled_images(partial / "test")
    return roots


def facts(root: Path) -> dict[str, Any]:
    """What the data in `root` were made from, and how."""
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
    """Which photos: their number and a hash of their names, so that data may move to another machine."""
    names = sorted(f"{path.parent.name}/{path.name}" for path in photos.glob("*/*.jpg"))
    return {"photos": len(names), "names": hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]}


def _is_made(root: Path, photos: Path | None, settings: dict[str, Any]) -> bool:
    if not root.exists():
        return False
    if not (root / _MARKER).is_file():
        raise SystemExit(f"{root} was not made by this program: give another --output, or remove it.")
    wanted = settings | (_source(photos) if photos is not None else {})
    found = facts(root)
    other = [f"{key} {found.get(key)}, not {value}" for key, value in wanted.items() if found.get(key) != value]
    if other:
        raise SystemExit(
            f"{root} was made with other settings ({'; '.join(other)}): give another --output, or remove it."
        )
    return True


@contextmanager
def _whole(root: Path, photos: Path, settings: dict[str, Any]) -> Iterator[Path]:
    """A folder to fill, renamed to `root` at the end: whole or absent, also when several processes make it at once."""
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
