"""Low-precision copies of weights against the conversions of plain autocast."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastmunit.nn.fused.iteration_cache import IterationCache, iteration_cache
from fastmunit.nn.fused.weight_copies import ReadWeights
from fastmunit.nn.layers.blocks import Conv2dBlock
from fastmunit.nn.networks.encoders import ContentEncoder, StyleEncoder
from fastmunit.systems.parts.adam import Adam
from fastmunit.testing import uninitialized_memory_is_nan

LOW = (torch.bfloat16, torch.float16)


class Ops(TorchDispatchMode):
    """A counter of ops by name."""

    def __init__(self) -> None:
        super().__init__()
        self.named: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.named[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


def encoder(last: bool = False) -> ContentEncoder:
    torch.manual_seed(0)
    network = ContentEncoder(1, 1, 3, 5, norm="in", activ="relu", pad_mode="reflect")
    return network.to(memory_format=torch.channels_last) if last else network


def image(seed: int = 1, batch: int = 1, size: int = 12) -> Tensor:
    return torch.randn(batch, 3, size, size + 2, generator=torch.Generator().manual_seed(seed))


def passed(network: nn.Module, x: Tensor, cache: IterationCache | None, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Return the result of a pass under autocast."""
    with torch.autocast("cpu", dtype), iteration_cache(cache):
        return network(x)


def gradients(network: nn.Module) -> dict[str, Tensor | None]:
    return {name: parameter.grad for name, parameter in network.named_parameters()}


def linear(cache: IterationCache, *weights: Tensor, x: Tensor | None = None) -> Tensor:
    """Return x times each (5, 5) weight in turn, in one pass through the cache."""
    x = torch.ones(2, 5) if x is None else x
    with torch.autocast("cpu", torch.bfloat16), cache.opened(weights):
        for weight in weights:
            x = F.linear(x, cache.weight(weight))
    return x


def linear_of_first(cache: IterationCache, first: Tensor, *others: Tensor) -> Tensor:
    """Return ones times the first weight, in a pass that opens all of them, always in the same order."""
    weights = sorted((first, *others), key=id)
    with torch.autocast("cpu", torch.bfloat16), cache.opened(weights):
        return F.linear(torch.ones(2, 5), cache.weight(first))


def weight_of(seed: int, size: int = 5) -> nn.Parameter:
    return nn.Parameter(torch.randn(size, size, generator=torch.Generator().manual_seed(seed)))


# --- Values and gradients ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", LOW)
def test_a_pass_has_the_bits_of_autocast(dtype: torch.dtype, last: bool) -> None:
    ours, plain = encoder(last), encoder(last)
    results = [passed(network, image(), cache, dtype) for network, cache in ((ours, IterationCache()), (plain, None))]
    assert torch.equal(*results)
    for result in results:
        result.float().square().mean().backward()
    for name, gradient in gradients(plain).items():
        other = ours.get_parameter(name).grad
        assert other is not None and gradient is not None, name
        assert other.dtype == torch.float32 and torch.equal(other, gradient), name


def test_gradients_of_passes_are_added_in_float32() -> None:
    network, cache = encoder(), IterationCache()
    single = []
    for seed in (1, 2):
        alone = encoder()
        passed(alone, image(seed), None).float().square().mean().backward()
        single.append(gradients(alone))
    losses = [passed(network, image(seed), cache).float().square().mean() for seed in (1, 2)]
    (losses[0] + losses[1]).backward()
    for name, gradient in gradients(network).items():
        first, second = (found[name] for found in single)
        assert first is not None and second is not None and gradient is not None
        assert torch.equal(gradient, first + second), name


