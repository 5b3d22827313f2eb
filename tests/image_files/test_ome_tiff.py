from pathlib import Path

import numpy as np
import pytest

from fastmunit.errors import DataError
from fastmunit.image_files.open import open_image, writer_like
from tests.image_files.images import HEIGHT, WIDTH, check_reading, copied, pixels

tifffile = pytest.importorskip("tifffile")
pytest.importorskip("imagecodecs")

METADATA = {
    "axes": "CYX",
    "Channel": {"Name": ["DAPI", "GFP", "Cy5"]},
    "PhysicalSizeX": 0.25,
    "PhysicalSizeXUnit": "µm",
    "PhysicalSizeY": 0.5,
    "PhysicalSizeYUnit": "µm",
    "SignificantBits": 12,
    "Plane": {"ExposureTime": [0.1, 0.2, 0.3]},
}


def write(path: Path, image: np.ndarray, metadata: dict | None = None, **options: object) -> Path:
    tifffile.imwrite(path, image, photometric="minisblack", metadata=metadata or METADATA, **options)
    return path


def described(path: Path) -> dict:
    with tifffile.TiffFile(path) as file:
        return tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]


def test_metadata_are_kept(tmp_path: Path) -> None:
    image = pixels(3)
    source, target = write(tmp_path / "image.ome.tif", image), tmp_path / "copy.ome.tif"
    with open_image(source) as reader:
        assert reader.channel_names == ("DAPI", "GFP", "Cy5")
        assert (reader.bits, reader.value_range) == (12, (0.0, 4095.0))
    copied(source, target)
    before, after = described(source), described(target)
    for name in ("PhysicalSizeX", "PhysicalSizeXUnit", "PhysicalSizeY", "SignificantBits", "SizeC", "Type", "Plane"):
        assert after[name] == before[name], name
    assert [channel["Name"] for channel in after["Channel"]] == ["DAPI", "GFP", "Cy5"]
    with tifffile.TiffFile(target) as file:
        assert file.series[0].axes == "CYX" and file.pages[0].is_tiled
        np.testing.assert_array_equal(file.asarray(), image)


def test_other_channels(tmp_path: Path) -> None:
    source, target = write(tmp_path / "image.ome.tif", pixels(3)), tmp_path / "copy.ome.tif"
    values = copied(source, target, channels=2, dtype="float32", names=("H", "E"))
    check_reading(target, values)
    after = described(target)
    assert (after["SizeC"], after["Type"], after["PhysicalSizeX"]) == (2, "float", 0.25)
    assert [channel["Name"] for channel in after["Channel"]] == ["H", "E"]
    assert "SignificantBits" not in after
    copied(source, target, channels=1)
    assert described(target)["SizeC"] == 1


def test_channels_from_one_to_rgb(tmp_path: Path) -> None:
    metadata = {"axes": "YX", "PhysicalSizeX": 0.25}
    source = write(tmp_path / "image.ome.tif", pixels(dtype="uint8"), metadata)
    values = copied(source, tmp_path / "copy.ome.tif", channels=3)
    with tifffile.TiffFile(tmp_path / "copy.ome.tif") as file:
        assert file.series[0].axes == "YXS"
        np.testing.assert_array_equal(file.asarray(), values[0].transpose(1, 2, 0))


@pytest.mark.parametrize("axes", ["TZCYX", "TCZYX", "CZTYX"])
def test_orders_of_dimensions(tmp_path: Path, axes: str) -> None:
    sizes = {"T": 2, "Z": 4, "C": 3}
    stack = pixels(*(sizes[axis] for axis in axes[:3]))
    source, target = tmp_path / "stack.ome.tif", tmp_path / "copy.ome.tif"
    write(source, stack, {"axes": axes}, compression="zlib")
    ordered = stack.transpose([*(axes.index(axis) for axis in "TZC"), 3, 4])
    check_reading(source, ordered.reshape(8, 3, HEIGHT, WIDTH))
    copied(source, target)
    with tifffile.TiffFile(target) as file:
        assert file.series[0].axes == "TZCYX"
        np.testing.assert_array_equal(file.asarray(), ordered)


