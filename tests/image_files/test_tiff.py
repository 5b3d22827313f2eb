import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from fastmunit.errors import DataError
from fastmunit.image_files.open import is_image_file, open_image, output_suffix, writer_like
from fastmunit.image_files.tiff_reader import TiffReader
from fastmunit.region import Region
from tests.image_files.images import HEIGHT, WIDTH, check_reading, copied, pixels, put_shape, whole

tifffile = pytest.importorskip("tifffile")
pytest.importorskip("imagecodecs")

STORAGE = (
    {},
    {"rowsperstrip": 7},
    {"tile": (16, 32)},
    {"tile": (16, 32), "compression": "lzw", "predictor": True},
    {"compression": "zlib", "rowsperstrip": 5},
    {"compression": "zstd", "tile": (32, 16)},
)


@pytest.mark.parametrize("storage", STORAGE, ids=str)
@pytest.mark.parametrize("big", [False, True])
def test_strips_and_tiles(tmp_path: Path, storage: dict, big: bool) -> None:
    rgb = pixels(3)
    path = tmp_path / "image.tif"
    options = {"bigtiff": big, "byteorder": ">" if big else "<", **storage}
    tifffile.imwrite(path, rgb, photometric="rgb", planarconfig="separate", **options)
    check_reading(path, rgb[None])
    tifffile.imwrite(path, rgb.transpose(1, 2, 0), photometric="rgb", **options)
    check_reading(path, rgb[None])
    tifffile.imwrite(path, rgb, photometric="minisblack", **options)
    check_reading(path, rgb[None])
    check_reading(path, rgb[:, None], pages="planes")


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint32", "float16", "float32", "float64"])
def test_types_round_trip(tmp_path: Path, dtype: str) -> None:
    image = pixels(2, dtype=dtype)
    if image.dtype.kind == "f":
        image[0, 0, :3] = np.nan, np.inf, -np.inf
    tifffile.imwrite(tmp_path / "image.tif", image, photometric="minisblack", rowsperstrip=5, compression="zlib")
    values = copied(tmp_path / "image.tif", tmp_path / "copy.tif")
    np.testing.assert_array_equal(values[0], image)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "copy.tif"), image)


def test_samples_stay_samples_and_pages_stay_pages(tmp_path: Path) -> None:
    rgb = pixels(3)
    source, target = tmp_path / "image.tif", tmp_path / "copy.tif"
    for options in ({"planarconfig": "separate"}, {"planarconfig": "contig"}):
        stored = rgb if options["planarconfig"] == "separate" else rgb.transpose(1, 2, 0)
        tifffile.imwrite(source, stored, photometric="rgb", **options)
        copied(source, target)
        with tifffile.TiffFile(target) as file:
            (page,) = file.pages
            assert page.planarconfig.name.lower() == options["planarconfig"]
            assert page.photometric.name == "RGB" and page.is_tiled
            np.testing.assert_array_equal(page.asarray(), stored)
    tifffile.imwrite(source, rgb, photometric="minisblack", metadata=None)
    copied(source, target)
    with tifffile.TiffFile(target) as file:
        assert [page.shape for page in file.pages] == [(HEIGHT, WIDTH)] * 3


@pytest.mark.parametrize(("channels", "dtype"), [(1, "float32"), (3, "uint8"), (5, "int16")])
def test_other_channels_and_types(tmp_path: Path, channels: int, dtype: str) -> None:
    for index, image in enumerate((pixels(), pixels(4))):
        source, target = tmp_path / f"image{index}.tif", tmp_path / "copy.tif"
        tifffile.imwrite(source, image, photometric="minisblack")
        values = copied(source, target, channels, dtype)
        check_reading(target, values)
    with open_image(target) as reader:
        assert reader.dtype == dtype


