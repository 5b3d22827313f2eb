"""Tests of `functional.conv2d`: the same bits as torch's convolution, with weight gradients on another stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastmunit.functional import conv2d as module
from fastmunit.functional.conv2d import conv2d
from fastmunit.functional.streams import ParallelStreams
from tests.systems.emulated_streams import EmulatedStream, EmulatedStreams

CUDA = torch.device("cuda")
# Batch, channels in and out, size, kernel, stride, padding, dilation, groups.
CASES = [
    (2, 3, 5, (7, 9), (3, 3), (1, 1), (1, 1), (1, 1), 1),
    (1, 4, 6, (8, 5), (4, 3), (2, 1), (1, 0), (1, 2), 2),
    (3, 1, 1, (1, 1), (1, 1), (1, 1), (0, 0), (1, 1), 1),
    (0, 2, 3, (4, 4), (3, 3), (1, 1), (1, 1), (1, 1), 1),
    (1, 17, 33, (6, 6), (2, 2), (3, 3), (2, 2), (2, 2), 1),
]


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype).requires_grad_()


def on_streams(monkeypatch: pytest.MonkeyPatch, run: Callable[[], Any]) -> tuple[Any, list[EmulatedStream], Any]:
    """Return the result of `run`, the four streams, and what has run on them."""
    emulated, streams = EmulatedStreams(monkeypatch), ParallelStreams(True)
    with emulated, streams.active(CUDA):
        result = run()
    return result, [emulated.main, *streams._side[CUDA]], emulated


def gradients(convolve: Callable[..., Tensor], inputs: Sequence[Tensor | None], options: Any) -> list[Tensor | None]:
    """Return the result of a convolution and all gradients."""
    for tensor in inputs:
        if tensor is not None:
            tensor.grad = None
    y = convolve(*inputs, *options)
    dy = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)
    (y * dy).sum().backward()
    return [y, *(None if tensor is None else tensor.grad for tensor in inputs)]


def same_bits(found: Sequence[Tensor | None], expected: Sequence[Tensor | None]) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            assert ours.dtype == theirs.dtype
            assert ours.stride() == theirs.stride() or not ours.numel()
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_results_and_gradients_are_those_of_torch(
    case: Any, dtype: torch.dtype, has_bias: bool, channels_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    n, c, o, size, kernel, *options = case
    x, weight = draw(n, c, *size, dtype=dtype), draw(o, c // options[-1], *kernel, dtype=dtype, seed=1)
    if channels_last:
        x, weight = (t.detach().to(memory_format=torch.channels_last).requires_grad_() for t in (x, weight))
    inputs = x, weight, draw(o, dtype=dtype, seed=2) if has_bias else None
    expected = gradients(F.conv2d, inputs, options)
    found, (main, _, helper, _), emulated = on_streams(monkeypatch, lambda: gradients(conv2d, inputs, options))
    same_bits(found, expected)
    assert emulated.problems == set()
    assert emulated.nodes[helper, "_WeightGradientBackward"] == emulated.nodes[main, "_ConvolutionBackward"] == 1
    if n:
        assert emulated.named[main, "convolution_backward"] == emulated.named[helper, "convolution_backward"] == 1


@pytest.mark.parametrize("frozen", ["x", "bias", "x and bias"])
def test_only_the_gradients_that_are_needed_are_computed(frozen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = [draw(1, 2, 5, 5), draw(3, 2, 3, 3), draw(3)]
    for index, name in enumerate(("x", "weight", "bias")):
        inputs[index].requires_grad_(name not in frozen)
    expected = gradients(F.conv2d, inputs, ())
    found, (main, _, helper, _), emulated = on_streams(monkeypatch, lambda: gradients(conv2d, inputs, ()))
    same_bits(found, expected)
    assert emulated.named[main, "convolution_backward"] == ("x" not in frozen)
    assert emulated.named[helper, "convolution_backward"] == 1
    assert emulated.problems == set()


def test_sums_of_many_uses_of_a_weight_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """float32 sums of gradients of different sizes depend on their order."""
    weight, bias = draw(2, 2, 3, 3), draw(2)

    def run(convolve: Callable[..., Tensor]) -> list[Tensor | None]:
        weight.grad = bias.grad = None
        xs = [draw(1, 2, 6, 6, seed=seed) for seed in range(5)]
        total = torch.zeros(())
        for seed, x in enumerate(xs):
            once = convolve(x * 3.0**seed, weight, bias, (1, 1), (1, 1))
            total = total + (once * once).sum() + convolve(once, weight, bias).sum()
        total.backward()
        return [weight.grad, bias.grad, *(x.grad for x in xs)]

    expected = run(F.conv2d)
    found, _, emulated = on_streams(monkeypatch, lambda: run(conv2d))
    same_bits(found, expected)
    assert emulated.problems == set()


def _plain(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> bool:
    y, _, _ = on_streams(monkeypatch, lambda: conv2d(*arguments))
    return y.grad_fn is None or y.grad_fn.name() != "_ConvolutionBackward"


def test_other_convolutions_are_those_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias = draw(1, 2, 5, 5), draw(3, 2, 3, 3), draw(3)
    assert conv2d(x, weight, bias).grad_fn.name() == "ConvolutionBackward0"  # type: ignore[union-attr]
    assert not _plain(monkeypatch, x, weight, bias)
    assert _plain(monkeypatch, x, weight.detach(), bias)
    assert _plain(monkeypatch, x, weight, bias, (1, 1), "same")
    assert _plain(monkeypatch, x[0], weight, bias)
    with torch.no_grad():
        assert _plain(monkeypatch, x, weight, bias)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert _plain(monkeypatch, x, weight, bias)
        assert not _plain(monkeypatch, x.bfloat16(), weight.bfloat16())
    with pytest.raises(RuntimeError, match="Kernel size can't be greater than actual input size"):
        _plain(monkeypatch, draw(1, 2, 1, 1), weight, bias)
    monkeypatch.setattr(module, "_MAX_VALUES", 27)
    assert _plain(monkeypatch, x, weight, bias)
    monkeypatch.setattr(module, "_MAX_VALUES", 28)
    assert not _plain(monkeypatch, x, weight, bias)


def test_autograd_does_not_add_to_a_gradient_that_the_other_stream_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autograd adds in place to a gradient that nobody else has. The emulator has all, so this runs without it."""
    EmulatedStreams(monkeypatch)  # only for the streams
    x, weight, r = draw(1, 2, 4, 4), draw(2, 2, 1, 1), draw(1, 2, 4, 4, seed=1)
    read: list[tuple[Any, Tensor]] = []
    compute = module._Call.gradients

    def gradients_of(call: Any, dy: Tensor, x: Tensor, weight: Tensor, wants: Sequence[bool]) -> Any:
        if not wants[0]:
            read.append((dy.data_ptr(), dy.clone()))
        return compute(call, dy, x, weight, wants)

    monkeypatch.setattr(module._Call, "gradients", gradients_of)
    with ParallelStreams(True).active(CUDA):
        doubled = 2 * r
        terms = doubled.sin(), doubled.cos()
        total = (conv2d(x, weight) + doubled).square()  # whose gradient goes to the convolution and to `doubled`
        held: list[Tensor] = []
        doubled.register_hook(held.append)
        torch.autograd.backward([total.sum() + terms[0].sum() + terms[1].sum()])
    [(where, before)] = read
    (gradient,) = held
    assert gradient.data_ptr() != where
    assert not torch.equal(gradient, before)


