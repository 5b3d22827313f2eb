from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from PIL import Image

from fastmunit.runs.reports import image_grid
from fastmunit.systems.munit import MUNIT
from tests.runs.tiny import tiny_config


def test_grid_places_rows_and_columns() -> None:
    rows = [torch.full((3, 3, 5, 7), -1.0), torch.full((3, 3, 5, 7), 1.0)]
    picture = image_grid.grid(rows, gap=2, background=99)
    assert picture.shape == (3, 2 * (5 + 2) + 2, 3 * (7 + 2) + 2)
    assert (picture[:, 2:7, 2:9] == 0).all()
    assert (picture[:, 9:14, 20:27] == 255).all()
    assert (picture[:, 7:9] == 99).all()


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_any_number_of_channels_is_shown_as_rgb(channels: int) -> None:
    image = torch.linspace(-1, 1, channels)[:, None, None].expand(channels, 4, 4)
    rgb = image_grid.to_rgb(image)
    assert rgb.shape == (3, 4, 4)
    expected = image[:3, 0, 0] if channels >= 3 else image[:1, 0, 0].expand(3)
    assert rgb[:, 0, 0].tolist() == ((expected + 1) * 127.5).round().to(torch.uint8).tolist()


def test_values_out_of_range_are_clamped() -> None:
    assert image_grid.to_rgb(torch.tensor([-5.0, 5.0]).view(1, 1, 2))[0, 0].tolist() == [0, 255]


def test_images_of_different_sizes_and_channels_fit_one_grid() -> None:
    picture = image_grid.grid([[torch.zeros(3, 8, 4), torch.zeros(1, 2, 9)]], gap=1)
    assert picture.shape == (3, 10, 21)


def test_sampling_leaves_the_random_state_alone(tmp_path: Path) -> None:
    trainer = MUNIT(tiny_config(tmp_path, input_dim_a=1))
    x_a, x_b = torch.rand(2, 1, 32, 32), torch.rand(2, 3, 32, 32)
    before = torch.get_rng_state()
    first = image_grid.sample_grids(trainer, x_a, x_b, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert trainer.training
    second = image_grid.sample_grids(trainer, x_a, x_b, seed=3)
    assert first.keys() == {"a2b", "b2a"}
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert first["a2b"].shape == (3, 4 * 34 + 2, 2 * 34 + 2)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_saved_pictures_open(tmp_path: Path, suffix: str) -> None:
    image_grid.save(torch.full((3, 5, 6), 200, dtype=torch.uint8), tmp_path / f"grid{suffix}")
    with Image.open(tmp_path / f"grid{suffix}") as image:
        assert image.size == (6, 5)
    data = image_grid.jpeg(tmp_path / f"grid{suffix}", max_width=3)
    assert Image.open(io.BytesIO(data)).size == (3, 2)


def test_pictures_of_many_images_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--resume opens the latest grid again, which may have more pixels than Pillow allows."""
    image_grid.save(torch.full((3, 50, 60), 200, dtype=torch.uint8), tmp_path / "grid.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    data = image_grid.jpeg(tmp_path / "grid.jpg", max_width=6)
    assert Image.open(io.BytesIO(data)).size == (6, 5)
