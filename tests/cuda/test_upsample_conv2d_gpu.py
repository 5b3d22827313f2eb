"""upsample_conv2d on a GPU: precision, the same bits each time, and tables that a captured graph keeps."""

import pytest
import torch

from fastmunit import functional, reference
from fastmunit.ops import border_windows
from fastmunit.testing import assert_as_exact_as, make_map

pytestmark = pytest.mark.gpu

DEVICE = "cuda"
layouts = pytest.mark.parametrize("layout", ["nchw", "channels_last"])


def inputs_of(shape, k, dtype, layout, outputs=16):
    channels = shape[1]
    weight = make_map((outputs, channels, k, k), dtype, std=(channels * k * k) ** -0.5, seed=1)
    bias = make_map((1, outputs, 1, 1), dtype, seed=2).flatten()
    return [t.to(DEVICE) for t in (make_map(shape, dtype, layout), weight, bias)]


def run(function, inputs, pad_mode):
    inputs = [t.detach().requires_grad_() for t in inputs]
    y = function(*inputs, pad_mode, unshuffled=True)
    dy = make_map(tuple(y.shape), torch.float64, seed=9).to(y)
    return y.detach(), *torch.autograd.grad(y, inputs, dy)


@pytest.mark.parametrize("pad_mode", ["reflect", "replicate", "zero"])
@pytest.mark.parametrize("k", [3, 5, 7])
@layouts
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_matches_float64(dtype, layout, k, pad_mode):
    for shape in ((1, 24, 12, 12), (2, 24, 9, 10), (1, 24, 2, 3)):
        inputs = inputs_of(shape, k, dtype, layout)
        ours, plain = (run(f, inputs, pad_mode) for f in (functional.upsample_conv2d, reference.upsample_conv2d))
        exact = run(reference.upsample_conv2d, [t.double() for t in inputs], pad_mode)
        for results in zip(ours, plain, exact, strict=True):
            assert_as_exact_as(*results)


@layouts
def test_borders_have_the_same_bits_each_time(layout):
    """Whatever algorithm cuDNN chooses for the phases, nothing around it adds atomically."""
    inputs = inputs_of((2, 32, 32, 32), 5, torch.bfloat16, layout)
    deterministic, torch.backends.cudnn.deterministic = torch.backends.cudnn.deterministic, True
    try:
        first = run(functional.upsample_conv2d, inputs, "reflect")
        for _ in range(10):
            assert all(map(torch.equal, first, run(functional.upsample_conv2d, inputs, "reflect")))
    finally:
        torch.backends.cudnn.deterministic = deterministic


def test_a_captured_graph_keeps_its_tables():
    """The cache of tables may forget the sizes of a graph before the graph is replayed."""
    x, weight, bias = inputs_of((1, 16, 24, 24), 5, torch.float32, "channels_last")
    with torch.no_grad():
        expected = functional.upsample_conv2d(x, weight, bias)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = functional.upsample_conv2d(x, weight, bias)
        border_windows._differences.cache_clear()
        overwritten = [torch.zeros(10_000, dtype=torch.int64, device=DEVICE) for _ in range(50)]
        y.zero_()
        graph.replay()
        torch.cuda.synchronize()
    assert len(overwritten) == 50
    assert torch.equal(y, expected)
