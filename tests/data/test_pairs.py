"""Paired data: two folders with equal names, or both images in the same file."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastmunit import data
from fastmunit.config import Config
from fastmunit.data import TrainingPairs, workers
from fastmunit.errors import ConfigError, DataError
from tests.data.conftest import photo

COUNT = 5


def partner(image: Image.Image) -> Image.Image:
    """Return the negative. It shows whether A and B are a pair with the same flip and crop."""
    return Image.fromarray(255 - np.asarray(image))


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    root = tmp_path / "folders"
    for part in ("train", "test"):
        for domain in "AB":
            (root / f"{part}{domain}" / "sub").mkdir(parents=True)
        for index in range(COUNT):
            image = photo(index)
            name = f"sub/{index}" if index % 2 else str(index)
            image.save(root / f"{part}A" / f"{name}.png")
            partner(image).save(root / f"{part}B" / f"{name}.bmp")
    return root


@pytest.fixture
def joined(tmp_path: Path) -> Path:
    root = tmp_path / "joined"
    for part in ("train", "val"):
        (root / part).mkdir(parents=True)
        for index in range(COUNT):
            both = [np.asarray(photo(index)), np.asarray(partner(photo(index)))]
            Image.fromarray(np.concatenate(both, axis=1)).save(root / part / f"{index}.png")
    return root


@pytest.fixture(params=["folders", "side_by_side"])
def paired(request: pytest.FixtureRequest, make_config: Callable[..., Config]) -> Callable[..., Config]:
    root = request.getfixturevalue("folders" if request.param == "folders" else "joined")

    def make(**changes: object) -> Config:
        return make_config(**{"data_root": str(root), "pairs": request.param, **changes})

    return make


def take(config: Config, count: int, start: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    stream = TrainingPairs(config).batches(start)
    taken = list(islice(stream, count))
    stream.close()  # type: ignore[attr-defined]
    return taken


def test_pairs_stay_together(paired: Callable[..., Config]) -> None:
    """B is the negative of A after the same flip, resize and crop, and all samples of the epochs are different."""
    seen = []
    for a, b in take(paired(), 6):
        assert a.shape == b.shape == (2, 3, 64, 64)
        # The resize rounds A and B to eight bits independently.
        torch.testing.assert_close(a, -b, atol=5 / 255, rtol=0)
        seen += [image.numpy().tobytes() for image in a]
    assert len(set(seen)) == len(seen)


def test_both_kinds_of_folders_have_the_same_pairs(
    folders: Path, joined: Path, make_config: Callable[..., Config]
) -> None:
    a = take(make_config(data_root=str(joined), pairs="side_by_side"), 2)
    for root in (folders,):
        for index in range(1, COUNT, 2):  # names in the same order
            for domain, suffix in (("A", "png"), ("B", "bmp")):
                path = root / f"train{domain}" / f"sub/{index}.{suffix}"
                path.rename(root / f"train{domain}" / f"{index}.{suffix}")
    b = take(make_config(data_root=str(folders), pairs="folders"), 2)
    for pair, again in zip(a, b, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(pair, again, strict=True))


def test_batches_do_not_depend_on_workers_or_start(
    paired: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "usable_processors", lambda: 2)
    whole = take(paired(), 5)
    for other, expected in ((take(paired(num_workers=2), 2, start=3), whole[3:]), (take(paired(), 2, 1), whole[1:3])):
        for pair, again in zip(other, expected, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(pair, again, strict=True))


def test_domains_may_have_different_channels(paired: Callable[..., Config]) -> None:
    config = paired(input_dim_a=1)
    data.check(config)
    ((a, b),) = take(config, 1)
    assert (a.shape[1], b.shape[1]) == (1, 3)
    gray = (b * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    torch.testing.assert_close(a, -gray, atol=0.02, rtol=0)


def test_test_and_display_images_are_pairs(paired: Callable[..., Config]) -> None:
    config = paired()
    data.check(config)
    for a, b in (data.test_datasets(config), data.training_datasets(config)):
        x, y = data.display_images(a, 3), data.display_images(b, 3)
        torch.testing.assert_close(x, -y, atol=5 / 255, rtol=0)


def test_crops_of_systems_with_other_networks(paired: Callable[..., Config]) -> None:
    a, _ = data.test_datasets(paired(), any_size=False)
    assert a[0].shape == (3, 64, 64)
    data.check(paired(crop_image_height=33, crop_image_width=32), any_size=False)


@pytest.mark.parametrize("missing", ["trainA/sub/3.png", "trainB/0.bmp", "testA/2.png"])
def test_names_without_partner(folders: Path, make_config: Callable[..., Config], missing: str) -> None:
    (folders / missing).unlink()
    with pytest.raises(DataError, match=r"1 images have no partner .*(3\.bmp|0\.png|2\.bmp) \(none in .*\)"):
        data.check(make_config(data_root=str(folders), pairs="folders"))


def test_names_match_across_extensions_and_unicode_forms(folders: Path, make_config: Callable[..., Config]) -> None:
    composed, decomposed = "caf\u00e9.v1", "cafe\u0301.v1"
    for part in ("train", "test"):
        photo(7).save(folders / f"{part}A" / f"{composed}.webp", lossless=True)
        partner(photo(7)).save(folders / f"{part}B" / f"{decomposed}.GIF")
    config = make_config(data_root=str(folders), pairs="folders")
    data.check(config)
    a, b = data.training_datasets(config)
    assert len(a) == len(b) == COUNT + 1
    assert [path.suffix for path in b.paths if path.suffix != ".bmp"] == [".GIF"]
    assert [path.suffix for path in a.paths].index(".webp") == [path.suffix for path in b.paths].index(".GIF")
    photo(7).save(folders / "trainA" / f"{decomposed}.png")
    with pytest.raises(DataError, match="have the same name except for the suffix or the Unicode form"):
        data.check(config)


def test_ambiguous_names(folders: Path, make_config: Callable[..., Config]) -> None:
    photo(9).save(folders / "trainA" / "0.jpg")
    with pytest.raises(DataError, match=r"0\.jpg and .*0\.png have the same name except for the suffix"):
        data.check(make_config(data_root=str(folders), pairs="folders"))


def test_different_sizes(folders: Path, make_config: Callable[..., Config]) -> None:
    config = make_config(data_root=str(folders), pairs="folders")
    photo(9, 160, 160).save(folders / "trainB" / "0.bmp")
    data.check(config)  # equal sizes after the resize
    assert len(take(config, 4)) == 4
    photo(9, 80, 90).save(folders / "trainB" / "0.bmp")
    with pytest.raises(DataError, match=r"1 of 5 pairs differ in size.*0\.png and .*0\.bmp .*72x72 and 72x81"):
        data.check(config)
    with pytest.raises(DataError, match=r"72x72 and 72x81"):
        take(config, 4)


def test_odd_width(joined: Path, make_config: Callable[..., Config]) -> None:
    config = make_config(data_root=str(joined), pairs="side_by_side")
    photo(9, 80, 161).save(joined / "train" / "0.png")
    with pytest.raises(DataError, match=r"1 of 5 images cannot be used.*0\.png is 161 pixels wide, which is odd"):
        data.check(config)
    with pytest.raises(DataError, match="161 pixels wide"):
        take(config, 4)


def test_halves_smaller_than_the_crop(joined: Path, make_config: Callable[..., Config]) -> None:
    photo(9, 80, 80).save(joined / "val" / "0.png")
    with pytest.raises(DataError, match=r"the left half 80x40, 80x40 after the resize"):
        data.check(make_config(data_root=str(joined), pairs="side_by_side", new_size=None))


def test_pairs_have_equal_sizes(paired: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError, match="new_size_a 72 and new_size_b 80"):
        data.check(paired(new_size=None, new_size_a=72, new_size_b=80))


def test_side_by_side_without_its_folders(tmp_path: Path, make_config: Callable[..., Config]) -> None:
    with pytest.raises(DataError, match=r"must contain train, and test or val"):
        data.check(make_config(data_root=str(tmp_path / "nowhere"), pairs="side_by_side"))
    with pytest.raises(ConfigError, match=r"a folder with train, and test or val.*data_folder_train_a"):
        data.check(make_config(data_root=None, pairs="side_by_side"))


def test_folders_and_lists_of_pairs(folders: Path, joined: Path, make_config: Callable[..., Config]) -> None:
    (joined / "list.txt").write_text("3.png\n1.png\n0.png\n")
    named = {f"data_folder_{part}_a": str(joined / "train") for part in ("train", "test")}
    lists = {f"data_list_{part}_a": str(joined / "list.txt") for part in ("train", "test")}
    a, b = data.training_datasets(make_config(data_root=None, pairs="side_by_side", **named, **lists))
    assert [path.stem for path in a.paths] == [path.stem for path in b.paths] == ["3", "1", "0"]
    for domain, suffix, names in (("a", "png", (4, 0, 2)), ("b", "bmp", (0, 2, 4))):
        (folders / f"{domain}.txt").write_text("".join(f"{name}.{suffix}\n" for name in names))
    keys = {}
    for part in ("train", "test"):
        for domain in "ab":
            keys[f"data_folder_{part}_{domain}"] = str(folders / f"{part}{domain.upper()}")
            keys[f"data_list_{part}_{domain}"] = str(folders / f"{domain}.txt")
    a, b = data.training_datasets(make_config(data_root=None, pairs="folders", **keys))
    assert [path.stem for path in a.paths] == [path.stem for path in b.paths] == ["4", "0", "2"]
