"""Zarr images that are damaged or unusual: random damage, chunks of other sizes, shards, labels, zip files."""

import json
import random
import shutil
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastmunit.errors import DataError
from fastmunit.image_files.open import is_image_file, open_image
from fastmunit.region import Region
from tests.image_files.fuzz import damaged
from tests.image_files.images import check_reading, pixels
from tests.image_files.test_zarr import write_ome

zarr = pytest.importorskip("zarr", minversion="3")
crc32c = pytest.importorskip("google_crc32c")
numcodecs = pytest.importorskip("numcodecs")


def write(path: Path, version: int, **options: Any) -> np.ndarray:
    """Write an array (37, 53) in chunks of 16 x 16, and return it."""
    image = pixels()
    array = zarr.create_array(
        path, shape=image.shape, dtype=image.dtype, chunks=(16, 16), zarr_format=version, **options
    )
    array[:] = image
    return image


EXAMPLES: dict[str, tuple[int, dict[str, Any]]] = {
    "v2": (2, {}),
    "v3": (3, {}),
    "shards": (3, {"shards": (32, 32)}),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_damage_is_read_or_named(tmp_path: Path, name: str) -> None:
    version, options = EXAMPLES[name]
    write(tmp_path / "good.zarr", version, **options)
    random_ = random.Random(version)
    errors: dict[str, str] = {}
    for number in range(25):
        path = tmp_path / f"{number}.zarr"
        shutil.copytree(tmp_path / "good.zarr", path)
        files = sorted(file for file in path.rglob("*") if file.is_file())
        metadata = [file for file in files if file.name.startswith((".z", "zarr"))]
        chosen = random_.choice(metadata if number % 2 else files)
        chosen.write_bytes(damaged(chosen.read_bytes(), random_))
        try:
            with open_image(path) as reader:
                if reader.planes * reader.channels * reader.height * reader.width < 1 << 20:
                    reader.read()
        except DataError as error:
            errors[path.name] = str(error)
    assert len(errors) > 5
    assert all(name in text for name, text in errors.items())


@pytest.mark.parametrize("name", EXAMPLES)
def test_chunks_of_another_size_are_named(tmp_path: Path, name: str) -> None:
    """Replace a chunk by one that decompresses to 16 times as much."""
    version, options = EXAMPLES[name]
    for path, size in ((tmp_path / "image.zarr", 16), (tmp_path / "other.zarr", 64)):
        array = zarr.create_array(
            path,
            shape=(64, 64),
            chunks=(size, size) if not options else (size // 2,) * 2,
            dtype="uint16",
            zarr_format=version,
            **({"shards": (size, size)} if options else {}),
        )
        array[:] = 7
    for place in ("0.0", "c/0/0"):
        if (tmp_path / "other.zarr" / place).is_file():
            shutil.copy(tmp_path / "other.zarr" / place, tmp_path / "image.zarr" / place)
    with open_image(tmp_path / "image.zarr") as reader, pytest.raises(DataError, match=r"image\.zarr"):
        reader.read()


def _compressors(version: int) -> dict[str, Any]:
    if version == 2:
        names = {"zstd": {}, "blosc": {}, "lz4": {}, "gzip": {"level": 1}, "zlib": {}, "bz2": {}}
        return {name: numcodecs.get_codec({"id": name, **options}) for name, options in names.items()}
    return {"zstd": zarr.codecs.ZstdCodec(), "blosc": zarr.codecs.BloscCodec(), "gzip": zarr.codecs.GzipCodec()}


@pytest.mark.parametrize(("version", "codec"), [(v, name) for v in (2, 3) for name in _compressors(v)])
@pytest.mark.parametrize("sharded", [False, True])
def test_bombs_are_refused_before_they_are_decompressed(
    tmp_path: Path, version: int, codec: str, sharded: bool
) -> None:
    if sharded and version == 2:
        pytest.skip("version 2 has no shards")
    for path, size in ((tmp_path / "image.zarr", 16), (tmp_path / "bomb.zarr", 128)):
        shards = {"shards": (256, 256)} if sharded else {}
        array = zarr.create_array(
            path, shape=(256, 256), chunks=(size, size), dtype="uint8", zarr_format=version,
            compressors=_compressors(version)[codec], **shards,
        )  # fmt: skip
        array[:128, :128] = 1
    place = "c/0/0" if version == 3 else "0.0"
    if sharded:  # the first chunk of the shard becomes the bomb: the index is at its end
        bomb = (tmp_path / "bomb.zarr" / place).read_bytes()
        shard = bytearray((tmp_path / "image.zarr" / place).read_bytes())
        index = len(shard) - 4 - 16 * 16 * 16
        offset, length = struct.unpack_from("<QQ", bomb, len(bomb) - 4 - 16 * 4)
        chunk = bomb[offset : offset + length]
        struct.pack_into("<QQ", shard, index, index, len(chunk))
        table = shard[index:-4]
        table_sum = crc32c.value(bytes(table)).to_bytes(4, "little")
        (tmp_path / "image.zarr" / place).write_bytes(shard[:index] + chunk + table + table_sum)
    else:
        shutil.copy(tmp_path / "bomb.zarr" / place, tmp_path / "image.zarr" / place)
    with open_image(tmp_path / "image.zarr") as reader:
        assert (reader.read(Region(16, 16, 16, 16)) == 1).all()
        with pytest.raises(DataError, match=r"bytes or more after decompression, where its metadata say at most 3,072"):
            reader.read(Region(0, 0, 16, 16))
    with open_image(tmp_path / "bomb.zarr") as reader:  # a large chunk that is declared is none
        assert (reader.read(Region(0, 0, 16, 16)) == 1).all()


@pytest.mark.parametrize("separator", [".", "/"])
def test_separators_of_version_2(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "image.zarr"
    image = write(path, 2, chunk_key_encoding={"name": "v2", "separator": separator})
    assert (path / f"2{separator}3").is_file()
    assert json.loads((path / ".zarray").read_text())["dimension_separator"] == separator
    check_reading(path, image[None, None])


@pytest.mark.parametrize("version", [2, 3])
def test_labels_are_ignored(tmp_path: Path, version: int) -> None:
    path, image = tmp_path / "image.zarr", pixels(1, 3, 2)
    write_ome(path, image, version)
    labels = zarr.open_group(path, mode="a").create_group("labels")
    labels.attrs["labels"] = ["cells"]
    labels.create_group("cells").create_array("0", data=np.ones((1, 1, 2, 37, 53), np.uint8))
    check_reading(path, image.swapaxes(1, 2).reshape(2, 3, 37, 53))


@pytest.mark.parametrize("name", ["image.zarr", "image.zarr.zip", "image.ozx"])
def test_zip_files_are_refused(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / name, "w") as file:
        file.writestr("zarr.json", "{}")
    assert not is_image_file(tmp_path / name)
    with pytest.raises(
        DataError, match=rf"{name} is a Zarr image in one file, which is not read: unzip it to a folder"
    ):
        open_image(tmp_path / name)
