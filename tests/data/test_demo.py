"""The built-in demo data, unpaired and as pairs."""

import itertools
import zipfile
from collections import Counter
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from fastmunit import data
from fastmunit.config import Config
from fastmunit.data import list_images, read_image, unpack_demo, unpack_paired_demo
from fastmunit.data.images import decode_image
from fastmunit.errors import DataError, FastmunitError

ARCHIVE = resources.files("fastmunit.data") / "demo.zip"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack_demo(tmp_path_factory.mktemp("demo") / "deep" / "data")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack_paired_demo(tmp_path_factory.mktemp("demo") / "deep" / "pairs")


def photos(folder: Path) -> list[str]:
    """Return the names of the source photos: variety, rotation and frame, without the number in front."""
    return [path.stem.split("_", 1)[1] for path in list_images(folder)]


def variety(photo: str) -> str:
    return photo.rsplit("_", 2)[0]


def test_archive_is_small_and_contains_its_license(demo: Path) -> None:
    assert len(ARCHIVE.read_bytes()) <= 3_000_000
    license = (demo / "LICENSE.txt").read_text()
    for needed in ("CC BY-SA 4.0", "Mihai Oltean", "Fruits-360", "Changes made"):
        assert needed in license
    assert (resources.files("fastmunit.data") / "demo_LICENSE.txt").read_text() == license


def test_counts_and_disjoint_photos(demo: Path) -> None:
    parts = {name: photos(demo / name) for name in ("trainA", "trainB", "testA", "testB")}
    assert len(parts["trainA"]) >= 500
    assert len(parts["trainB"]) >= 500
    assert len(parts["testA"]) == 100
    assert parts["testA"] == parts["testB"]
    names = parts["trainA"] + parts["trainB"] + parts["testA"]
    assert len(set(names)) == len(names)


def test_varieties_are_the_same_and_balanced(demo: Path) -> None:
    per_part = {name: Counter(map(variety, photos(demo / name))) for name in ("trainA", "trainB", "testA")}
    assert set(per_part["trainA"]) == set(per_part["trainB"]) == set(per_part["testA"])
    for counts in per_part.values():
        assert max(counts.values()) - min(counts.values()) <= 1
    first = [variety(photo) for photo in photos(demo / "testA")[:16]]
    assert len(set(first)) == 16


def test_no_frame_is_a_neighbor_of_another_part(demo: Path) -> None:
    """Frames of a turn are numbered by time. Frames of different parts are at least 8 apart."""
    turns: dict[str, list[tuple[int, str]]] = {}
    for part in ("trainA", "trainB", "testA"):
        for photo in photos(demo / part):
            turn, frame = photo.rsplit("_", 1)
            turns.setdefault(turn, []).append((int(frame), part))
    for frames in turns.values():
        frames.sort()
        for (frame, part), (following, other) in itertools.pairwise(frames):
            assert part == other or following - frame >= 8


def test_drawings_are_gray_lines_and_photos_have_a_white_background(demo: Path) -> None:
    for path in list_images(demo / "testA")[:20]:
        drawing = read_image(path, 3)
        assert drawing.shape == (3, 64, 64)
        assert (drawing[0] == drawing[1]).all()
        ink = (drawing < 0).float().mean()
        assert 0.02 < ink < 0.35
    for path in list_images(demo / "testB")[:20]:
        photo = read_image(path, 3)
        assert photo.shape == (3, 64, 64)
        assert photo[:, 0, 0].min() > 0.8  # white background
        assert photo[:, 32, 32].min() < 0.8


def test_demo_passes_its_check(demo: Path) -> None:
    data.check(
        Config(
            data_root=str(demo), new_size=64, crop_image_height=64, crop_image_width=64, batch_size=4, display_size=8
        )
    )