def test_tags_are_kept(tmp_path: Path) -> None:
    source, target = tmp_path / "image.tif", tmp_path / "copy.tif"
    extra = [(33432, 2, 0, "somebody", True), (271, 2, 0, "maker", True), (700, 1, 5, b"<x/>\0", True)]
    tifffile.imwrite(
        source,
        pixels(),
        description="A scan",
        resolution=(300, 200),
        resolutionunit="INCH",
        iccprofile=b"profile.",
        datetime="2020:01:02 03:04:05",
        extratags=extra,
        metadata=None,
    )
    copied(source, target)
    with tifffile.TiffFile(source) as before, tifffile.TiffFile(target) as after:
        for code in (270, 271, 282, 283, 296, 306, 700, 33432, 34675):
            assert after.pages[0].tags[code].value == before.pages[0].tags[code].value, code
    copied(source, target, channels=3)
    with tifffile.TiffFile(target) as after:
        assert 34675 not in after.pages[0].tags  # the profile of other colors
        assert after.pages[0].description == "A scan"


@pytest.mark.parametrize("shape_is_last", [False, True])
def test_axes_in_json_are_kept(tmp_path: Path, shape_is_last: bool) -> None:
    stack = pixels(2, 4, 3, dtype="float32")
    source, target = tmp_path / "stack.tif", tmp_path / "copy.tif"
    for options in ({}, {"truncate": True}, {"compression": "zlib"}):
        metadata = {"axes": "TZCYX", "operator": "x"}
        tifffile.imwrite(source, stack, photometric="minisblack", metadata=metadata, **options)
        put_shape(source, last=shape_is_last)
        check_reading(source, stack.reshape(8, 3, HEIGHT, WIDTH))
        copied(source, target)
        with tifffile.TiffFile(target) as file:
            assert file.series[0].axes == "TZCYX" and file.series[0].shape == stack.shape
            assert file.shaped_metadata[0]["operator"] == "x"
            np.testing.assert_array_equal(file.asarray(), stack)
    copied(source, target, channels=1)
    with tifffile.TiffFile(target) as file:
        assert file.series[0].axes == "TZYX"


def test_imagej_hyperstack(tmp_path: Path) -> None:
    stack = pixels(2, 4, 3, dtype="float32")
    source, target = tmp_path / "stack.tif", tmp_path / "copy.tif"
    metadata = {"axes": "TZCYX", "spacing": 2.5, "unit": "um", "min": 0.0, "max": 90.0}
    tifffile.imwrite(source, stack, imagej=True, resolution=(2, 4), metadata=metadata)
    check_reading(source, stack.reshape(8, 3, HEIGHT, WIDTH))
    with open_image(source) as reader:
        assert reader.window == (0.0, 90.0)
    copied(source, target)
    with tifffile.TiffFile(target) as file:
        assert file.is_imagej and file.series[0].axes == "TZCYX" and file.pages[0].resolution == (2.0, 4.0)
        kept = {key: file.imagej_metadata[key] for key in ("spacing", "unit", "min", "max")}
        assert kept == {key: metadata[key] for key in kept}
        np.testing.assert_array_equal(file.asarray(), stack)
    values = copied(source, target, channels=1, dtype="int16")  # a type that ImageJ's format does not have
    check_reading(target, values)


def pyramid(path: Path, image: np.ndarray, **options: object) -> None:
    with tifffile.TiffWriter(path) as file:
        file.write(image, tile=(32, 32), photometric="rgb", subifds=1, metadata=None, **options)
        file.write(image[::2, ::2], tile=(32, 32), photometric="rgb", subfiletype=1, metadata=None)


def test_pyramid(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (101, 150, 3), dtype=np.uint8)
    pyramid(tmp_path / "image.tif", image)
    with open_image(tmp_path / "image.tif") as reader:
        assert reader.levels == ((101, 150), (51, 75))
    copied(tmp_path / "image.tif", tmp_path / "copy.tif")
    with tifffile.TiffFile(tmp_path / "copy.tif") as file:
        full, half = file.series[0].levels
        np.testing.assert_array_equal(full.asarray(), image)
        assert half.shape == (51, 75, 3)
        padded = np.pad(image, ((0, 1), (0, 0), (0, 0)), mode="edge").astype(float)
        np.testing.assert_array_equal(half.asarray(), np.rint(padded.reshape(51, 2, 75, 2, 3).mean(axis=(1, 3))))


APERIO = "Aperio Image Library v11.2.1\r\n150x101 [0,0 150x101] (32x32) JPEG/RGB Q=70|AppMag = 20|MPP = 0.4990"


