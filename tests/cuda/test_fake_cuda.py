"""The ops on fake CUDA tensors, without a device: shapes, strides, devices and fullgraph tracing.

Autograd's engine and `opcheck` need a real device, so backward ops are called directly.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from fastmunit.ops.layout import dense_format
from fastmunit.testing import make_map

OPS = torch.ops.fastmunit
IMPLEMENTATIONS = {"native": "", "triton": "_triton"}
OPTIONS = ("instance", "relu", 0.2, 1, "reflect", 1e-5, False)
LAYOUTS = ("nchw", "channels_last", "sliced")


def op(name, implementation):
    return getattr(OPS, name + IMPLEMENTATIONS[implementation]).default


def calls(implementation, x, weight, bias, dpadded):
    """Return the results of forward and backward of every op."""
    mean, rstd = op("instance_norm_stats", implementation)(x, 1e-5)
    dx = op("instance_norm_stats_backward", implementation)(mean, rstd, x, mean, rstd)
    padded, fused_mean, fused_rstd = op("fused_norm", implementation)(x, weight, bias, x, *OPTIONS)
    gradients = op("fused_norm_backward", implementation)(
        dpadded, None, x, fused_mean, fused_rstd, weight, bias, True, True, True, *OPTIONS
    )
    values, total, signs = op("weighted_l1", implementation)([x, weight], [x, bias], [1.0, 2.0], True)
    l1_gradients = op("weighted_l1_backward", implementation)(
        values, total, signs, [x, weight], [x, bias], [1.0, 2.0], [True, False, True, True]
    )
    gan_arguments = ([x, weight], [1, 3], [1.0, 2.0], "lsgan")
    gan_values, gan_total = op("gan_loss", implementation)(*gan_arguments)
    gan_gradients = op("gan_loss_backward", implementation)(gan_values, gan_total, *gan_arguments, [True, False])
    gan_results = [gan_values, gan_total, *gan_gradients]
    l1_results = [values, total, signs, *l1_gradients]
    return [mean, rstd, dx, padded, fused_mean, fused_rstd, *gradients, *gan_results, *l1_results]


def tensors(layout, dtype):
    x = make_map((2, 6, 8, 9), dtype, layout)
    weight, bias = make_map((1, 2, 2, 6), seed=1)[0].unbind()
    return x, weight, bias, make_map((2, 6, 10, 11), dtype, layout, seed=2)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_results_are_on_the_device_in_the_layout(dtype, layout, implementation):
    real = tensors(layout, dtype)
    with FakeTensorMode() as mode:
        fake = [mode.from_tensor(x).to("cuda") for x in real]
        fake[0] = torch.empty_strided(real[0].shape, real[0].stride(), dtype=dtype, device="cuda")
        results = calls(implementation, *fake)
    expected = make_map((2, 6, 8, 9), dtype).contiguous(memory_format=dense_format(real[0])).stride()
    assert all(result.device.type == "cuda" for result in results)
    mean, rstd, dx, padded, _, _, fused_dx, dweight, dbias, dresidual, *others = results
    *_, l1_dx, l1_dtarget, l1_dbias = others
    assert mean.dtype == rstd.dtype == torch.float32
    assert dx.stride() == fused_dx.stride() == dresidual.stride() == expected
    assert l1_dx.stride() == l1_dtarget.stride() == others[2].stride() == expected
    assert padded.shape == (2, 6, 10, 11)
    assert (padded.stride(1) == 1) == (expected[1] == 1)
    assert dweight.shape == dbias.shape == l1_dbias.shape == (2, 6)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_traces_as_one_graph(layout, implementation):
    """A fullgraph trace with symbolic sizes contains each of our ops once and otherwise only ops of torch."""
    real = tensors(layout, torch.float32)
    with FakeTensorMode(shape_env=ShapeEnv()) as mode:
        fake = [mode.from_tensor(x).to("cuda") for x in real]
        graph = make_fx(lambda *x: calls(implementation, *x), tracing_mode="symbolic")(*fake)
    ours = [str(node.target) for node in graph.graph.nodes if str(node.target).startswith("fastmunit")]
    names = ("instance_norm_stats", "fused_norm", "weighted_l1", "gan_loss")
    expected = [f"fastmunit.{n}{b}{IMPLEMENTATIONS[implementation]}.default" for n in names for b in ("", "_backward")]
    assert ours == expected


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_meta_kernels_match_the_cpu_kernels(dtype, layout):
    from fastmunit.ops.availability import unavailable

    reason = unavailable("native", "cpu", "fused_norm")
    if reason is not None:
        pytest.skip(reason)
    real = tensors(layout, dtype)
    meta = [torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta") for x in real]
    for result, fake in zip(calls("native", *real), calls("native", *meta), strict=True):
        assert (result.shape, result.stride(), result.dtype) == (fake.shape, fake.stride(), fake.dtype)