def test_backward_of_parts_adds_up_and_may_be_repeated() -> None:
    network, cache = encoder(), IterationCache()
    for seed in (1, 2):  # micro-batches
        loss = passed(network, image(seed), cache).float().square().mean()
        loss.backward(retain_graph=seed == 2)
    twice = {name: gradient.clone() for name, gradient in gradients(network).items() if gradient is not None}
    loss.backward()
    alone = encoder()
    passed(alone, image(2), None).float().square().mean().backward()
    for name, gradient in gradients(network).items():
        torch.testing.assert_close(gradient, twice[name] + alone.get_parameter(name).grad, rtol=1e-6, atol=1e-7)


def test_only_asked_gradients_are_returned() -> None:
    network, cache, x = encoder(), IterationCache(), image().requires_grad_()
    some = [network.model[0].conv.weight, network.model[1].conv.weight]
    y = passed(network, x, cache).float().square().mean()
    found = torch.autograd.grad(y, [x, *some])
    other = encoder()
    expected = torch.autograd.grad(
        passed(other, x, None).float().square().mean(), [x, other.model[0].conv.weight, other.model[1].conv.weight]
    )
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert all(gradient is None for gradient in gradients(network).values())


def test_a_weight_used_twice_and_shared_by_networks() -> None:
    shared, first, second = weight_of(0), weight_of(1), weight_of(2)
    cache = IterationCache()
    y = linear(cache, first, shared, shared) + linear(cache, second, shared)
    y.float().square().sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        copies = [weight.detach().bfloat16().requires_grad_() for weight in (shared, first, second)]
        x = torch.ones(2, 5)
        plain = F.linear(F.linear(F.linear(x, copies[1]), copies[0]), copies[0])
        (plain + F.linear(F.linear(x, copies[2]), copies[0])).float().square().sum().backward()
    for weight, expected in zip((shared, first, second), copies, strict=True):
        assert weight.grad is not None and expected.grad is not None
        scale = float(expected.grad.abs().max())
        torch.testing.assert_close(weight.grad, expected.grad.float(), rtol=1e-2, atol=1e-2 * scale)


def test_unused_weights_keep_no_gradient_and_left_out_ones_get_zeros() -> None:
    used, unused, left_out = weight_of(0), weight_of(1), weight_of(2)
    cache = IterationCache()
    with uninitialized_memory_is_nan(), torch.autocast("cpu", torch.bfloat16):
        for number in range(2):
            with cache.opened([used, unused], [left_out]):
                assert cache.gives_zeros(left_out) and not cache.gives_zeros(weight_of(3))
                y = F.linear(torch.ones(2, 5), cache.weight(used if number == 0 else unused))
            y.float().sum().backward()
            assert used.grad is not None and left_out.grad is not None and bool((left_out.grad == 0).all())
            assert (unused.grad is None) == (number == 0), "what one backward has used, the next has not"


def test_left_out_weights_get_zeros_once_for_all_passes() -> None:
    used, left_out, cache = weight_of(0), [weight_of(1), weight_of(2, size=3)], IterationCache()
    results = []
    for _ in range(3):
        with torch.autocast("cpu", torch.bfloat16), cache.opened([used], left_out):
            results.append(F.linear(torch.ones(2, 5), cache.weight(used)))
    total = sum(result.float().sum() for result in results)
    with uninitialized_memory_is_nan(), Ops() as ops:
        total.backward()  # type: ignore[union-attr]
    assert ops.named["new_zeros"] == 1 and ops.named["zero_"] == 0
    first, second = (weight.grad for weight in left_out)
    assert first is not None and second is not None
    first.fill_(1)
    assert torch.equal(second, torch.zeros(3, 3)) and torch.equal(first, torch.ones(5, 5))


def test_a_backward_that_raises_leaves_nothing_for_the_next_one() -> None:
    used, other, cache = weight_of(0), weight_of(1), IterationCache()

    def fail(gradient: Tensor) -> None:
        raise ValueError("in backward")

    results = [linear_of_first(cache, used, other), linear_of_first(cache, other, used)]
    results[0].register_hook(fail)  # backward runs the second pass before
    with pytest.raises(ValueError, match="in backward"):
        sum(result.float().sum() for result in results).backward()  # type: ignore[union-attr]
    assert used.grad is None and other.grad is None
    linear_of_first(cache, used, other).float().sum().backward()
    assert used.grad is not None and other.grad is None
    linear_of_first(cache, other, used).float().sum().backward()
    assert other.grad is not None and torch.equal(other.grad, torch.full((5, 5), 2.0))