def test_slide_becomes_a_pyramidal_ome_tiff(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (101, 150, 3), dtype=np.uint8)
    slide, target = tmp_path / "slide.svs", tmp_path / "copy.ome.tif"
    with tifffile.TiffWriter(slide) as file:
        file.write(image, tile=(32, 32), photometric="rgb", description=APERIO, metadata=None)
        file.write(image[::8, ::8], photometric="rgb", description="Aperio\nthumbnail", metadata=None)
        file.write(image[::4, ::4], tile=(32, 32), photometric="rgb", description="Aperio\nlevel", metadata=None)
        file.write(image[:20, :20], photometric="rgb", subfiletype=1, description="Aperio\nlabel", metadata=None)
    with open_image(slide) as reader:
        assert is_image_file(slide) and output_suffix(reader) == ".ome.tif"
        assert reader.levels == ((101, 150), (26, 38)) and reader.channel_names == ("R", "G", "B")
    copied(slide, target)
    with tifffile.TiffFile(target) as file:
        assert file.is_ome and [level.shape[:2] for level in file.series[0].levels] == [(101, 150), (51, 75), (26, 38)]
        np.testing.assert_array_equal(file.asarray(), image)
        ome = tifffile.xml2dict(file.ome_metadata)["OME"]
        described = ome["Image"]["Pixels"]
        assert (described["PhysicalSizeX"], described["PhysicalSizeXUnit"]) == (0.499, "µm")
        assert ome["Instrument"]["Objective"]["NominalMagnification"] == 20
        assert "MPP = 0.4990" in ome["Image"]["Description"]


def test_geotiff_tags_without_other_packages(tmp_path: Path) -> None:
    source, target = tmp_path / "scene.tif", tmp_path / "copy.tif"
    keys = (1, 1, 0, 1, 3072, 0, 1, 32633)
    tags = [
        (33550, 12, 3, (10.0, 10.0, 0.0), True),
        (33922, 12, 6, (0.0, 0.0, 0.0, 5e5, 5e6, 0.0), True),
        (34735, 3, len(keys), keys, True),
        (34736, 12, 2, (1.5, 2.5), True),
        (34737, 2, 0, "WGS 84|", True),
        (42113, 2, 0, "-9999", True),
    ]
    tifffile.imwrite(
        source, pixels(2, dtype="float32"), photometric="minisblack", planarconfig="separate", extratags=tags
    )
    with open_image(source) as reader:
        assert reader.nodata == -9999.0 and is_image_file(source)
    copied(source, target, names=("VV", "VH"))
    with tifffile.TiffFile(source) as before, tifffile.TiffFile(target) as after:
        for code, *_ in tags:
            assert after.pages[0].tags[code].value == before.pages[0].tags[code].value, code
    with open_image(target) as reader:
        assert reader.channel_names == ("VV", "VH")


def test_geotiff_as_rasterio_reads_it(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    image = pixels(4)
    source, target = tmp_path / "scene.tif", tmp_path / "copy.tif"
    transform = rasterio.transform.from_origin(5e5, 5e6, 10, 10)
    options = {"driver": "GTiff", "crs": "EPSG:32633", "transform": transform, "nodata": 0, "dtype": "uint16"}
    with rasterio.open(source, "w", height=HEIGHT, width=WIDTH, count=4, **options) as scene:
        scene.write(image)
        scene.descriptions = ("B02", "B03", "B04", "B08")
        scene.update_tags(SENSOR="two")
        scene.update_tags(1, STATISTICS_MEAN="3")
    copied(source, target)
    with rasterio.open(source) as before, rasterio.open(target) as after:
        for name in ("crs", "transform", "nodata", "descriptions", "count", "dtypes", "bounds"):
            assert getattr(after, name) == getattr(before, name), name
        assert after.tags()["SENSOR"] == "two"
        assert "STATISTICS_MEAN" not in after.tags(1)  # those of other pixels
        np.testing.assert_array_equal(after.read(), image)


def test_pages_of_several_images_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(pixels(), metadata=None)
        file.write(pixels()[:9], metadata=None)
    with pytest.raises(DataError, match=r"image.tif: page 2 has 9 x 53 pixels of 16 bits, and page 1 has 37 x 53"):
        open_image(path)


def test_types_that_are_no_pixels_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, pixels(dtype="complex64"))
    with pytest.raises(DataError, match=r"type complex64: expected integers or floats"):
        open_image(path)
    tifffile.imwrite(path, pixels() > 9)
    with pytest.raises(DataError, match=r"type bool"):
        open_image(path)
    tifffile.imwrite(path, pixels(dtype="uint8"), photometric="palette", colormap=np.zeros((3, 256), np.uint16))
    with pytest.raises(DataError, match=r"palette image: convert it to RGB"):
        open_image(path)


