"""Value ranges: stored values to network values and back, for every type, with and without data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fastmunit import data
from fastmunit.config import Config
from fastmunit.data import auto_range
from fastmunit.data.images import decode_image, decode_stored
from fastmunit.data.pixels import read_pixels, read_planes
from fastmunit.data.sources import GivenImages
from fastmunit.data.value_range import PixelValues, ValueRange
from fastmunit.data.values import image_tensor
from fastmunit.errors import ConfigError, DataError


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["uint8", "uint16", "int16", "int32", "uint32", "float32", "float64"]),
    st.integers(-30000, 30000),
    st.integers(1, 60000),
)
def test_stored_values_survive_the_network(dtype: str, low: int, width: int) -> None:
    kind = np.dtype(dtype)
    if kind.kind in "iu":
        low = min(max(low, np.iinfo(kind).min), np.iinfo(kind).max - 1)
        width = min(width, np.iinfo(kind).max - low)
    values = np.linspace(low, low + width, 5 * 7).reshape(1, 5, 7).astype(kind)
    mapping = ValueRange(float(low), float(low + width))
    mapped = mapping.to_network(values)
    assert mapped.dtype == torch.float32
    assert (mapped.min(), mapped.max()) == (-1, 1)
    back = mapping.from_network(mapped, kind)
    assert back.dtype == kind
    if kind.kind in "iu":
        assert np.array_equal(back, values)
    else:
        assert np.abs(back - values).max() <= width * 1e-7


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint64", "int64", "float16", "float32"])
def test_outputs_never_wrap_around(dtype: str) -> None:
    image = torch.tensor([-3.0, -1.0, 1.0, 3.0]).reshape(1, 1, 4)
    values = ValueRange(-1e30, 1e30).from_network(image, np.dtype(dtype))
    info: Any = np.finfo(dtype) if dtype.startswith("float") else np.iinfo(dtype)
    low, high = (max(float(info.min), -1e30), min(float(info.max), 1e30))
    assert values.astype(np.float64).ravel() == pytest.approx([low, low, high, high])
    with pytest.raises(DataError, match="contains NaN"):
        ValueRange(0, 1).from_network(image * torch.nan, np.dtype(dtype))


def test_values_outside_are_clipped_and_channels_have_ranges_of_their_own() -> None:
    values = np.array([[[0, 100, 300]], [[0, 100, 300]], [[0, 100, 300]], [[0, 100, 300]]], np.int32)
    mapped = ValueRange((0.0, 100.0), (200.0, 200.0)).to_network(values)
    expected = torch.tensor([[-1.0, 0.0, 1.0], [-1.0, -1.0, 1.0]])
    assert torch.equal(mapped[:, 0], torch.cat([expected, expected]))


def test_pixels_without_data_are_the_low_end() -> None:
    values = np.array([[[np.nan, np.inf, -np.inf, -9999, 10, 20]]], np.float32)
    mapping = ValueRange(10, 20, nodata=-9999.0)
    assert mapping.missing(values).ravel().tolist() == [True, True, True, True, False, False]
    assert mapping.to_network(values).ravel().tolist() == [-1, -1, -1, -1, -1, 1]
    assert not ValueRange(10, 20, nodata=-9999.0).missing(np.zeros((1, 2, 2), np.uint8)).any()
    assert not ValueRange(10, 20, nodata=0.5).missing(np.zeros((1, 2, 2), np.uint8)).any()
    assert ValueRange(10, 20, nodata=0.0).missing(np.zeros((1, 2, 2), np.uint8)).all()


def test_a_range_has_two_ends() -> None:
    for ends in ((1.0, 1.0), ((0.0, 3.0), (1.0, 2.0)), (0.0, float("nan"))):
        with pytest.raises(ValueError, match="expected low < high"):
            ValueRange(*ends)  # type: ignore[arg-type]


def test_a_window_is_a_range() -> None:
    config = Config(window_a=[40, 400], value_range_b=[[0, 1], [2, 3]], input_dim_b=2)
    assert PixelValues.of(config, "a").range == ValueRange(-160.0, 240.0)
    assert PixelValues.of(config, "b").range == ValueRange((0.0, 2.0), (1.0, 3.0))
    assert PixelValues.of(Config(), "a") == PixelValues()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"value_range_a": [3, 3]}, r"value_range_a = \[3, 3\]: expected auto, \[low, high\]"),
        ({"value_range_a": [0, float("nan")]}, "value_range_a"),
        ({"value_range_a": [-1e308, 1.7e308]}, "value_range_a"),
        ({"value_range_a": [True, 3]}, "value_range_a"),
        ({"value_range_a": "wide"}, "value_range_a = 'wide'"),
        ({"value_range_a": [[0, 1], [2]]}, "value_range_a"),
        ({"value_range_a": [[0, 1], [0, 1]]}, "value_range_a has 2 entries, but there are 3 channels"),
        ({"value_range_a": []}, "value_range_a"),
        ({"window_b": [40, 0]}, r"window_b = \[40, 0\]: expected \[center, width\]"),
        ({"window_b": [40, 10], "value_range_b": [0, 1]}, "either value_range_b or window_b"),
        ({"nodata_a": 0}, "nodata_a needs value_range_a"),
        ({"nodata_a": float("inf"), "value_range_a": [0, 1]}, "nodata_a"),
        ({"channel_names_a": ["red"]}, "channel_names_a has 1 entries, but there are 3 channels"),
        ({"channel_names_a": ["a", "a", "b"]}, "expected a list of different names"),
        ({"channel_names_b": "red"}, "expected a list of different names"),
        ({"slices": 2}, "slices = 2: expected an odd number"),
        ({"slices": 5}, "slices = 5 needs an input_dim_a that is a multiple"),
    ],
)
def test_wrong_keys(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config.from_dict(values)


def test_ranges_survive_the_file(tmp_path: Path) -> None:
    config = Config(value_range_a=[0, 4095], window_b=[40, 400], nodata_a=0, slices=3, channel_names_b=["DAPI"])
    config.save(tmp_path / "config.yaml")
    assert Config.load(tmp_path / "config.yaml") == config
    assert Config.load("demo", ["value_range_a=[0, 4095]"]).value_range_a == [0, 4095]


DEEP = {
    "gray.png": np.uint16,
    "gray.tif": np.uint16,
    "float.tif": np.float32,
    "signed.tif": np.int32,
}


@pytest.mark.parametrize("name", sorted(DEEP))
def test_files_are_read_as_they_are_stored(name: str, tmp_path: Path) -> None:
    values = np.arange(35).reshape(5, 7).astype(DEEP[name]) * 100
    if name in ("float.tif", "signed.tif"):
        values -= 1000
    Image.fromarray(values).save(tmp_path / name)
    assert np.array_equal(decode_stored(tmp_path / name, 1)[0].numpy(), values)
    assert np.array_equal(decode_stored(tmp_path / name, 3)[2].numpy(), values)
    mapping = ValueRange(float(values.min()), float(values.max()))
    pixels = read_pixels(tmp_path / name, 3, None, PixelValues(mapping))
    assert torch.equal(pixels, mapping.to_network(np.stack([values] * 3)))
    if name in ("float.tif", "signed.tif"):
        with pytest.raises(DataError, match=r"outside .*set value_range_a"):
            decode_image(tmp_path / name, 1)


def test_without_keys_nothing_changes(tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "a.png")
    assert torch.equal(read_planes(tmp_path / "a.png", 3), decode_image(tmp_path / "a.png", 3))
    repeated = read_planes(tmp_path / "a.png", 9, None, PixelValues(slices=3))
    assert torch.equal(repeated, decode_image(tmp_path / "a.png", 3).repeat(3, 1, 1))


@pytest.mark.parametrize("dtype", ["int16", "float32", "uint16", "uint8", "int64"])
def test_arrays_of_every_type(dtype: str) -> None:
    values = np.arange(5 * 7 * 3).reshape(5, 7, 3).astype(dtype)
    mapping = ValueRange(0, 104)
    image = image_tensor(values, 3, "images", None, PixelValues(mapping))
    assert torch.equal(image, mapping.to_network(values.transpose(2, 0, 1)))
    assert image_tensor(values[..., 0], 3, "images", None, PixelValues(mapping)).shape == (3, 5, 7)
    if dtype in ("int16", "float32", "int64"):
        with pytest.raises(TypeError, match="train with value_range_a"):
            image_tensor(values, 3, "images")
    with pytest.raises(TypeError, match="integers or floats, got complex64"):
        image_tensor(values.astype(np.complex64), 3, "images", None, PixelValues(mapping))


def twelve_bit(root: Path, parts: str = "trainA testA") -> None:
    """Replace images by 16-bit gray files whose values are below 4096."""
    for part in parts.split():
        for path in (root / part).iterdir():
            values = np.random.default_rng(len(str(path))).integers(0, 4000, (80, 80), dtype=np.uint16)
            values[40, 40] = 3999
            Image.fromarray(values).save(path)


def test_twelve_bits_in_sixteen_are_named(make_config: Callable[..., Config], data_root: Path) -> None:
    assert data.check(make_config()) == []
    twelve_bit(data_root)
    (note,) = data.check(make_config(input_dim_a=1))
    assert "trainA: values up to 3999 in 16-bit files, so networks see 1/16" in note
    assert note.endswith("set value_range_a: [0, 4095], or auto.")
    assert data.check(make_config(input_dim_a=1, value_range_a=[0, 4095])) == []


def test_values_that_need_a_range_are_refused_before_training(
    make_config: Callable[..., Config], data_root: Path
) -> None:
    for path in (data_root / "trainB").iterdir():
        path.unlink()
    for index in range(4):
        values = np.random.default_rng(index).normal(0, 300, (80, 80)).astype(np.float32)
        Image.fromarray(values).save(data_root / "trainB" / f"{index}.tif")
    with pytest.raises(DataError, match=r"trainB: float values -.* are outside \[0, 1\]: set value_range_b to \[-"):
        data.check(make_config())
    assert data.check(make_config(value_range_b=[-1000, 1000])) == []
    values = np.full((80, 80), 0.5, np.float32)
    values[3, 4] = np.nan
    for index in range(4):
        Image.fromarray(values).save(data_root / "trainB" / f"{index}.tif")
    with pytest.raises(DataError, match="NaN or infinite: set value_range_b"):
        data.check(make_config())


def test_auto_is_percentiles_of_the_training_images(make_config: Callable[..., Config], data_root: Path) -> None:
    twelve_bit(data_root)
    config = make_config(input_dim_a=1, value_range_a="auto")
    found, notes = auto_range.resolved(config)
    assert found.value_range_b is None
    low, high = found.value_range_a  # type: ignore[misc]
    assert (low, high) == (int(low), int(high))  # type: ignore[call-overload]
    assert 0 <= low <= 10  # type: ignore[operator]
    assert 3990 <= high <= 3999  # type: ignore[operator]
    assert notes == [f"value_range_a: auto is [{low}, {high}] (percentiles 0.1 and 99.9 of the training images)."]
    assert auto_range.resolved(config)[0] == found
    assert config.value_range_a == "auto"
    resumed = make_config(value_range_a=[1, 2])
    assert auto_range.resolved(config, resumed) == (config.model_copy(update={"value_range_a": [1, 2]}), [])
    with pytest.raises(ConfigError, match="value_range_a is auto, which training replaces"):
        data.training_datasets(config)
    image = data.training_datasets(found.model_copy(update={"new_size": None}))[0][0]
    assert (image.min(), image.max()) == (-1, 1)


def test_auto_leaves_out_pixels_without_data_and_has_a_range_per_channel() -> None:
    def image(index: int) -> np.ndarray:
        values = np.random.default_rng(index).uniform(0, 1, (20, 20, 2)) * [1.0, 50.0]
        values[:10] = np.nan if index % 2 else -1e6
        return values.astype(np.float32)

    images = {name: [image(index) for index in range(4)] for name in ("trainA", "trainB")}
    config = Config(input_dim_a=2, input_dim_b=2, value_range_a="auto", value_range_b=[0, 1], nodata_a=-1e6, flip=False)
    found, _ = auto_range.resolved(config, given=GivenImages(images, "unpaired"))
    (low_0, high_0), (low_1, high_1) = found.value_range_a  # type: ignore[misc]
    assert 0 <= low_0 < 0.05 < 0.9 < high_0 <= 1  # type: ignore[operator]
    assert 0 <= low_1 < 2 < 45 < high_1 <= 50  # type: ignore[operator]


def test_auto_needs_values_that_differ() -> None:
    config = Config(input_dim_a=1, value_range_a="auto")
    for values, problem in ((np.full((8, 8), 7, np.int16), "only values near 7"), (np.full((8, 8), np.nan), "no data")):
        images = {"trainA": [values], "trainB": [np.zeros((8, 8, 3), np.uint8)]}
        with pytest.raises(DataError, match=f"value_range_a: auto: channel 0 of the training images has {problem}"):
            auto_range.resolved(config, given=GivenImages(images, "unpaired"))
    images = {"trainA": [torch.zeros(1, 8, 8)], "trainB": [np.zeros((8, 8, 3), np.uint8)]}
    with pytest.raises(DataError, match=r"trainA\[0\]: a tensor in \[-1, 1\] has no stored values"):
        auto_range.resolved(config, given=GivenImages(images, "unpaired"))