def test_an_empty_batch_gives_zeros() -> None:
    cache, weight = IterationCache(), weight_of(0)
    linear(cache, weight, x=torch.ones(0, 5)).float().sum().backward()
    assert weight.grad is not None and torch.equal(weight.grad, torch.zeros(5, 5))


def test_gaps_and_other_weights_do_not_matter() -> None:
    """Gradients are of odd sizes, so that the flat buffer has gaps between them."""
    weights = [weight_of(seed) for seed in range(3)]
    cache = IterationCache()
    with uninitialized_memory_is_nan():
        losses = [linear(cache, weight).float().sum() for weight in weights]
        with torch.autocast("cpu", torch.bfloat16), cache.opened(weights):
            y = [F.linear(torch.ones(2, 5), cache.weight(weight)) for weight in weights]
        y[1] = y[1] * float("inf")
        sum((part.float().sum() for part in y), sum(losses)).backward()  # type: ignore[arg-type, union-attr]
    for number, weight in enumerate(weights):
        assert weight.grad is not None
        assert bool(weight.grad.isfinite().all()) == (number != 1)
    first, last = weights[0].grad, weights[2].grad
    assert first is not None and last is not None
    before = last.clone()
    first.fill_(float("nan"))
    torch.nn.utils.clip_grad_norm_([weights[2]], 1e9)
    assert torch.equal(last, before)


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled", "ignore:Error detected in")
def test_anomaly_detection_reports_no_gaps() -> None:
    cache, weight = IterationCache(), weight_of(0)
    with uninitialized_memory_is_nan(), torch.autograd.detect_anomaly(check_nan=True):
        linear(cache, weight, weight_of(1)).float().sum().backward()
        with pytest.raises(RuntimeError, match="nan"):
            (linear(cache, weight).float().sum() * float("nan")).backward()
    assert weight.grad is not None and bool(weight.grad.isfinite().all())


def test_hooks_of_weights_see_the_whole_gradient_once() -> None:
    seen: list[tuple[str, Tensor]] = []
    weight, other, cache = weight_of(0), weight_of(1), IterationCache()

    def double(gradient: Tensor) -> Tensor:
        seen.append(("gradient", gradient.clone()))
        return gradient.mul_(2)

    linear(cache, weight, other)  # a placeholder from before the hooks
    weight.register_hook(double)
    weight.register_post_accumulate_grad_hook(lambda p: seen.append(("accumulated", p.grad.clone())))  # type: ignore
    loss = linear(cache, weight, other).float().sum() + linear(cache, weight, other).float().sum()
    loss.backward()
    plain, plain_other = weight_of(0), weight_of(1)
    linear(IterationCache(), plain, plain_other).float().sum().backward()
    assert plain.grad is not None and plain_other.grad is not None and other.grad is not None
    assert [name for name, _ in seen] == ["gradient", "accumulated"]
    assert torch.equal(seen[0][1], 2 * plain.grad) and torch.equal(seen[1][1], 4 * plain.grad)
    assert torch.equal(other.grad, 2 * plain_other.grad)


# --- Weights that are read in their own dtype ------------------------------------------------------------------------


def style_encoder() -> StyleEncoder:
    torch.manual_seed(0)
    return StyleEncoder(4, 3, 6, 8, norm="none", activ="relu", pad_mode="reflect")


def scaled(cache: IterationCache, weight: Tensor, uncast: list[Tensor], x: Tensor | None = None) -> Tensor:
    """Return the first of the `uncast` vectors times weight x, in a pass that opens all of them."""
    x = torch.ones(2, 5) if x is None else x
    with torch.autocast("cpu", torch.bfloat16), cache.opened([weight], uncast=uncast):
        return F.linear(x, cache.weight(weight)).float() * cache.weight(uncast[0])


