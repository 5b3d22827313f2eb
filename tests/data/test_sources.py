"""Image sources of user programs, instead of folders."""

from __future__ import annotations

import multiprocessing
import os
import re
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fastmunit import data
from fastmunit.config import Config
from fastmunit.data import ImageDataset, ImageSource, TrainingPairs, workers
from fastmunit.data.factory import call_factory
from fastmunit.data.sources import GivenImages, NamedSource, given_images
from fastmunit.errors import ConfigError, DataError
from tests.data.conftest import photo

NAMES = ("trainA", "trainB", "testA", "testB")


class Lazily:
    """A source that calls a function for each image."""

    def __init__(self, count: int, image: Callable[[int], Any]) -> None:
        self.count, self.image = count, image

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int, /) -> Any:
        return self.image(index)


def small_config(**changes: object) -> Config:
    """Return a configuration like that of `make_config`, without a folder."""
    values: dict[str, object] = {"new_size": 72, "crop_image_height": 64, "crop_image_width": 64, "batch_size": 2}
    return Config.from_dict({**values, "num_workers": 0, "display_size": 3, **changes})


def paths(root: Path, name: str) -> list[Path]:
    return data.list_images(root / name)


def batches(pairs: TrainingPairs, count: int = 6) -> list[tuple[Tensor, Tensor]]:
    stream = pairs.batches()
    taken = list(islice(stream, count))
    stream.close()
    return taken


def pairs_of(config: Config, images: dict[str, Any]) -> TrainingPairs:
    return TrainingPairs(config, data.training_datasets(config, GivenImages(images, config.pairs)))


def assert_equal(one: list[tuple[Tensor, Tensor]], other: list[tuple[Tensor, Tensor]]) -> None:
    assert len(one) == len(other)
    for batch, again in zip(one, other, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(batch, again, strict=True))


FORMS: dict[str, Callable[[Path], Any]] = {
    "paths": lambda path: path,
    "text": str,
    "PIL images": Image.open,
    "arrays": lambda path: np.array(Image.open(path)),
    "uint8 tensors": lambda path: torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1),
}


@pytest.mark.parametrize("form", FORMS)
def test_all_forms_give_the_batches_of_the_folders(
    make_config: Callable[..., Config], data_root: Path, form: str
) -> None:
    config = make_config()
    images = {name: Lazily(len(files), lambda k, files=files: FORMS[form](files[k]))
              for name in NAMES if (files := paths(data_root, name))}  # fmt: skip
    assert_equal(batches(pairs_of(config, images)), batches(TrainingPairs(config)))
    given = GivenImages(images, config.pairs)
    for mine, theirs in zip(data.test_datasets(config, given), data.test_datasets(config), strict=True):
        assert torch.equal(data.display_images(mine, 3), data.display_images(theirs, 3))