@pytest.mark.parametrize("error", [KeyError, ModuleNotFoundError])
def test_missing_decoder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[KeyError | ModuleNotFoundError]
) -> None:
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, pixels(), compression="zstd")

    class Decoders(dict):
        def __missing__(self, key: int) -> None:
            raise error(f"{key} requires the imagecodecs package")

    monkeypatch.setattr(tifffile.TIFF, "DECOMPRESSORS", Decoders())
    with pytest.raises(
        DataError,
        match=r"its compression ZSTD needs a decoder of the package imagecodecs: pip install .* says: 50000 requires",
    ):
        open_image(path)


def test_memory_of_reading_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "large.tif"
    side = 4096
    tile = np.full((256, 256), 7, np.uint16)
    count = (side // 256) ** 2
    tifffile.imwrite(
        path,
        iter([tile] * count),
        shape=(side, side),
        dtype=np.uint16,
        tile=(256, 256),
        compression="zlib",
        maxworkers=1,
    )
    with open_image(path) as reader:
        tracemalloc.start()
        try:
            for top in range(0, side, 1000):
                assert (reader.read(Region(top, 3000, 96, 1000)) == 7).all()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 8e6  # the image has 33 MB


def test_memory_of_writing_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastmunit.image_files import staging

    monkeypatch.setattr(staging, "_MAX_VALUES", 1 << 14)
    path, target = tmp_path / "large.tif", tmp_path / "copy.tif"
    side = 1024
    with tifffile.TiffWriter(path) as file:
        file.write(np.zeros((side, side), np.float64), tile=(128, 128), subifds=1, compression="zlib", metadata=None)
        file.write(np.zeros((256, 256), np.float64), tile=(128, 128), subfiletype=1, compression="zlib", metadata=None)
    with open_image(path) as reader:
        tracemalloc.start()
        try:
            with writer_like(reader, target, 1, "float64") as writer:
                for top in range(0, side, 128):
                    writer.write(np.full((1, 128, side), top, np.float64), Region(top, 0, 128, side))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 4e6  # the image has 8.4 MB
    with open_image(target) as reader:
        assert reader.levels == ((1024, 1024), (512, 512), (256, 256))
        np.testing.assert_array_equal(reader.read(Region(0, 9, side, 1))[0, ::128, 0], np.arange(0, side, 128))


def test_uncompressed_strip_is_read_by_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, np.zeros((500, 700), np.float32))
    sizes: list[int] = []

    def counted(descriptor: int, buffers: list, position: int) -> int:
        sizes.append(sum(len(buffer) for buffer in buffers))
        return preadv(descriptor, buffers, position)

    preadv = os.preadv
    with open_image(path) as reader:
        monkeypatch.setattr(os, "preadv", counted)
        reader.read(Region(100, 200, 10, 30))
    assert sum(sizes) == 10 * 30 * 4


def test_sparse_tiles_have_the_value_of_missing_data(tmp_path: Path) -> None:
    path = tmp_path / "sparse.tif"
    tiles = iter([np.full((16, 16), 3, np.uint16), None, None, None])
    tifffile.imwrite(
        path, tiles, shape=(32, 32), dtype=np.uint16, tile=(16, 16), extratags=[(42113, 2, 0, "9", True)], metadata=None
    )
    with open_image(path) as reader:
        image = reader.read()[0]
    assert (image[:16, :16] == 3).all() and (image[16:] == 9).all() and (image[:, 16:] == 9).all()