def test_image_with_a_label_image(tmp_path: Path) -> None:
    image, target = pixels(3), tmp_path / "copy.ome.tif"
    with tifffile.TiffWriter(tmp_path / "image.ome.tif", ome=True) as file:
        file.write(image, photometric="minisblack", metadata=METADATA)
        file.write(image[0, :9, :9], photometric="minisblack", metadata={"axes": "YX"})
    check_reading(tmp_path / "image.ome.tif", image[None])
    copied(tmp_path / "image.ome.tif", target)
    with tifffile.TiffFile(target) as file:
        assert len(file.series) == 1


def test_large_images_get_a_pyramid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastmunit.image_files import tiff_writer

    monkeypatch.setattr(tiff_writer, "_MAX_FLAT", 50)
    monkeypatch.setattr(tiff_writer, "_MIN_LEVEL", 14)
    source = write(tmp_path / "image.ome.tif", pixels(3))
    copied(source, tmp_path / "copy.ome.tif")
    with tifffile.TiffFile(tmp_path / "copy.ome.tif") as file:
        assert [level.shape for level in file.series[0].levels] == [(3, 37, 53), (3, 19, 27), (3, 10, 14)]


def changed(tmp_path: Path, old: bytes, new: bytes) -> Path:
    path = write(tmp_path / "image.ome.tif", pixels(3))
    data = path.read_bytes()
    assert old in data and len(old) == len(new)
    path.write_bytes(data.replace(old, new))
    return path


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'SizeC="3"', b'SizeC="4"', "1 of 4 planes of its OME-XML are in no page"),
        (b'SizeC="3"', b'SizeC="x"', "expected a number for SizeC"),
        (b'SizeC="3" SizeZ="1"', b'SizeC="3" SizeZ="9"', "planes of its OME-XML are in no page"),
        (b'SizeT="1"', b'SizeT="0"', "damaged|planes|image"),
        (b"<OME ", b"<OMF ", "damaged"),
        (b"XYCZT", b"XYCCC", "expected a DimensionOrder"),
    ],
)
def test_damaged_metadata(tmp_path: Path, old: bytes, new: bytes, message: str) -> None:
    path = changed(tmp_path, old, new)
    with pytest.raises(DataError, match=message):
        open_image(path)


def test_entities_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.ome.tif"
    text = '<!DOCTYPE x [<!ENTITY a "aaaa">]><OME>&a;</OME>'
    tifffile.imwrite(path, pixels(), description=text, metadata=None)
    with pytest.raises(DataError, match=r"document type or entities"):
        open_image(path)


def test_planes_in_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.ome.tif"
    planes = "".join(
        f'<TiffData IFD="0" FirstZ="{z}" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{z}</UUID></TiffData>'
        for z, name in enumerate(("image.ome.tif", "../../../etc/passwd"))
    )
    pixels_ = f'SizeX="{WIDTH}" SizeY="{HEIGHT}" SizeC="1" SizeZ="2" SizeT="1" DimensionOrder="XYZCT" Type="uint16"'
    text = f'<OME><Image ID="Image:0"><Pixels ID="Pixels:0" {pixels_}>{planes}</Pixels></Image></OME>'
    tifffile.imwrite(path, pixels(), description=text, metadata=None)
    with pytest.raises(DataError, match=r"planes in several files \(../../../etc/passwd, image.ome.tif\): join them"):
        open_image(path)


def test_types_without_a_name_in_ome(tmp_path: Path) -> None:
    source = write(tmp_path / "image.ome.tif", pixels(3))
    with open_image(source) as reader, pytest.raises(DataError, match=r"OME-TIFF cannot store values of type int64"):
        writer_like(reader, tmp_path / "copy.ome.tif", 3, "int64")
    assert not (tmp_path / "copy.ome.tif").exists()