def test_float_tensors_are_only_cropped_and_mirrored() -> None:
    image = torch.rand(3, 9, 9, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for dtype, bound in ((torch.float64, 2e-7), (torch.float32, 2e-7), (torch.float16, 2e-3)):
        source = NamedSource([image.to(dtype).requires_grad_()], "trainA")
        out = ImageDataset(source, None, (9, 9), train=True, seed=1)[0]
        mirrored = min((out - expected).abs().max() for expected in (image, image.flip(2)))
        assert mirrored <= bound and out.dtype == torch.float32 and not out.requires_grad


def test_an_array_on_disk_is_a_source(tmp_path: Path) -> None:
    stored = np.lib.format.open_memmap(tmp_path / "images.npy", mode="w+", dtype=np.uint8, shape=(6, 72, 80, 3))
    stored[:] = np.random.default_rng(0).integers(0, 256, stored.shape, dtype=np.uint8)
    stored.flush()
    images = np.load(tmp_path / "images.npy", mmap_mode="r")
    assert isinstance(images, ImageSource)
    config = small_config(new_size=None)
    expected = batches(pairs_of(config, {"trainA": list(stored), "trainB": list(stored)}))
    assert_equal(batches(pairs_of(config, {"trainA": images, "trainB": images})), expected)


@pytest.fixture
def archive() -> type:
    """Return the source class of docs/how_to/data.md."""
    text = (Path(__file__).parents[2] / "docs/how_to/data.md").read_text(encoding="utf-8")
    (example,) = (block for block in re.findall(r"(?s)```python\n(.*?)```", text) if "class Archive" in block)
    found: dict[str, Any] = {}
    exec(example, found)
    return cast(type, found["Archive"])


def test_an_archive_is_read_by_more_processes_than_processors(
    archive: type,
    make_config: Callable[..., Config],
    data_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workers, "usable_processors", lambda: 1)
    images: dict[str, ImageSource] = {}
    for name in ("trainA", "trainB"):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as files:
            for path in paths(data_root, name):
                files.write(path, path.name)
        images[name] = archive(tmp_path / f"{name}.zip")
        assert images[name][0].size == (80, 80)  # opens the archive in this process
    expected = batches(TrainingPairs(make_config(num_workers=3)))
    pairs = pairs_of(make_config(num_workers=3), images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stream = pairs.batches()
        taken = list(islice(stream, len(expected)))
        assert len(multiprocessing.active_children()) == 3
        stream.close()
    assert_equal(taken, expected)
    assert TrainingPairs(make_config(num_workers=3)).num_workers == 1


def paired(tmp_path: Path) -> tuple[Path, Path]:
    """Return equal pairs as folders with equal names and as images side by side."""
    folders, joined = tmp_path / "folders", tmp_path / "joined"
    for part in ("train", "test"):
        for folder in (folders / f"{part}A", folders / f"{part}B", joined / part):
            folder.mkdir(parents=True)
        for index in range(5):
            whole = photo(index + 50 * (part == "test"), 70, 160)
            whole.save(joined / part / f"{index}.png")
            whole.crop((0, 0, 80, 70)).save(folders / f"{part}A" / f"{index}.png")
            whole.crop((80, 0, 160, 70)).save(folders / f"{part}B" / f"{index}.png")
    return folders, joined


def test_pairs_are_equal_to_those_from_folders(make_config: Callable[..., Config], tmp_path: Path) -> None:
    folders, joined = paired(tmp_path)
    config = make_config(data_root=str(folders), pairs="folders", new_size=66)
    expected = batches(TrainingPairs(config))
    images = {name: Lazily(5, lambda k, name=name: Image.open(paths(folders, name)[k])) for name in NAMES}
    assert_equal(batches(pairs_of(config, images)), expected)
    asked: list[int] = []
    side_by_side = make_config(data_root=str(joined), pairs="side_by_side", new_size=66)
    halves = Lazily(5, lambda k: asked.append(k) or Image.open(paths(joined, "train")[k]))
    assert_equal(batches(pairs_of(side_by_side, {"train": halves}), 2), expected[:2])
    assert len(asked) == 4  # once for both halves
    assert data.check(side_by_side, GivenImages({"train": paths(joined, "train")}, "side_by_side")) == []
    for part in ("a", "b"):
        expected_images = data.test_datasets(side_by_side)["ab".index(part)]
        given = GivenImages({part: paths(joined, part) for part in ("train", "test")}, "side_by_side")
        assert torch.equal(data.test_datasets(side_by_side, given)["ab".index(part)][1], expected_images[1])


def test_pairs_of_different_sizes() -> None:
    config = small_config(pairs="folders")
    images = {"trainA": [np.zeros((80, 80, 3), np.uint8)] * 2, "trainB": [np.zeros((80, 90, 3), np.uint8)] * 2}
    with pytest.raises(DataError, match=r"trainA\[\d\] and trainB\[\d\] are a pair, but 72x72 and 72x81"):
        batches(pairs_of(config, images), 1)


def fail(error: Exception) -> Any:
    raise error


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (lambda: None, r"^trainB\[3\]: expected a path, a PIL image.* got NoneType\.$"),
        (lambda: (photo(0), 7), r"^trainB\[3\]: got a tuple: return only the image"),
        (lambda: {"image": photo(0)}, r"^trainB\[3\]: got a dict: .*data\.huggingface\(dataset, column\)"),
        (lambda: "nowhere.png", r"^trainB\[3\]: image nowhere\.png does not exist"),
        (lambda: np.zeros((80, 80, 3)), r"^trainB\[3\]: .*uint8 or uint16, got float64\. Give values in \[-1, 1\]"),
        (lambda: np.zeros((2, 80, 80, 3), np.uint8), r"^trainB\[3\]: expected an array .*, got shape \(2, 80, 80, 3\)"),
        (lambda: np.zeros((80, 80, 5), np.uint8), r"^trainB\[3\] has 5 channels but input_dim is 3: set input_dim"),
        (lambda: torch.zeros(1, 80, 80), r"^trainB\[3\] has 1 channels but input_dim is 3"),
        (lambda: torch.zeros(80, 80), r"^trainB\[3\]: expected \(C, H, W\), got shape \(80, 80\)"),
        (
            lambda: torch.zeros(3, 80, 80, dtype=torch.int64),
            r"^trainB\[3\]: expected floating point values in \[-1, 1\]",
        ),
        (lambda: torch.full((3, 80, 80), 255.0), r"^trainB\[3\]: values 255\.\.255 are outside \[-1, 1\]: scale"),
        (lambda: torch.full((3, 80, 80), torch.nan), r"^trainB\[3\]: values nan\.\.nan are outside"),
        (lambda: photo(0, 30, 200).crop((0, 0, 10, 0)), r"^trainB\[3\]: a PIL image of 10x0 pixels has no content"),
        (lambda: photo(0, 40, 40), r"^trainB\[3\]: 40x40 .* is smaller than the crop 64x64"),
        (
            lambda: fail(KeyError("cat")),
            r"^trainB\[3\]: the source raised KeyError \('cat'\) at .*test_sources\.py:\d+:",
        ),
        (
            lambda: zipfile.ZipFile("nowhere.zip"),
            r"^trainB\[3\]: the source raised FileNotFoundError .*test_sources\.py:",
        ),
        (lambda: fail(OSError(5, "lost")), r"^trainB\[3\]: the source raised OSError \(\[Errno 5\] lost\) at "),
    ],
)
def test_a_wrong_image_is_named(image: Callable[[], Any], message: str) -> None:
    config = small_config(new_size=None)
    images = {name: Lazily(4, lambda k, name=name: image() if (name, k) == ("trainB", 3) else photo(k))
              for name in ("trainA", "trainB")}  # fmt: skip
    with pytest.raises(DataError, match=message):
        batches(pairs_of(config, images), 2)
    given = GivenImages(images, config.pairs)
    assert data.check(config.model_copy(update={"display_size": 1}), given) == []  # it reads only the first images
    if "crop" not in message:
        with pytest.raises(DataError, match=r"^1 of 8 images cannot be used:\n- " + message[1:].rstrip("$")):
            data.verify(config, given=given)