def test_backward_can_run_twice_but_not_be_differentiated(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = draw(1, 2, 5, 5), draw(3, 2, 3, 3)
    y, _, _ = on_streams(monkeypatch, lambda: conv2d(x, weight).square().sum())
    first = torch.autograd.grad(y, (x, weight), retain_graph=True)
    same_bits(torch.autograd.grad(y, (x, weight), retain_graph=True), first)
    same_bits(torch.autograd.grad(y, (weight,), retain_graph=True), first[1:])
    same_bits(torch.autograd.grad(y, (x,), retain_graph=True), first[:1])
    (slope,) = torch.autograd.grad(y, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


@pytest.mark.gpu
def test_a_capture_has_all_streams_and_the_bits_of_one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight gradient is the first use of its stream, in backward."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    inputs = [draw(2, 16, 20, 20).detach().cuda().requires_grad_(), draw(32, 16, 3, 3).detach().cuda().requires_grad_()]

    def run() -> list[Tensor]:
        y = conv2d(*inputs).square()
        return [y, *torch.autograd.grad(y.sum(), inputs)]

    expected = run()
    streams, graph, found = ParallelStreams(True), torch.cuda.CUDAGraph(), list[bool]()
    capturing = torch.cuda.Stream()
    capturing.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(capturing), streams.active(CUDA):
        run()
    torch.cuda.current_stream().wait_stream(capturing)
    with torch.cuda.graph(graph, stream=capturing), streams.active(CUDA):
        results = run()
        for side in streams._side[CUDA]:
            with torch.cuda.stream(side):
                found.append(torch.cuda.is_current_stream_capturing())
    graph.replay()
    assert found == [True] * 3
    same_bits(results, expected)