def test_palettes_and_8_bit_strips_are_ordinary_images(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    ordinary = ({"compression": "zlib"}, {"description": "text", "metadata": None})
    for options in ordinary:
        tifffile.imwrite(path, pixels(dtype="uint8"), **options)
        assert not is_image_file(path)
        check_reading(path, pixels(dtype="uint8")[None, None])  # but they can be opened
    for options in ({"tile": (16, 16)}, {"bigtiff": True}, {"imagej": True}):
        tifffile.imwrite(path, pixels(dtype="uint8"), **options)
        assert is_image_file(path)
    tifffile.imwrite(path, pixels())
    assert is_image_file(path)


def test_samples_besides_color_and_alpha_are_channels(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    ordinary = {
        ("minisblack", 1, None),
        ("minisblack", 2, "assocalpha"),
        ("minisblack", 2, "unassalpha"),
        ("rgb", 3, None),
        ("rgb", 4, None),
        ("rgb", 4, "assocalpha"),
        ("rgb", 4, "unassalpha"),
        ("separated", 4, None),
    }
    others = {("minisblack", count, None) for count in (2, 3, 4, 5)} | {("miniswhite", 2, None)}
    others |= {("minisblack", 5, "unassalpha"), ("rgb", 4, "unspecified"), ("rgb", 5, None), ("rgb", 7, "unassalpha")}
    others |= {("separated", 5, None), ("separated", 5, "unassalpha")}
    for colors, count, first in ordinary | others:
        image = pixels(count, dtype="uint8")
        more = count - {"minisblack": 1, "miniswhite": 1, "rgb": 3, "separated": 4}[colors]
        extra = {} if first is None else {"extrasamples": [first, *["unspecified"] * (more - 1)]}
        for planes in ("contig", "separate"):
            stored = image if planes == "separate" else image.transpose(1, 2, 0)
            options = {} if count == 1 else {"planarconfig": planes}
            stored = image[0] if count == 1 else stored
            tifffile.imwrite(path, stored, photometric=colors, metadata=None, **options, **extra)
            check_reading(path, image[None])
            # Pillow does not divide these into planes.
            divided = planes == "separate" and (first == "assocalpha" or (colors, count) == ("minisblack", 2))
            assert is_image_file(path) == ((colors, count, first) in others or divided), (colors, count, first, planes)


def test_signed_bytes_are_no_ordinary_images(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, pixels(dtype="int8"))
    assert is_image_file(path)


def test_significant_bits(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, pixels(), extratags=[(281, 3, 1, 4095, True)])
    with open_image(path) as reader:
        assert (reader.bits, reader.value_range) == (12, (0.0, 4095.0))


def test_json_description_that_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    description = json.dumps({"shape": [9, HEIGHT, WIDTH], "axes": "ZYX"})
    tifffile.imwrite(path, pixels(), description=description, metadata=None, compression="zlib")
    with pytest.raises(DataError, match=r"has 9 pages, and the file has 1: it is truncated"):
        open_image(path)


def test_reading_after_closing(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    for options in ({}, {"compression": "zlib"}):
        tifffile.imwrite(path, pixels(), **options)
        reader = TiffReader(path)
        reader.close()
        reader.close()
        with pytest.raises(DataError, match=r"image.tif"):
            reader.read()


def test_writer_keeps_a_classic_tiff_classic_and_big_big(tmp_path: Path) -> None:
    for big in (False, True):
        tifffile.imwrite(tmp_path / "image.tif", pixels(), bigtiff=big)
        copied(tmp_path / "image.tif", tmp_path / "copy.tif")
        with tifffile.TiffFile(tmp_path / "copy.tif") as file:
            assert file.is_bigtiff == big


def test_levels_leave_missing_data_out(tmp_path: Path) -> None:
    image = np.full((64, 64), 10, np.float32)
    image[0, 0], image[8:10, 8:10] = -1, -1
    image[20, 20] = np.nan
    with tifffile.TiffWriter(tmp_path / "image.tif") as file:
        tag = [(42113, 2, 0, "-1", True)]
        file.write(image, tile=(32, 32), subifds=1, metadata=None, extratags=tag)
        file.write(image[::2, ::2], tile=(32, 32), subfiletype=1, metadata=None)
    with (
        open_image(tmp_path / "image.tif") as reader,
        writer_like(reader, tmp_path / "copy.tif", 1, "float32") as writer,
    ):
        writer.write(whole(reader)[0])
    with tifffile.TiffFile(tmp_path / "copy.tif") as file:
        half = file.series[0].levels[1].asarray()
    assert half[0, 0] == 10 and half[4, 4] == -1 and half[10, 10] == 10
