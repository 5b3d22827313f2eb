import itertools
import zipfile
from collections import Counter
from importlib import resources
from pathlib import Path

import pytest

from fastmunit import data
from fastmunit.config import Config
from fastmunit.data import list_images, read_image, unpack_demo
from fastmunit.errors import DataError, FastmunitError

ARCHIVE = resources.files("fastmunit.data") / "demo.zip"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack_demo(tmp_path_factory.mktemp("demo") / "deep" / "data")


def photos(folder: Path) -> list[str]:
    """Names of the source photos: variety, rotation and frame, without the number in front."""
    return [path.stem.split("_", 1)[1] for path in list_images(folder)]


def variety(photo: str) -> str:
    return photo.rsplit("_", 2)[0]


def test_archive_is_small_and_carries_its_licence(demo: Path) -> None:
    assert len(ARCHIVE.read_bytes()) <= 3_000_000
    licence = (demo / "LICENSE.txt").read_text()
    for needed in ("CC BY-SA 4.0", "Mihai Oltean", "Fruits-360", "Changes made"):
        assert needed in licence
    assert (resources.files("fastmunit.data") / "demo_LICENSE.txt").read_text() == licence


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


def test_no_frame_is_a_neighbour_of_another_part(demo: Path) -> None:
    """Frames of one turn are numbered by time; those of different parts keep a distance."""
    turns: dict[str, list[tuple[int, str]]] = {}
    for part in ("trainA", "trainB", "testA"):
        for photo in photos(demo / part):
            turn, frame = photo.rsplit("_", 1)
            turns.setdefault(turn, []).append((int(frame), part))
    for frames in turns.values():
        frames.sort()
        for (frame, part), (following, other) in itertools.pairwise(frames):
            assert part == other or following - frame >= 8


def test_images_are_what_they_should_be(demo: Path) -> None:
    for path in list_images(demo / "testA")[:20]:
        drawing = read_image(path, 3)
        assert drawing.shape == (3, 64, 64)
        assert (drawing[0] == drawing[1]).all()
        ink = (drawing < 0).float().mean()
        assert 0.02 < ink < 0.35
    for path in list_images(demo / "testB")[:20]:
        photo = read_image(path, 3)
        assert photo.shape == (3, 64, 64)
        assert photo[:, 0, 0].min() > 0.8  # white ground
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


def test_an_interrupted_unpacking_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: zipfile.ZipFile, *_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "extractall", fail)
    with pytest.raises(FastmunitError, match=r"cannot unpack the demo data into .*No space left"):
        unpack_demo(tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_other_images_are_not_mixed_in(tmp_path: Path) -> None:
    (tmp_path / "trainA").mkdir()
    (tmp_path / "trainA" / "cat.jpg").touch()
    with pytest.raises(DataError, match=r"cat\.jpg is not of the demo data"):
        unpack_demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["trainA"]
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is a file"):
        unpack_demo(tmp_path / "file")
