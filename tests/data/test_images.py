from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from fastmunit.data import read_image, save_image
from fastmunit.data.images import check_bands, decode_image, encode_image, read_header
from fastmunit.data.opening import ImageBytes, PixelLimitError
from fastmunit.errors import DataError, FastmunitError
from tests.data.deep import deep_png, stored_rows, with_changed_rows

LEVELS = np.random.default_rng(0).integers(0, 256, (5, 7, 4), dtype=np.uint8)


def unit(image: torch.Tensor) -> np.ndarray:
    """Map [-1, 1] to [0, 1]."""
    return ((image + 1) / 2).numpy()


def test_rgb_and_gray_values(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(LEVELS[..., :3]).save(path)
    image = read_image(path, 3)
    assert image.dtype == torch.float32
    assert image.shape == (3, 5, 7)
    np.testing.assert_allclose(unit(image), LEVELS[..., :3].transpose(2, 0, 1) / 255, atol=1e-6)
    luma = LEVELS[..., :3] @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(unit(read_image(path, 1))[0], luma / 255, atol=1 / 255)


def test_extreme_levels_are_exactly_minus_one_and_one(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png", 1).tolist() == [[[-1.0, 1.0]]]
    Image.fromarray(np.array([[0, 65535]], dtype=np.uint16)).save(tmp_path / "y.png")
    assert read_image(tmp_path / "y.png", 1).tolist() == [[[-1.0, 1.0]]]


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_is_scaled_not_clipped(tmp_path: Path, suffix: str, channels: int) -> None:
    deep = np.random.default_rng(1).integers(0, 65536, (6, 4), dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / f"x.{suffix}")
    image = read_image(tmp_path / f"x.{suffix}", channels)
    assert image.shape == (channels, 6, 4)
    np.testing.assert_allclose(unit(image), np.broadcast_to(deep / 65535, (channels, 6, 4)), atol=1e-6)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("bands", [2, 3, 4])
def test_16_bit_color_png_keeps_its_depth(tmp_path: Path, bands: int, interlaced: bool) -> None:
    path = tmp_path / "x.png"
    deep = np.random.default_rng(2).integers(0, 65536, (5, 7, bands), dtype=np.uint16)
    path.write_bytes(deep_png(deep, interlaced=interlaced))
    assert read_header(path) == (5, 7, bands, 1, True)
    planes = torch.from_numpy(deep.astype(np.float32)).permute(2, 0, 1) / 65535
    assert torch.equal(decode_image(path, bands), planes)
    colors = planes if bands == 3 else planes[:-1] * planes[-1:] + (1 - planes[-1:])
    assert torch.equal(decode_image(path, 3), colors.expand(3, 5, 7))
    gray = colors if bands == 2 else (colors * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0, keepdim=True)
    assert torch.equal(decode_image(path, 1), gray)
    with pytest.raises(DataError, match=f"has {bands} bands but input_dim is 5"):
        read_image(path, 5)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_16_bit_color_png_is_turned_upright(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "x.png"
    deep = np.random.default_rng(2).integers(0, 65536, (5, 7, 3), dtype=np.uint16)
    path.write_bytes(deep_png(deep, orientation=orientation))
    with Image.open(path) as image:
        upright = np.array(ImageOps.exif_transpose(image))  # only the high bytes
    turned = decode_image(path, 3)
    assert np.array_equal((turned * 65535).round().to(torch.int32).permute(1, 2, 0).numpy() // 256, upright)
    assert read_header(path)[:2] == turned.shape[1:]
    path.write_bytes(deep_png(deep, orientation=orientation, late=True))  # an orientation after the data is ignored
    assert read_header(path)[:2] == decode_image(path, 3).shape[1:] == (5, 7)


def test_damaged_16_bit_color_png_is_named(tmp_path: Path) -> None:
    """Truncated files, wrong checksums, unknown filters and missing rows are refused, never decoded to other pixels."""
    path = tmp_path / "x.png"
    deep = np.random.default_rng(2).integers(0, 65536, (50, 70, 3), dtype=np.uint16)
    content, rows = deep_png(deep), stored_rows(deep)
    flipped = bytearray(content)
    flipped[5000] ^= 1
    wrong_filter = rows[:421] + b"\x2a" + rows[422:]
    for damaged in (
        content[:5000],
        bytes(flipped),
        deep_png(deep, rows=wrong_filter),
        deep_png(deep, rows=rows[: 421 * 20]),
        deep_png(deep, rows=rows[:-1]),
        deep_png(deep, rows=stored_rows(deep, interlaced=True)[:-1], interlaced=True),
    ):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"x\.png is damaged"):
            read_image(path, 3)


@pytest.mark.parametrize(("mode", "row"), [("RGB", 211), ("P", 10), ("L", 71), ("1", 10), ("I;16", 141)])
def test_missing_rows_are_named(tmp_path: Path, mode: str, row: int) -> None:
    """If the data end after a complete row, Pillow fills the missing rows with zeros."""
    path = tmp_path / "x.png"
    Image.new(mode, (70, 50)).save(path)
    assert decode_image(path, 3).shape == (3, 50, 70)  # zeros in the last row are valid
    path.write_bytes(with_changed_rows(path.read_bytes(), lambda rows: rows[: 20 * row]))
    with pytest.raises(DataError, match=rf"x\.png is damaged .*its data end after {20 * row} of {50 * row} bytes"):
        decode_image(path, 3)


def test_big_endian_16_bit(tmp_path: Path) -> None:
    deep = np.array([[1, 256, 65535]], dtype=np.uint16)
    Image.frombytes("I;16B", (3, 1), deep.astype(">u2").tobytes()).save(tmp_path / "x.tif")
    np.testing.assert_allclose(unit(read_image(tmp_path / "x.tif", 1))[0], deep / 65535, atol=1e-6)


def test_32_bit_integers_and_floats_must_be_in_range(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    Image.fromarray(np.array([[0, 65535]], dtype=np.int32)).save(path)
    assert unit(read_image(path, 1)).tolist() == [[[0.0, 1.0]]]
    Image.fromarray(np.array([[0, 65536]], dtype=np.int32)).save(path)
    with pytest.raises(DataError, match=r"x\.tif: integer values 0\.\.65536"):
        read_image(path, 1)
    Image.fromarray(np.array([[0.0, 0.25]], dtype=np.float32)).save(path)
    assert unit(read_image(path, 3)).tolist() == [[[0.0, 0.25]]] * 3
    for bad in (-0.1, 1.5, np.nan, np.inf):
        Image.fromarray(np.array([[0.0, bad]], dtype=np.float32)).save(path)
        with pytest.raises(DataError, match=r"x\.tif: float values .* scale them to \[0, 1\]"):
            read_image(path, 1)


def test_transparency_is_blended_with_white(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(np.array([[[10, 20, 30, 255], [10, 20, 30, 0]]], dtype=np.uint8)).save(path)
    np.testing.assert_allclose(unit(read_image(path, 3))[:, 0, 1], 1.0)
    np.testing.assert_allclose(unit(read_image(path, 3))[:, 0, 0], np.array([10, 20, 30]) / 255, atol=1e-6)
    np.testing.assert_allclose(unit(read_image(path, 1))[0, 0, 1], 1.0)
    Image.fromarray(np.array([[[9, 0]]], dtype=np.uint8), mode=None).save(path)
    assert unit(read_image(path, 1)).tolist() == [[[1.0]]]


def test_four_channels_are_the_bands_of_the_file(tmp_path: Path) -> None:
    Image.fromarray(LEVELS).save(tmp_path / "x.png")
    np.testing.assert_allclose(unit(read_image(tmp_path / "x.png", 4)), LEVELS.transpose(2, 0, 1) / 255, atol=1e-6)
    Image.fromarray(LEVELS).convert("CMYK").save(tmp_path / "x.tif")
    assert read_image(tmp_path / "x.tif", 4).shape == (4, 5, 7)


def test_palettes(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    palette = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8), mode=None).convert("P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.save(path)
    assert unit(read_image(path, 3))[:, 0].T.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    palette.save(path, transparency=1)
    assert unit(read_image(path, 3))[:, 0].T.tolist() == [[1, 0, 0], [1, 1, 1], [0, 0, 1]]
    assert unit(read_image(path, 4))[:, 0].T.tolist() == [[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 1]]
    assert read_header(path).bands == 4
    Image.new("1", (3, 2), 1).save(path)
    assert unit(read_image(path, 1)).tolist() == [[[1.0] * 3] * 2]


@pytest.mark.parametrize("channels", [2, 5, 7])
def test_any_number_of_channels_through_tiff_pages(tmp_path: Path, channels: int) -> None:
    image = torch.rand(channels, 6, 9, generator=torch.Generator().manual_seed(0)) * 2 - 1
    path = tmp_path / "x.tif"
    save_image(image, path)
    assert torch.allclose(read_image(path, channels), image, atol=1.01 / 255)
    header = read_header(path)
    assert (header.height, header.width, header.bands) == (6, 9, channels)
    check_bands(path, header, channels)


def test_16_bit_pages_keep_their_depth(tmp_path: Path) -> None:
    deep = np.random.default_rng(1).integers(0, 65536, (5, 6, 4), dtype=np.uint16)
    first, *rest = (Image.fromarray(page) for page in deep)
    first.save(tmp_path / "x.tif", save_all=True, append_images=rest)
    np.testing.assert_allclose(unit(read_image(tmp_path / "x.tif", 5)), deep / 65535, atol=1e-6)


@pytest.mark.parametrize(("mode", "bands", "channels"), [("RGB", 3, 4), ("RGBA", 4, 5), ("L", 1, 2), ("I;16", 1, 4)])
def test_band_mismatch_names_file_and_both_numbers(tmp_path: Path, mode: str, bands: int, channels: int) -> None:
    path = tmp_path / "odd.png"
    Image.new(mode, (4, 4)).save(path)
    with pytest.raises(DataError, match=rf"odd\.png has {bands} bands but input_dim is {channels}"):
        read_image(path, channels)
    with pytest.raises(DataError, match=rf"odd\.png has {bands} bands but input_dim is {channels}"):
        check_bands(path, read_header(path), channels)


def test_pages_that_do_not_match_the_channels(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    Image.new("L", (4, 4)).save(path, save_all=True, append_images=[Image.new("L", (4, 4))])
    for channels in (1, 3, 4):
        with pytest.raises(DataError, match=f"has 2 bands but input_dim is {channels}"):
            read_image(path, channels)
        with pytest.raises(DataError, match=f"has 2 bands but input_dim is {channels}"):
            check_bands(path, read_header(path), channels)
    Image.new("L", (4, 4)).save(path, save_all=True, append_images=[Image.new("L", (4, 5))])
    with pytest.raises(DataError, match=r"x\.tif: the pages of this TIFF differ in size"):
        read_image(path, 2)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_orientation(tmp_path: Path, suffix: str, orientation: int) -> None:
    levels = np.zeros((16, 32), dtype=np.uint8)
    levels[:, 16:] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(levels).save(path, exif=exif)
    image = read_image(path, 1)[0]
    turns = {1: 0, 3: 2, 6: 3, 8: 1}[orientation]
    expected = torch.from_numpy(np.rot90(levels, turns).copy()) / 127.5 - 1
    assert image.shape == expected.shape
    assert (image - expected).abs().max() < 0.1
    header = read_header(path)
    assert (header.height, header.width) == tuple(image.shape)


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "ppm", "tif"])
def test_truncated_files_are_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    content = path.read_bytes()
    for part in (0, 3, len(content) // 2, len(content) - 200):
        path.write_bytes(content[:part])
        with pytest.raises(DataError, match=rf"cut\.{suffix}.*(replace or remove|cannot be read)"):
            read_image(path, 3)


def test_not_an_image_and_missing(tmp_path: Path) -> None:
    (tmp_path / "page.jpg").write_text("<html>404</html>")
    with pytest.raises(DataError, match=r"page\.jpg is damaged or not an image"):
        read_header(tmp_path / "page.jpg")
    with pytest.raises(DataError, match=r"gone\.jpg does not exist"):
        read_image(tmp_path / "gone.jpg", 3)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 4), st.integers(1, 33), st.integers(1, 33), st.sampled_from(["png", "tif"]), st.integers(0, 99))
def test_saved_images_read_back(tmp_path: Path, channels: int, height: int, width: int, suffix: str, seed: int) -> None:
    image = torch.rand(channels, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    path = tmp_path / f"x.{suffix}"
    save_image(image, path)
    again = read_image(path, channels)
    assert torch.allclose(again, image, atol=1.01 / 255)
    save_image(again, path)
    assert torch.equal(read_image(path, channels), again)
    assert decode_image(path, channels).dtype == torch.uint8


def test_save_clamps_and_refuses_unsupported_channels(tmp_path: Path) -> None:
    save_image(torch.tensor([[[-3.0, 3.0]]], dtype=torch.bfloat16), tmp_path / "x.png")
    assert read_image(tmp_path / "x.png", 1).tolist() == [[[-1.0, 1.0]]]
    before = (tmp_path / "x.png").read_bytes()
    with pytest.raises(DataError, match=r"x\.png: the image contains NaN"):
        save_image(torch.full((3, 2, 2), float("nan")), tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes() == before
    with pytest.raises(DataError, match=r"PNG cannot store 5 channels: use \.tif"):
        save_image(torch.zeros(5, 2, 2), tmp_path / "y.png")
    with pytest.raises(DataError, match="JPEG cannot store 4 channels"):
        save_image(torch.zeros(4, 2, 2), tmp_path / "y.jpg")
    with pytest.raises(DataError, match="unknown image format"):
        save_image(torch.zeros(3, 2, 2), tmp_path / "y.xyz")
    with pytest.raises(DataError, match=r"shape \(2, 2\)"):
        save_image(torch.zeros(2, 2), tmp_path / "y.png")
    (tmp_path / "file").touch()
    with pytest.raises(FastmunitError, match="cannot write"):
        save_image(torch.zeros(3, 2, 2), tmp_path / "file" / "y.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "x.png"]


@pytest.mark.parametrize("deep", [False, True])
def test_an_image_in_memory_is_read_like_its_file(tmp_path: Path, deep: bool) -> None:
    path = tmp_path / "x.png"
    if deep:
        path.write_bytes(deep_png(LEVELS[..., :3].astype(np.uint16) * 257))
    else:
        Image.fromarray(LEVELS[..., :3]).save(path)
    in_memory = ImageBytes(path.read_bytes(), "the upload")
    assert read_header(in_memory) == read_header(path)
    assert torch.equal(read_image(in_memory, 3), read_image(path, 3))


def test_errors_with_an_image_in_memory_give_its_name() -> None:
    content = encode_image(torch.zeros(3, 20, 10), "PNG", "x")
    with pytest.raises(DataError, match=r"^the upload is damaged"):
        decode_image(ImageBytes(content[:-60], "the upload"), 3)
    with pytest.raises(DataError, match=r"^the upload has 3 bands"):
        decode_image(ImageBytes(content, "the upload"), 2)
    with pytest.raises(DataError, match=r"^the upload is damaged or not an image .*\(unknown format\)"):
        read_header(ImageBytes(content, "the upload", formats=("JPEG",)))
    with pytest.raises(PixelLimitError, match=r"^the upload has 0.0002 megapixels"):
        read_header(ImageBytes(content, "the upload"), 199)


def test_encoded_images_are_those_that_are_saved(tmp_path: Path) -> None:
    image = torch.from_numpy(LEVELS[..., :3]).permute(2, 0, 1) / 127.5 - 1
    save_image(image, tmp_path / "x.png")
    assert encode_image(image, "PNG", "x") == (tmp_path / "x.png").read_bytes()
    assert encode_image(image, "PNG", "x", compress_level=0) != (tmp_path / "x.png").read_bytes()
    with pytest.raises(DataError, match=r"^output 3: the image contains NaN"):
        encode_image(image / 0 * 0, "PNG", "output 3")
