from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fastmunit import data
from fastmunit.config import Config
from fastmunit.data import ImageDataset, datasets, transforms
from fastmunit.data.seeding import named_generator
from fastmunit.errors import DataError


@settings(max_examples=25, deadline=None)
@given(st.integers(5, 60), st.integers(5, 60), st.integers(3, 40))
def test_resize_equals_pillow(height: int, width: int, size: int) -> None:
    levels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    resized = transforms.resize(torch.from_numpy(levels).permute(2, 0, 1), size)
    new_height, new_width = transforms.resized_shape(height, width, size)
    assert resized.shape == (3, new_height, new_width)
    assert min(new_height, new_width) == size
    expected = Image.fromarray(levels).resize((new_width, new_height), Image.Resampling.BILINEAR)
    difference = resized.permute(1, 2, 0).to(torch.int) - torch.from_numpy(np.array(expected)).to(torch.int)
    assert difference.abs().max() <= 1


def test_training_draws_flips_and_crops_of_the_resized_image() -> None:
    levels = torch.arange(12 * 10, dtype=torch.uint8).reshape(1, 12, 10)
    transform = transforms.TrainTransform(None, (4, 6))
    whole = transforms.normalize(levels)
    windows = {
        tuple(view[:, top : top + 4, left : left + 6].flatten().tolist()): (flip, top, left)
        for flip, view in enumerate((whole, whole.flip(-1)))
        for top in range(9)
        for left in range(5)
    }
    seen = [windows[tuple(transform(levels, named_generator("t", i)).flatten().tolist())] for i in range(1500)]
    assert len(set(seen)) == 2 * 9 * 5  # all flips and positions, including the edges
    assert 0.4 < np.mean([flip for flip, _, _ in seen]) < 0.6


def test_switching_off_flips_does_not_change_crops(make_config: Callable[..., Config]) -> None:
    levels = torch.arange(12 * 10, dtype=torch.uint8).reshape(1, 12, 10)
    crops = {flip: transforms.TrainTransform(None, (4, 6), flip) for flip in (True, False)}
    flipped = 0
    for index in range(50):
        with_flip, without = (crops[flip](levels, named_generator("t", index)) for flip in (True, False))
        assert bool((without.diff(dim=-1) > 0).all())
        if bool((with_flip.diff(dim=-1) < 0).all()):
            flipped += 1
        else:
            assert torch.equal(with_flip, without)
    assert 10 < flipped < 40
    for flip in (True, False):
        assert datasets.training_datasets(make_config(flip=flip))[0].train_transform.flip is flip


def test_test_images_are_center_crops_without_flip() -> None:
    levels = torch.arange(12 * 10, dtype=torch.uint8).reshape(1, 12, 10)
    out = transforms.TestTransform(None, (4, 6))(levels)
    assert torch.equal(out, transforms.normalize(levels)[:, 4:8, 2:8])


def test_crop_larger_than_the_image_names_both(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "small.png")
    for train in (True, False):
        dataset = ImageDataset([tmp_path / "small.png"], None, (24, 24), train=train)
        with pytest.raises(DataError, match=r"small\.png: 20x30 .* smaller than the crop 24x24"):
            dataset[0]


def test_samples_depend_only_on_seed_stream_epoch_and_index(make_config: Callable[..., Config]) -> None:
    a, b = data.training_datasets(make_config())
    assert a.stream != b.stream
    assert a[0].shape == (3, 64, 64)
    assert a[0].dtype == torch.float32
    assert torch.equal(a[2], a[2])
    assert torch.equal(a[-1], a[len(a) - 1])
    epochs = torch.stack([a.sample(2, epoch) for epoch in range(8)])
    assert len({tuple(image.flatten().tolist()) for image in epochs}) >= 7
    other_seed, _ = data.training_datasets(make_config(seed=1))
    assert not torch.equal(epochs, torch.stack([other_seed.sample(2, epoch) for epoch in range(8)]))
    other_stream = ImageDataset(a.paths, 72, (64, 64), train=True, stream=1)
    assert not torch.equal(epochs, torch.stack([other_stream.sample(2, epoch) for epoch in range(8)]))
    with pytest.raises(IndexError):
        a[len(a)]


def test_test_datasets_crop_to_new_size(make_config: Callable[..., Config]) -> None:
    a, b = data.test_datasets(make_config(new_size=None, new_size_a=74, new_size_b=66))
    assert a[0].shape == (3, 72, 72)  # rounded down to a size that the generators preserve
    assert b[0].shape == (3, 64, 64)
    a, _ = data.test_datasets(make_config(new_size=None, crop_image_width=68))
    assert a[0].shape == (3, 64, 68)
    assert datasets.test_crop(make_config(new_size=75, gen={"n_downsample": 3}), "a") == (72, 72)


def test_channels_of_each_domain(make_config: Callable[..., Config]) -> None:
    a, b = data.training_datasets(make_config(input_dim_a=1))
    assert a[0].shape == (1, 64, 64)
    assert b[0].shape == (3, 64, 64)


def test_display_images_are_fixed_and_complete(make_config: Callable[..., Config]) -> None:
    a, _ = data.training_datasets(make_config())
    displayed = data.display_images(a, 3)
    assert displayed.shape == (3, 3, 64, 64)
    assert torch.equal(displayed, data.display_images(a, 3))
    assert torch.equal(displayed[1], a[1])
    with pytest.raises(DataError, match="expected 8 images to display, got a dataset of 7"):
        data.display_images(a, 8)