def vector_of(seed: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(5, generator=torch.Generator().manual_seed(seed)))


def test_biases_that_fused_norm_adds_have_the_gradients_of_autograd() -> None:
    ours, plain = style_encoder(), style_encoder()
    counts = []
    for network, cache in ((ours, IterationCache()), (plain, None)):
        losses = [passed(network, image(seed, size=32), cache).float().square().sum() for seed in range(3)]
        with Ops() as ops:
            sum(losses).backward()  # type: ignore[union-attr]
        counts.append(ops.named)
    for layer in range(5):
        bias, expected = (network.model[layer].conv.bias.grad for network in (ours, plain))
        assert bias is not None and expected is not None and torch.equal(bias, expected), layer
    added = len(list(plain.parameters()))
    assert counts[1]["add"] - counts[0]["add"] == 2 * (added - 1), "one flat buffer instead of all parameters"
    assert counts[0]["_foreach_add"] == 2


def test_uncast_weights_are_read_unchanged_and_their_gradients_arrive_once() -> None:
    weight, vector, unused, cache = weight_of(0), vector_of(1), vector_of(2), IterationCache()
    seen: list[str] = []
    vector.register_hook(lambda gradient: seen.append("gradient"))
    vector.register_post_accumulate_grad_hook(lambda p: seen.append("accumulated"))
    rows = [torch.randn(2, 5, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    for number in (1, 2):
        losses = [scaled(cache, weight, [vector, unused], x).sum() for x in rows]
        sum(losses).backward()  # type: ignore[union-attr]
        assert seen == number * ["gradient", "accumulated"]
    with torch.autocast("cpu", torch.bfloat16):
        low = weight.detach().bfloat16()
        expected = [F.linear(x, low).float().sum(0) for x in rows]
    assert vector.grad is not None and torch.equal(vector.grad, 2 * ((expected[2] + expected[1]) + expected[0]))
    assert unused.grad is None and weight.grad is not None
    with torch.autocast("cpu", torch.bfloat16), cache.opened([weight], uncast=[vector]):
        opened = cache.weight(vector)
        assert torch.equal(opened, vector) and opened.data_ptr() == vector.data_ptr()


def test_the_gradient_of_a_single_pass_is_not_copied() -> None:
    weight, vector, cache = weight_of(0), vector_of(1), IterationCache()
    loss = scaled(cache, weight, [vector]).sum()
    with Ops() as ops:
        loss.backward()
    assert not {"clone", "copy_", "add", "_foreach_add"} & ops.named.keys()
    assert vector.grad is not None


def test_uncast_weights_without_gradients_or_of_another_dtype_are_not_opened() -> None:
    weight, frozen, double, cache = (
        weight_of(0),
        vector_of(1).requires_grad_(False),
        vector_of(2).double(),
        IterationCache(),
    )
    with torch.autocast("cpu", torch.bfloat16):
        with cache.opened([weight], uncast=[frozen, double]):
            assert cache.weight(frozen) is frozen and cache.weight(double) is double
        with cache.opened([weight.detach()], uncast=[vector := vector_of(3)]), torch.no_grad():
            assert cache.weight(vector) is vector
    with cache.opened([weight], uncast=[vector]):
        assert cache.weight(vector) is vector, "without autocast"


def test_a_raised_backward_leaves_no_gradients_of_uncast_weights() -> None:
    weight, vector, cache = weight_of(0), vector_of(1), IterationCache()

    def fail(gradient: Tensor) -> None:
        raise ValueError("in backward")

    results = [scaled(cache, weight, [vector]) for _ in range(2)]
    results[0].register_hook(fail)  # backward runs the second pass before
    with pytest.raises(ValueError, match="in backward"):
        torch.add(*results).sum().backward()
    scaled(cache, weight, [vector]).sum().backward()
    alone = vector_of(1)
    scaled(IterationCache(), weight_of(0), [alone]).sum().backward()
    assert vector.grad is not None and alone.grad is not None and torch.equal(vector.grad, alone.grad)


def test_a_write_between_forward_and_backward_is_found() -> None:
    weight, vector, cache = weight_of(0), vector_of(1), IterationCache()
    loss = scaled(cache, weight, [vector]).sum()
    with torch.no_grad():
        vector.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# --- Validity ---------------------------------------------------------------------------------------------------------


def _adam(**options: bool) -> Callable[[nn.Parameter], object]:
    return lambda weight: Adam([weight], lr=0.1, **options).step()


def _reload(weight: nn.Parameter) -> None:
    layer = nn.Linear(5, 5, bias=False)
    state = layer.state_dict()
    layer.weight = weight
    layer.load_state_dict(state)


def _swap(weight: nn.Parameter) -> None:
    weight.data = torch.randn(5, 5)


def _copy(weight: nn.Parameter) -> None:
    with torch.no_grad():
        weight.copy_(torch.randn(5, 5))


def _average(weight: nn.Parameter) -> None:
    torch._foreach_lerp_([weight.detach()], [torch.randn(5, 5)], 0.5)


WRITES: dict[str, Callable[[nn.Parameter], object]] = {
    "copy": _copy,
    "load_state_dict": _reload,
    "data": _swap,
    "foreach": _average,
    "fused Adam": _adam(fused=True),
    "foreach Adam": _adam(foreach=True),
    "looped Adam": _adam(foreach=False),
    "SGD": lambda weight: torch.optim.SGD([weight], lr=0.1).step(),
    "initialization": lambda weight: nn.init.normal_(weight),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_a_written_weight_is_copied_again(write: Callable[[nn.Parameter], object]) -> None:
    cache, weight = IterationCache(), weight_of(0)
    before = linear(cache, weight)
    before.float().square().sum().backward()
    write(weight)
    with torch.autocast("cpu", torch.bfloat16):
        expected = F.linear(torch.ones(2, 5), weight)
    after = linear(cache, weight)
    assert torch.equal(after, expected) and not torch.equal(after, before)
    weight.grad = None
    after.float().sum().backward()
    assert weight.grad is not None and torch.equal(weight.grad, torch.full((5, 5), 2.0))


def test_copies_are_kept_while_nothing_is_written() -> None:
    cache, weight = IterationCache(), weight_of(0)
    addresses = set()
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16), cache.opened([weight]):
            addresses.add(cache.weight(weight).data_ptr())
    assert len(addresses) == 1


def test_freezing_is_followed() -> None:
    cache, weight, other = IterationCache(), weight_of(0), weight_of(1)
    for trained in (True, False, True):
        weight.requires_grad_(trained)
        weight.grad = other.grad = None
        y = linear(cache, weight, other)
        y.float().sum().backward()
        assert (weight.grad is not None) == trained and other.grad is not None
    other.requires_grad_(False)
    with torch.no_grad():
        assert not linear(cache, weight, other).requires_grad
    assert not linear(cache, weight.requires_grad_(False), other).requires_grad


def test_inference_tensors_and_inference_mode() -> None:
    cache, weight = IterationCache(), weight_of(0)
    with torch.inference_mode():
        constant = torch.randn(5, 5)
        linear(cache, weight)
    linear(cache, weight).float().sum().backward()  # stores the copy that was made in inference mode
    assert weight.grad is not None
    with torch.autocast("cpu", torch.bfloat16), cache.opened([constant, weight]):
        assert cache.weight(constant) is constant


def test_dtypes_that_autocast_leaves_alone() -> None:
    cache, double, low, single = IterationCache(), weight_of(0).double(), weight_of(1).bfloat16(), weight_of(2)
    with torch.autocast("cpu", torch.bfloat16), cache.opened([double, low, single]):
        assert cache.weight(double) is double and cache.weight(low) is low
        assert cache.weight(single).dtype == torch.bfloat16
    with cache.opened([single]):
        assert cache.weight(single) is single, "without autocast"
    half = nn.Parameter(weight_of(3).half())
    with torch.autocast("cpu", torch.bfloat16), cache.opened([half, single]):  # gradients of two dtypes
        assert cache.weight(half) is half and cache.weight(single) is single
    with torch.autocast("cpu", torch.float16), cache.opened([single]):
        assert cache.weight(single).dtype == torch.float16, "the dtype of the region, not of an older copy"


def test_copies_are_closed_after_an_error() -> None:
    cache, weight = IterationCache(), weight_of(0)
    with pytest.raises(RuntimeError, match="mat1"):
        linear(cache, weight, x=torch.ones(2, 4))
    assert cache.weight(weight) is weight


# --- Copies of known weights ------------------------------------------------------------------------------------------


def opened(cache: IterationCache, known: ReadWeights, *networks: list[Tensor]) -> tuple[int, int, list[Tensor]]:
    """Return the numbers of copying ops on entry and after it, and what networks with these weights read."""
    with Ops() as ops, torch.autocast("cpu", torch.bfloat16), iteration_cache(cache, known):
        on_entry = ops.named["_foreach_copy_"]
        read = []
        for weights in networks:
            with cache.opened(weights):
                read += [cache.weight(weight) for weight in weights]
    return on_entry, ops.named["_foreach_copy_"] - on_entry, read


def write(*weights: Tensor) -> None:
    torch._foreach_neg_([weight.detach() for weight in weights])


def test_known_weights_are_copied_by_one_op_after_a_write() -> None:
    first, second, known = [weight_of(0), weight_of(1)], [weight_of(2)], ReadWeights()
    cache = IterationCache()
    assert opened(cache, known, first, second)[:2] == (0, 2), "none is known yet"
    assert opened(cache, known, first, second)[:2] == (0, 0), "none has been written to"
    for later in (cache, IterationCache()):
        write(*first, *second)
        *counts, copies = opened(later, known, first, second)
        assert counts == [1, 0]
        for weight, copied in zip((*first, *second), copies, strict=True):
            assert torch.equal(copied, weight.bfloat16())


def test_only_what_was_read_last_time_is_known() -> None:
    first, second, known = [weight_of(0)], [weight_of(1)], ReadWeights()
    assert opened(IterationCache(), known, first, second)[:2] == (0, 2)
    assert opened(IterationCache(), known, second)[:2] == (1, 0)
    assert opened(IterationCache(), known, first)[:2] == (1, 1)
    with pytest.raises(ValueError, match="in forward"), iteration_cache(IterationCache(), known):
        raise ValueError("in forward")
    assert [weights for _, weights in known.items()] == [first], "a run that has failed knows less"


def test_known_weights_of_two_dtypes_take_two_ops() -> None:
    half = nn.Parameter(weight_of(0).half(), requires_grad=False)
    weights, known = [half, weight_of(1)], ReadWeights()
    opened(IterationCache(), known, weights)
    *counts, copies = opened(IterationCache(), known, weights)
    assert counts == [2, 0]
    assert all(torch.equal(copied, weight.bfloat16()) for copied, weight in zip(copies, weights, strict=True))
    half.data = half.data.bfloat16()  # as `module.bfloat16()` does
    assert opened(IterationCache(), known, weights)[:2] == (1, 0)


def test_known_weights_are_not_kept_alive() -> None:
    known, weights = ReadWeights(), [weight_of(0), weight_of(1)]
    opened(IterationCache(), known, weights)
    gone = weakref.ref(weights[0])
    del weights[0]
    assert gone() is None
    assert [group for _, group in known.items()] == [weights]
    assert opened(IterationCache(), known, weights)[:2] == (1, 0)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda known: pickle.loads(pickle.dumps(known))])
