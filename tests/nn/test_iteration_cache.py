"""Values that layers share in an iteration: what is computed once, and when it is computed again."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastmunit.nn.fused.iteration_cache import (
    IterationCache,
    active_cache,
    gives_zeros,
    iteration_cache,
    shared_image,
    shared_values,
    shared_weight,
)
from fastmunit.nn.layers.blocks import Conv2dBlock


class Doubler:
    """Returns twice a tensor and counts its calls."""

    def __init__(self, source: Tensor) -> None:
        self.source = source
        self.calls = 0

    def __call__(self) -> Tensor:
        self.calls += 1
        return self.source * 2


def test_nothing_is_shared_without_a_cache() -> None:
    double = Doubler(torch.ones(3, requires_grad=True))
    for _ in range(2):
        assert not shared_values(double.source, "twice", double).requires_grad
    assert double.calls == 2
    assert active_cache() is None
    assert shared_weight(double.source) is double.source and not gives_zeros(double.source)


def test_a_value_is_computed_once_per_key_source_and_dtype() -> None:
    double = Doubler(torch.ones(3))
    with iteration_cache(IterationCache()):
        first, second = (shared_values(double.source, "twice", double) for _ in range(2))
        assert first is second and double.calls == 1
        assert shared_values(double.source, "other", double) is not first
        assert shared_values(torch.ones(3), "twice", double) is not first
        with torch.autocast("cpu", torch.bfloat16):
            assert shared_values(double.source, "twice", double) is not first
        assert double.calls == 4
        with iteration_cache(None):
            assert shared_values(double.source, "twice", double) is not first
        with iteration_cache(IterationCache()):
            assert shared_values(double.source, "twice", double) is not first


WRITES: dict[str, Callable[[Tensor, Tensor], object]] = {
    "source": lambda source, result: source.add_(1),
    "view of the source": lambda source, result: source[0].fill_(5),
    "memory of the source": lambda source, result: setattr(source, "data", torch.full((3,), 2.0)),
    "result": lambda source, result: result.zero_(),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_a_write_makes_it_stale(write: Callable[[Tensor, Tensor], object]) -> None:
    double = Doubler(torch.ones(3))
    with iteration_cache(IterationCache()):
        write(double.source, shared_values(double.source, "twice", double))
        assert torch.equal(shared_values(double.source, "twice", double), 2 * double.source)


def test_images_that_need_gradients_are_not_shared() -> None:
    double = Doubler(torch.ones(3, requires_grad=True))
    with iteration_cache(IterationCache()):
        for _ in range(2):
            assert shared_image(double.source, "twice", double).requires_grad
        with torch.no_grad():
            first, second = (shared_image(double.source, "twice", double) for _ in range(2))
            assert first is second and not first.requires_grad
    assert double.calls == 3


def test_inference_tensors_are_not_shared_and_inference_mode_makes_none() -> None:
    with torch.inference_mode():
        double = Doubler(torch.ones(3))
    with iteration_cache(IterationCache()):
        shared_values(double.source, "twice", double)
        shared_values(double.source, "twice", double)
        assert double.calls == 2, "writes to it are not counted"
        image = Doubler(torch.ones(3))
        with torch.inference_mode():
            shared_values(image.source, "twice", image)
        weight = torch.ones(3, requires_grad=True)
        (weight * shared_values(image.source, "twice", image)).sum().backward()
    assert image.calls == 1 and weight.grad is not None


def test_values_live_as_long_as_their_sources() -> None:
    with iteration_cache(IterationCache()):
        source = torch.ones(3)
        result = weakref.ref(shared_values(source, "twice", Doubler(source)))
        assert result() is not None
        del source
        assert result() is None


def test_the_cache_is_that_of_the_innermost_block_and_ends_with_it() -> None:
    outer, inner = IterationCache(), IterationCache()
    with iteration_cache(outer):
        with iteration_cache(inner):
            assert active_cache() is inner
        assert active_cache() is outer
    assert active_cache() is None


def test_networks_share_a_padded_image_and_see_another_one() -> None:
    torch.manual_seed(0)
    blocks = [Conv2dBlock(3, 4, 7, 1, 3, norm="in", pad_mode="reflect") for _ in range(2)]
    image = torch.randn(1, 3, 10, 12)

    def run(cache: IterationCache | None) -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16), iteration_cache(cache):
            return [block(image) for block in blocks]

    cache = IterationCache()
    for _ in range(2):
        assert all(torch.equal(a, b) for a, b in zip(run(cache), run(None), strict=True))
        image.neg_()