def test_a_wrong_image_in_a_worker_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    images = {"trainA": Lazily(4, lambda k: fail(KeyError(k))), "trainB": Lazily(4, photo)}
    with pytest.raises(DataError, match=r"^trainA\[\d\]: the source raised KeyError") as caught:
        batches(pairs_of(small_config(num_workers=1), images), 1)
    assert "Traceback" not in str(caught.value)


def test_images_that_do_not_fit_in_memory_are_named() -> None:
    images = {"trainA": Lazily(4, photo), "trainB": Lazily(4, lambda k: fail(MemoryError()))}
    with pytest.raises(DataError, match=r"not enough memory to load trainA\[\d\] and trainB\[\d\] \(MemoryError\)"):
        batches(pairs_of(small_config(), images), 1)


class Endless:
    def __len__(self) -> int:
        raise TypeError("the stream has no end")

    def __getitem__(self, index: int, /) -> Image.Image:
        return photo(index)


@pytest.mark.parametrize(
    ("images", "pairs", "message"),
    [
        ([[photo(0)]], "unpaired", "expected data as a mapping, got list: give one with trainA and trainB, and"),
        ({"trainA": [photo(0)]}, "unpaired", "the data have no trainB: with pairs unpaired, give at least trainA"),
        ({"trainA": [photo(0)], "train_b": []}, "unpaired", "the data have 'train_b': .* the names are trainA and"),
        ({"train": [photo(0)], "testA": []}, "side_by_side", "the data have 'testA': .* the names are train and test"),
        ({n: [photo(0)] for n in NAMES[:3]}, "unpaired", "the data have no testB"),
        ({"trainA": "photos", "trainB": [photo(0)]}, "unpaired", "trainA is of type str, .* or set data_root"),
        ({"trainA": iter([]), "trainB": [photo(0)]}, "unpaired", "trainA is of type list_iterator, .* give an object"),
        ({"trainA": [], "trainB": [photo(0)]}, "unpaired", "trainA has no images"),
        ({"trainA": Endless(), "trainB": [photo(0)]}, "unpaired", r"len\(\) of trainA failed: .*TypeError.*has no end"),
        ({"trainA": [photo(0)], "trainB": [photo(0)] * 2}, "folders", "trainA has 1 images and trainB has 2, but"),
    ],
)  # fmt: skip
def test_wrong_data_are_named(images: Any, pairs: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        GivenImages(images, pairs)


def test_too_few_images_are_named() -> None:
    images = {name: [photo(k) for k in range(3)] for name in ("trainA", "trainB")}
    given = GivenImages(images, "unpaired")
    with pytest.raises(DataError, match="trainA has 3 images, fewer than batch_size 4"):
        data.check(small_config(batch_size=4), given)
    with pytest.raises(DataError, match="trainA has 3 images, fewer than display_size 5"):
        data.check(small_config(display_size=5), given)
    with pytest.raises(DataError, match="no test images: give testA and testB"):
        given.require_test()
    with pytest.raises(ConfigError, match="new_size_a 70 and new_size_b 72"):
        data.check(small_config(pairs="folders", new_size=None, new_size_a=70, new_size_b=72), given)


def test_identity_of_images(data_root: Path) -> None:
    files = paths(data_root, "trainA")
    of_files = ImageDataset(files, None, None).identity()
    assert of_files == NamedSource(files, "trainA").identity() and of_files["count"] == 7
    relative = [Path(os.path.relpath(path)) for path in files[:3]]
    assert NamedSource([*relative, *map(str, files[3:])], "trainA").identity() == of_files
    source = Lazily(7, photo)
    assert NamedSource(source, "trainA").identity() == {"count": 7, "names": ""}
    source.fingerprint = "version 1"  # type: ignore[attr-defined]
    first = NamedSource(source, "trainA").identity()
    source.fingerprint = "version 2"  # type: ignore[attr-defined]
    assert len({first["names"], NamedSource(source, "trainA").identity()["names"], ""}) == 3
    source.fingerprint = 3  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="the fingerprint of trainA is of type int: return text or None"):
        NamedSource(source, "trainA").identity()


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a working folder that is not on sys.path, as with the command `fastmunit`."""
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry and Path(entry) != Path.cwd()])
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def test_a_factory_in_the_working_folder(in_folder: Path) -> None:
    package = in_folder / "photos_of_mine"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "cats.py").write_text(
        "def images(config):\n    return {'trainA': [config.seed], 'trainB': [2]}\ndef nothing(config):\n    pass\n"
    )
    (in_folder / "zipfile.py").write_text("raise RuntimeError('the folder hides the standard library')\n")
    config = small_config(data_module="photos_of_mine.cats:images", seed=5)
    given = given_images(config)
    assert given is not None
    assert given.source("train", "a").images[0] == 5 and given.source("test", "a").name == "trainA"
    assert sys.path[-1] == str(in_folder)
    with pytest.raises(
        DataError, match=r"data_module 'photos_of_mine\.cats:nothing': expected data as a mapping, got NoneType"
    ):
        given_images(small_config(data_module="photos_of_mine.cats:nothing"))
    assert given_images(small_config()) is None
    given = given_images(config, {"trainA": [1], "trainB": [2]})
    assert given is not None and given.source("train", "a").images[0] == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent:images", r"there is no module 'absent': install it, or run in the folder that contains it \(this is "),
        ("broken.absent:images", "there is no module 'broken.absent'"),
        ("broken.needs:images", r"importing broken\.needs failed: ModuleNotFoundError .*not_installed.*needs\.py:1"),
        ("broken.syntax:images", r"importing broken\.syntax failed: SyntaxError"),
        ("broken:images", r"broken \(.*__init__\.py\) has no 'images'"),
        ("broken:number", r"broken \(.*__init__\.py\) has no callable 'number'"),
        ("broken:raises", r"raises failed: ZeroDivisionError \(division by zero\) at .*__init__\.py:3"),
    ],
)  # fmt: skip
def test_wrong_factories_are_explained(in_folder: Path, name: str, message: str) -> None:
    (in_folder / "broken").mkdir()
    (in_folder / "broken/__init__.py").write_text("number = 1\ndef raises(config):\n    return 1 / 0\n")
    (in_folder / "broken/needs.py").write_text("import not_installed\n")
    (in_folder / "broken/syntax.py").write_text("def images(:\n")
    with pytest.raises(ConfigError, match=f"data_module '{name}': {message}"):
        call_factory(name, small_config())


@pytest.mark.parametrize("value", ["images", "photos.images", ":images", "photos:", "a b:c", "../x:y", "x.py:y:z"])
def test_names_of_factories(value: str) -> None:
    with pytest.raises(ConfigError, match=r"data_module = .*expected package\.module:factory"):
        small_config(data_module=value)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the datasets library of Hugging Face, without network access."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return pytest.importorskip("datasets", reason="the package datasets is not installed")


def test_a_hugging_face_dataset(
    library: Any, make_config: Callable[..., Config], data_root: Path, tmp_path: Path
) -> None:
    config = make_config()
    tables = {}
    for name in ("trainA", "trainB"):
        files = [str(path) for path in paths(data_root, name)]
        features = library.Features({"picture": library.Image(), "label": library.Value("string")})
        columns = {"picture": files, "label": files}
        tables[name] = library.Dataset.from_dict(columns, features=features)
    images = {name: data.huggingface(table, "picture") for name, table in tables.items()}
    expected = batches(TrainingPairs(config))
    assert_equal(batches(pairs_of(config, images)), expected)
    assert_equal(batches(pairs_of(make_config(num_workers=2), images)), expected)
    assert isinstance(images["trainA"], ImageSource)
    tables["trainA"].to_parquet(tmp_path / "a.parquet")
    stored = library.Dataset.from_parquet(str(tmp_path / "a.parquet"), cache_dir=str(tmp_path / "cache"))
    stored_images = {"trainA": data.huggingface(stored, "picture"), "trainB": images["trainB"]}
    assert_equal(batches(pairs_of(config, stored_images)), expected)
    as_tensors = {name: data.huggingface(table.with_format("torch"), "picture") for name, table in tables.items()}
    assert_equal(batches(pairs_of(config, as_tensors), 1), expected[:1])
    identities = [NamedSource(data.huggingface(table, "picture"), "trainA").identity()
                  for table in (tables["trainA"], tables["trainA"], tables["trainA"].shuffle(seed=1))]  # fmt: skip
    assert identities[0] == identities[1] != identities[2] and identities[0]["names"]


def test_wrong_hugging_face_datasets_are_explained(library: Any) -> None:
    table = library.Dataset.from_dict({"picture": ["a.png"], "label": [1]})
    with pytest.raises(DataError, match="no column 'image': give one of picture, label"):
        data.huggingface(table)
    with pytest.raises(DataError, match=r"has the splits train, test: give one, such as dataset\['train'\]"):
        data.huggingface(library.DatasetDict({"train": table, "test": table}), "picture")
    with pytest.raises(DataError, match=r"a IterableDataset has no index: .* without streaming=True"):
        data.huggingface(table.to_iterable_dataset(), "picture")
