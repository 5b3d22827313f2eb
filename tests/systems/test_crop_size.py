"""The minimum training crop of MUNIT and UNIT."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fastmunit
from fastmunit.config import Config
from fastmunit.errors import ConfigError
from fastmunit.nn.networks.discriminators import MsImageDis
from fastmunit.systems import registry
from fastmunit.systems.parts.crop_size import minimum_crop


def check(system: str, **values: object) -> None:
    config = Config(system=system, **values)
    registry.system_of(config).check_training(config)


@pytest.mark.parametrize("system", ["munit", "unit"])
def test_crop_must_fit_the_networks(system: str) -> None:
    check(system, crop_image_height=64, crop_image_width=68)
    with pytest.raises(ConfigError, match=r"crop_image_height is 48, but .* need at least 64"):
        check(system, crop_image_height=48)
    with pytest.raises(ConfigError, match=r"crop_image_width is 66, not a multiple of 4 .* use 64 or 68"):
        check(system, crop_image_width=66)


@pytest.mark.parametrize("norm", ["in", "bn"])
def test_crop_too_small_for_the_norm_is_refused(norm: str) -> None:
    with pytest.raises(ConfigError, match=rf"dis\.norm {norm} at batch_size 1 .* need at least 128"):
        check("munit", dis={"norm": norm}, crop_image_height=64, crop_image_width=64)


def test_training_refuses_the_crop_before_it_writes_anything(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="crop_image_height is 48"):
        fastmunit.train(Config(crop_image_height=48, data_root=str(tmp_path)), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("num_scales", [1, 2, 3, 4])
@pytest.mark.parametrize("n_layer", [1, 2, 4, 5])
@pytest.mark.parametrize("n_downsample", [0, 2, 3])
def test_minimum_crop_is_where_maps_become_too_small(num_scales: int, n_layer: int, n_downsample: int) -> None:
    """Compare with the sizes that layers of torch give."""
    config = Config.from_dict(
        {"dis": {"num_scales": num_scales, "n_layer": n_layer}, "gen": {"n_downsample": n_downsample}}
    )

    def halvings_work(image: torch.Tensor, count: int) -> int:
        """Return the smallest map in a chain of 4x4 stride-2 convolutions with reflection, or 0 if one cannot run."""
        for _ in range(count):
            if image.shape[-1] < 2:
                return 0
            image = torch.nn.functional.pad(image, (1, 1, 1, 1), mode="reflect")
            image = torch.nn.functional.max_pool2d(image, 4, 2)
        return image.shape[-1]

    def works(size: int) -> bool:
        if size % 2**n_downsample or halvings_work(torch.zeros(1, 1, size, size), 4) < 1:
            return False
        if halvings_work(torch.zeros(1, 1, size, size), n_downsample) < 2:
            return False
        image = torch.zeros(1, 1, size, size)
        for _ in range(num_scales):
            if halvings_work(image, n_layer) < 1:
                return False
            image = torch.nn.functional.avg_pool2d(image, 3, 2, 1, count_include_pad=False)
        return True

    min_size = minimum_crop(config)
    assert works(min_size)
    assert not any(works(size) for size in range(max(1, min_size - 40), min_size))


def test_minimum_of_the_public_configurations() -> None:
    assert minimum_crop(Config()) == 64


@pytest.mark.parametrize(
    ("norm", "batch_size", "min_size"),
    [("in", 1, 32), ("in", 2, 32), ("bn", 1, 32), ("bn", 2, 16), ("ln", 1, 16), ("sn", 1, 16)],
)
def test_minimum_crop_where_a_single_pixel_cannot_be_normalized(norm: str, batch_size: int, min_size: int) -> None:
    """Compare with training steps of the networks."""
    sizes = {"dis": {"dim": 4, "n_layer": 3, "num_scales": 2, "norm": norm}, "gen": {"dim": 4, "n_res": 1}}
    config = Config.from_dict({**sizes, "batch_size": batch_size})
    assert minimum_crop(config) == min_size
    with torch.random.fork_rng():
        discriminator = MsImageDis(3, config.dis)

        def works(size: int) -> bool:
            try:
                discriminator(torch.zeros(batch_size, 3, size, size))
            except ValueError:
                return False
            return True

        assert works(min_size)
        assert works(16) == (min_size == 16)