def test_copies_and_pickles_know_no_weights(again: Callable[[ReadWeights], ReadWeights]) -> None:
    known, weights = ReadWeights(), [weight_of(0)]
    opened(IterationCache(), known, weights)
    assert list(known.items()) and not list(again(known).items())


# --- Surroundings -----------------------------------------------------------------------------------------------------


def test_a_network_can_be_copied_and_saved_with_its_gradients() -> None:
    network, cache = encoder(), IterationCache()
    passed(network, image(), cache).float().sum().backward()
    other = copy.deepcopy(network)
    passed(other, image(), cache).float().sum().backward()
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))
    file = io.BytesIO()
    torch.save(gradients(network), file)
    file.seek(0)
    for name, gradient in torch.load(file).items():
        other_gradient = other.get_parameter(name).grad
        assert other_gradient is not None and torch.equal(gradient, other_gradient)
        assert gradient.data_ptr() != other_gradient.data_ptr()


def test_two_threads_and_two_caches_do_not_mix() -> None:
    networks = [encoder() for _ in range(2)]
    errors: list[BaseException] = []

    def train(network: nn.Module) -> None:
        try:
            for seed in range(6):
                passed(network, image(seed), IterationCache()).float().square().mean().backward()
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=train, args=(network,)) for network in networks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = encoder()
    train(alone)
    assert not errors
    for network in networks:
        for name, gradient in gradients(alone).items():
            other = network.get_parameter(name).grad
            assert other is not None and gradient is not None and torch.equal(other, gradient), name
    first, second, shared = IterationCache(), IterationCache(), weight_of(0)
    losses = [linear(cache, shared).float().sum() for cache in (first, second, first)]
    sum(losses).backward()  # type: ignore[union-attr]
    assert shared.grad is not None and torch.equal(shared.grad, torch.full((5, 5), 6.0))