def test_unpacking_twice_repairs_and_keeps(tmp_path: Path) -> None:
    root = unpack_demo(tmp_path / "data")
    victim, kept = list_images(root / "trainB")[:2]
    content, stamp = victim.read_bytes(), kept.stat().st_mtime_ns
    victim.write_bytes(b"short")
    list_images(root / "testA")[0].unlink()
    (root / "notes.txt").write_text("mine")
    assert unpack_demo(root) == root
    assert victim.read_bytes() == content
    assert kept.stat().st_mtime_ns == stamp
    assert len(list_images(root / "testA")) == 100
    assert (root / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("unpack", [unpack_demo, unpack_paired_demo])
def test_an_interrupted_unpacking_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unpack: Callable[[Path], Path]
) -> None:
    def fail(self: zipfile.ZipFile, *_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "extractall", fail)
    with pytest.raises(FastmunitError, match=r"cannot unpack the demo data into .*No space left"):
        unpack(tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_other_images_are_not_mixed_in(tmp_path: Path) -> None:
    (tmp_path / "trainA").mkdir()
    (tmp_path / "trainA" / "cat.jpg").touch()
    with pytest.raises(DataError, match=r"cat\.jpg is not part of the demo data"):
        unpack_demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["trainA"]
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is a file"):
        unpack_demo(tmp_path / "file")


def test_pairs_and_unpaired_data_are_not_mixed(demo: Path, pairs: Path) -> None:
    for unpack, folder in ((unpack_paired_demo, demo), (unpack_demo, pairs)):
        with pytest.raises(DataError, match=r"trainA.* is not part of the demo data: give an empty or new folder"):
            unpack(folder)


def test_pairs_have_the_photos_of_the_demo_and_a_drawing_of_each(demo: Path, pairs: Path) -> None:
    assert sorted(path.name for path in pairs.iterdir()) == ["LICENSE.txt", "testA", "testB", "trainA", "trainB"]
    assert [path.name for path in pairs.parent.iterdir()] == ["pairs"]
    config = Config.load("demo", ["pairs=folders", f"data_root={pairs}"])
    data.check(config)
    a, b = data.training_datasets(config)
    assert len(a.paths) == 816
    assert [path.stem for path in a.paths] == [path.stem for path in b.paths]
    for folder in ("testA", "trainB", "testB"):
        for ours, theirs in zip(list_images(pairs / folder), list_images(demo / folder), strict=True):
            assert (ours.name, ours.read_bytes()) == (theirs.name, theirs.read_bytes())


def test_drawings_of_pairs_show_the_shape_of_their_photos(pairs: Path) -> None:
    """The photo changes from white to fruit nearby."""
    for drawn, photo in zip(list_images(pairs / "trainA")[::20], list_images(pairs / "trainB")[::20], strict=True):
        fruit = decode_image(photo, 3).min(dim=0).values < 255 - 40
        ink = decode_image(drawn, 1)[0] < 128
        rows, columns = fruit.any(1).nonzero(), fruit.any(0).nonzero()
        drawn_rows, drawn_columns = ink.any(1).nonzero(), ink.any(0).nonzero()
        for one, other in ((rows, drawn_rows), (columns, drawn_columns)):
            assert abs(int(one[0]) - int(other[0])) <= 3
            assert abs(int(one[-1]) - int(other[-1])) <= 3


def test_outlines_of_pairs_are_closed(pairs: Path) -> None:
    """No path over white paper leads from the corner to the center of the fruit."""
    ndimage = pytest.importorskip("scipy.ndimage")
    for path in list_images(pairs / "trainA")[::10]:
        drawing = decode_image(path, 1)[0].numpy()
        assert drawing.shape == (64, 64)
        assert set(np.unique(drawing)) <= {0, 85, 170, 255}
        regions, count = ndimage.label(drawing > 127)
        sizes = np.bincount(regions.ravel())
        assert count >= 2
        assert sizes[1:].max() < 0.9 * sizes[1:].sum()
        assert regions[0, 0] == regions[-1, -1] != regions[32, 32]


def test_unpacking_pairs_twice_repairs_and_keeps(tmp_path: Path) -> None:
    root = unpack_paired_demo(tmp_path / "pairs")
    victim, kept = list_images(root / "trainA")[:2]
    content, stamp = victim.read_bytes(), kept.stat().st_mtime_ns
    victim.unlink()
    assert unpack_paired_demo(root) == root
    assert victim.read_bytes() == content
    assert kept.stat().st_mtime_ns == stamp
    assert [path.name for path in tmp_path.iterdir()] == ["pairs"]
