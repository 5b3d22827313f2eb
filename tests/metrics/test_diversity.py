from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fastmunit import data
from fastmunit.data import transforms
from fastmunit.data.images import decode_image
from fastmunit.errors import DataError
from fastmunit.metrics.confidence import MIN_COUNT
from fastmunit.metrics.diversity import pair_distances, real_diversity
from fastmunit.metrics.lpips import LPIPS
from tests.metrics.test_lpips import random_heads


def difference(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).abs().flatten(1).mean(dim=1)


def levels(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 3, 4, 4)


def test_pairs_are_disjoint_neighbours() -> None:
    assert pair_distances(difference, levels(0, 1, 5, 7, 100)).tolist() == [1, 2]
    large = torch.rand(6, 3, 600, 700)
    torch.testing.assert_close(pair_distances(difference, large), difference(large[::2], large[1::2]))


def test_identical_outputs_have_no_diversity(alexnet: nn.Sequential) -> None:
    measure = LPIPS("alex", backbone=alexnet, heads=random_heads("alex"))
    generator = torch.Generator().manual_seed(0)
    outputs = [(torch.rand(1, 3, 64, 64, generator=generator) * 2 - 1).repeat(38, 1, 1, 1) for _ in range(10)]
    assert all(torch.equal(pair_distances(measure, batch), torch.zeros(19)) for batch in outputs)
    assert pair_distances(measure, outputs[0] + 0.1 * torch.randn(38, 3, 64, 64)).mean() > 1e-3


def test_real_pairs_are_all_pairs_on_average() -> None:
    images = levels(0, 1, 3)
    every = real_diversity(difference, images, pairs=3000)
    assert every.value == pytest.approx(2, rel=0.03)  # mean of 1, 2, 3
    assert real_diversity(difference, levels(*range(20)), pairs=19).count == 20


@pytest.mark.parametrize("pairs", [1, 8, 10, 12, 30])
def test_few_real_pairs(pairs: int) -> None:
    """Many images in few pairs: a resample without any of the pairs has no mean."""
    images = torch.rand(200, generator=torch.Generator().manual_seed(0)).view(-1, 1, 1, 1)
    estimate = real_diversity(difference, images, pairs=pairs)
    assert estimate.count == pairs + 1  # a chain: each pair shares an image with the next
    if estimate.count < MIN_COUNT:
        assert estimate.low is None and estimate.high is None
    else:
        assert estimate.low is not None and estimate.high is not None
        assert estimate.low < estimate.value < estimate.high < 2


def test_interval_of_real_pairs_covers() -> None:
    """The mean |x - y| of two uniform numbers is 1/3."""
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for trial in range(100):
        images = torch.rand(50, generator=generator).view(-1, 1, 1, 1)
        estimate = real_diversity(difference, images, pairs=500, seed=trial)
        assert estimate.low is not None and estimate.high is not None
        covered += estimate.low <= 1 / 3 <= estimate.high
    assert 86 <= covered <= 100


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (3, 64, 64)])
def test_too_few_outputs(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="at least 2 outputs per input"):
        pair_distances(difference, torch.zeros(shape))


def test_too_few_real_images_or_pairs() -> None:
    with pytest.raises(DataError, match="at least 2 images and 1 pair, got 1 and"):
        real_diversity(difference, torch.zeros(1, 3, 64, 64))
    with pytest.raises(DataError, match="1 pair, got 5 and 0"):
        real_diversity(difference, torch.zeros(5, 3, 64, 64), pairs=0)


def test_real_pairs_of_the_demo_photos(weights: Path, tmp_path: Path) -> None:
    """Pairs of photos of apples, cherries and tomatoes: the diversity that a model of them can reach."""
    paths = data.list_images(data.unpack_demo(tmp_path) / "testB")
    images = torch.stack([data.read_image(path, 3) for path in paths])
    estimate = real_diversity(LPIPS("alex", weights=weights), images, pairs=400)
    assert 0.2 < estimate.value < 0.4
    assert estimate.low is not None and estimate.high is not None
    assert 0.005 < estimate.high - estimate.low < 0.06


@pytest.mark.slow
@pytest.mark.parametrize(("family", "expected"), [("apple", 0.265), ("tomato", 0.243), ("cherry", 0.266)])
def test_real_pairs_of_fruits360(family: str, expected: float, weights: Path) -> None:
    folder = os.environ.get("FASTMUNIT_FRUITS")
    if not folder:
        pytest.skip("needs Fruits-360 photos: FASTMUNIT_FRUITS names a folder with train/apple, train/cherry, …")
    paths = data.list_images(Path(folder) / "train" / family)
    transform = transforms.TestTransform(64, (64, 64))
    images = torch.stack([transform(decode_image(path, 3)) for path in paths])
    estimate = real_diversity(LPIPS("alex", weights=weights), images, pairs=2000)
    assert estimate.low is not None and estimate.high is not None
    assert estimate.low < expected < estimate.high
    assert estimate.value == pytest.approx(expected, abs=0.01)