def test_a_cache_is_freed_without_the_garbage_collector() -> None:
    network, cache = encoder(), IterationCache()
    passed(network, image(), cache).float().sum().backward()
    gone = weakref.ref(cache)
    gc.disable()
    try:
        del cache
        assert gone() is None
    finally:
        gc.enable()


def test_backward_hooks_of_modules_run() -> None:
    network, plain = encoder(), encoder()
    seen: list[Tensor] = []
    for each in (network, plain):
        each.model[1].register_full_backward_hook(lambda module, dx, dy: seen.append(dx[0]))
    passed(network, image(), IterationCache()).float().sum().backward()
    passed(plain, image(), None).float().sum().backward()
    assert len(seen) == 2 and torch.equal(*seen)
    for name, gradient in gradients(plain).items():
        other = network.get_parameter(name).grad
        assert gradient is not None and other is not None and torch.equal(other, gradient), name


def test_checkpoints_run_again_with_the_same_bits() -> None:
    found = []
    for checkpointed in (False, True):
        network, cache = encoder(), IterationCache()

        def run(x: Tensor, network: nn.Module = network, cache: IterationCache = cache) -> Tensor:
            return passed(network, x, cache)

        x = image().requires_grad_()
        y = torch.utils.checkpoint.checkpoint(run, x, use_reentrant=False) if checkpointed else run(x)
        y.float().square().mean().backward()
        found.append([x.grad, *gradients(network).values()])
    for a, b in zip(*found, strict=True):
        assert a is not None and b is not None and torch.equal(a, b)


def test_compiled_networks_convert_their_weights_themselves() -> None:
    network, plain = (Conv2dBlock(3, 5, 3, 1, 1, norm="in", pad_mode="reflect") for _ in range(2))
    plain.load_state_dict(network.state_dict())
    cache, expected = IterationCache(), passed(plain, image(), None)
    network.compile(fullgraph=True, dynamic=False, backend="eager")
    y = passed(network, image(), cache)
    torch.testing.assert_close(y, expected, rtol=2e-2, atol=2e-2)
    y.float().square().mean().backward()
    assert all(gradient is not None for gradient in gradients(network).values())
