"""Edge drawings of the demo's photos, and the pairs they make."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fastmunit import data
from fastmunit.config import Config
from fastmunit.data import demo as demo_module
from fastmunit.data import drawing, list_images, unpack_demo, unpack_paired_demo
from fastmunit.data.images import decode_image
from fastmunit.errors import DataError, FastmunitError


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack_demo(tmp_path_factory.mktemp("demo") / "data")


def pairs(demo: Path, every: int) -> tuple[Tensor, Tensor]:
    """Held-out photos and the drawings of the archive, made from the larger originals."""
    photos = torch.stack([decode_image(path, 3) for path in list_images(demo / "testB")[::every]])
    return photos, torch.stack([decode_image(path, 1) for path in list_images(demo / "testA")[::every]])


def test_drawings_are_those_of_the_archive(demo: Path) -> None:
    photos, archive = pairs(demo, 5)
    drawn = drawing.draw_edges(photos)
    assert drawn.shape == archive.shape
    assert drawn.dtype == torch.uint8
    assert set(drawn.unique().tolist()) <= {0, 85, 170, 255}
    difference = (drawn.float() - archive.float()).abs().mean(dim=(1, 2, 3)) / 255
    others = (drawn.float() - archive.roll(1, 0).float()).abs().mean(dim=(1, 2, 3)) / 255
    assert float(difference.mean()) < 0.035
    assert bool((difference < 0.5 * others).all())
    ours, theirs = drawn < 128, archive < 128
    assert int((ours & theirs).sum()) > 0.7 * int((ours | theirs).sum())


def test_a_drawing_does_not_depend_on_its_batch(demo: Path) -> None:
    photos, _ = pairs(demo, 20)
    assert torch.equal(drawing.draw_edges(photos)[2:3], drawing.draw_edges(photos[2:3]))


def test_outlines_are_closed(demo: Path) -> None:
    """From the corner no path over paper leads to the fruit's middle."""
    ndimage = pytest.importorskip("scipy.ndimage")
    photos, _ = pairs(demo, 10)
    for image in drawing.draw_edges(photos)[:, 0]:
        regions, count = ndimage.label((image > 127).numpy())
        sizes = np.bincount(regions.ravel())
        assert count >= 2
        assert sizes[1:].max() < 0.9 * sizes[1:].sum()
        assert regions[0, 0] == regions[-1, -1] != regions[32, 32]


@pytest.mark.parametrize("diagonal", [False, True])
def test_components_are_those_of_scipy(diagonal: bool) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    masks = torch.rand(4, 17, 23, generator=torch.Generator().manual_seed(0)) < 0.55
    found = drawing._components(masks, diagonal)
    assert bool(((found >= 0) == masks).all())
    seen: set[int] = set()
    for ours, mask in zip(found.numpy(), masks.numpy(), strict=True):
        theirs, count = ndimage.label(mask, structure=np.ones((3, 3)) if diagonal else None)
        together = {(int(a), int(b)) for a, b in zip(ours[mask], theirs[mask], strict=True)}
        assert len(together) == count == len({a for a, _ in together})
        assert not seen & {a for a, _ in together}
        seen |= {a for a, _ in together}


def test_components_of_nothing_and_of_a_spiral() -> None:
    assert bool((drawing._components(torch.zeros(1, 4, 4, dtype=torch.bool), True) == -1).all())
    snake = torch.zeros(1, 31, 31, dtype=torch.bool)
    snake[:, ::2] = True
    snake[:, 1::4, -1] = True
    snake[:, 3::4, 0] = True
    assert drawing._components(snake, False)[snake].unique().tolist() == [0]


def test_distances_are_exact() -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    marked = torch.rand(2, 40, 33, generator=torch.Generator().manual_seed(0)) < 0.01
    found = drawing._squared_distance(marked, 6.5)
    for ours, mask in zip(found.numpy(), marked.numpy(), strict=True):
        exact = np.rint(ndimage.distance_transform_edt(~mask) ** 2)
        near = exact <= 6.5**2
        assert (ours[near] == exact[near]).all()
        assert (ours[~near] > 6.5**2).all()


def test_pairs_of_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def draw(photos: Tensor) -> Tensor:
        drawn.append(len(photos))
        return 255 - photos[:, :1]

    monkeypatch.setattr(demo_module, "draw_edges", draw)
    root = unpack_paired_demo(tmp_path / "deep" / "pairs")
    assert sum(drawn) == len(list_images(root / "trainB")) == 816
    assert (root / "LICENSE.txt").is_file()
    config = Config.load("demo", ["pairs=folders", f"data_root={root}"])
    data.check(config)
    a, b = data.training_datasets(config)
    assert [path.stem for path in a.paths] == [path.stem for path in b.paths]
    grey = decode_image(b.paths[5], 3)[:1]
    assert torch.equal(decode_image(a.paths[5], 1), 255 - grey)
    drawn.clear()
    assert unpack_paired_demo(root) == root
    assert drawn == []  # all there
    a.paths[3].unlink()
    unpack_paired_demo(root)
    assert a.paths[3].is_file()
    assert [path.name for path in root.parent.iterdir()] == ["pairs"]


def test_pairs_go_into_no_folder_of_others(demo: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"trainA.* is not of the demo data: give an empty or new folder"):
        unpack_paired_demo(demo)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is a file: give a folder"):
        unpack_paired_demo(tmp_path / "file")


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(photos: Tensor) -> Tensor:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(demo_module, "draw_edges", full)
    with pytest.raises(FastmunitError, match=r"cannot write the demo's pairs into .*No space left on device"):
        unpack_paired_demo(tmp_path / "pairs")
    assert list(tmp_path.iterdir()) == []
