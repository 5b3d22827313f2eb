"""Tests of the pool of translated images."""

from __future__ import annotations

import pytest
import torch

from fastmunit.systems.parts.image_pool import ImagePool


def numbered(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1, 1)


def test_fills_first() -> None:
    pool = ImagePool(3)
    state = torch.get_rng_state()
    assert torch.equal(pool.exchange(numbered(0, 1)), numbered(0, 1))
    assert torch.equal(pool.exchange(numbered(2)), numbered(2))
    assert torch.equal(torch.get_rng_state(), state)  # nothing is drawn before the pool is full
    assert torch.equal(torch.stack(pool.images), numbered(0, 1, 2))


def test_then_hands_back_half_of_them_and_loses_none() -> None:
    torch.manual_seed(0)
    pool, given, old = ImagePool(5), [], 0
    for value in range(2000):
        handed = int(pool.exchange(numbered(value)))
        old += handed != value
        given.append(handed)
    assert old / 2000 == pytest.approx(0.5, abs=0.05)
    # While the pool fills, images are returned and stored. Only these may be returned a second time.
    remaining = [int(image) for image in pool.images]
    counts = torch.bincount(torch.tensor(given + remaining), minlength=2000)
    assert torch.equal(counts, torch.tensor([2] * 5 + [1] * 1995))
    waiting = [k - value for k, value in enumerate(given) if value != k]
    assert sum(waiting) / len(waiting) == pytest.approx(10, rel=0.2)  # it stays for 1 / (0.5 / 5) calls


def test_keeps_copies_without_graph() -> None:
    pool = ImagePool(1)
    image = numbered(1).requires_grad_()
    images = image * 2
    handed = pool.exchange(images)
    assert not handed.requires_grad
    with torch.no_grad():
        images.zero_()
    assert float(pool.images[0]) == 2


def test_size_zero_is_no_pool() -> None:
    pool = ImagePool(0)
    images = numbered(1, 2)
    assert torch.equal(pool.exchange(images), images)
    assert pool.images == []


def test_state_goes_back() -> None:
    torch.manual_seed(0)
    pool = ImagePool(2)
    pool.exchange(numbered(0, 1))
    other, smaller = ImagePool(2), ImagePool(1)
    other.load(pool.state())
    smaller.load(pool.state())
    assert len(smaller.images) == 1
    random = torch.get_rng_state()
    expected = pool.exchange(numbered(2, 3, 4))
    torch.set_rng_state(random)
    assert torch.equal(other.exchange(numbered(2, 3, 4)), expected)
