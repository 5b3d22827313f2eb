"""Batches, channels and maps of size 0 in every public op: all implementations return the same results and errors."""

import itertools

import pytest
import torch

from fastmunit import functional

IMPLEMENTATIONS = ["native", "reference"]
each_implementation = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
each_pad_mode = pytest.mark.parametrize("pad_mode", ["reflect", "zero"])


def run(function, *shapes):
    """Return the shapes of the results for tensors of zeros. Check their gradients, by `grad` and by `backward`."""
    leaves = [torch.zeros(shape, requires_grad=True) for shape in shapes]
    results = function(*leaves)
    results = results if isinstance(results, tuple) else (results,)
    sum(result.sum() for result in results).backward(retain_graph=True)
    found = torch.autograd.grad(sum(result.sum() for result in results), leaves)
    for leaf, gradient in zip(leaves, found, strict=True):
        assert leaf.grad is not None and leaf.grad.shape == leaf.shape
        assert torch.equal(gradient, torch.zeros_like(leaf))
    return [tuple(result.shape) for result in results]


@each_implementation
@each_pad_mode
@pytest.mark.parametrize("pixel_shuffle", [False, True])
@pytest.mark.parametrize("of_samples", [False, True])
@pytest.mark.parametrize("statistics", ["instance", "layer", "none"])
@pytest.mark.parametrize(("n", "c"), [(0, 4), (2, 0), (0, 0)])
def test_fused_norm(n, c, statistics, of_samples, pixel_shuffle, pad_mode, implementation):
    def function(x, weight, bias, residual):
        return functional.fused_norm(
            x, weight, bias, statistics=statistics, activation="relu", residual=residual, pad=1, pad_mode=pad_mode,
            pixel_shuffle=pixel_shuffle, implementation=implementation,
        )  # fmt: skip

    x, y = ((n, c, 4, 4), (n, c // 4, 8, 8)) if pixel_shuffle else ((n, c, 4, 4), (n, c, 4, 4))
    coefficients = y[:2] if of_samples else y[1:2]
    assert run(function, x, coefficients, coefficients, y) == [(*y[:2], y[2] + 2, y[3] + 2), y]


@each_implementation
@pytest.mark.parametrize("shape", [(0, 4, 3, 3), (2, 0, 3, 3)])
def test_bias_act_pad_and_statistics(shape, implementation):
    def padded(x, bias):
        return functional.bias_act_pad(x, bias, activation="leaky_relu", pad=2, implementation=implementation)[0]

    assert run(padded, shape, shape[1:2]) == [(*shape[:2], 7, 7)]
    found = run(lambda x: functional.instance_norm_stats(x, implementation=implementation), shape)
    assert found == [shape[:2], shape[:2]]


@each_implementation
def test_weight_alone_has_a_gradient(implementation):
    """This holds also if x requires no gradient, as an image."""
    for statistics in ("instance", "layer", "none"):
        weight = torch.ones(3, requires_grad=True)
        x = torch.zeros(0, 3, 4, 4)
        y = functional.fused_norm(x, weight, statistics=statistics, implementation=implementation)[0]
        (gradient,) = torch.autograd.grad(y.sum(), weight)
        assert torch.equal(gradient, torch.zeros(3))


@each_implementation
@each_pad_mode
@pytest.mark.parametrize("k", [3, 5])
def test_upsample_conv2d(k, pad_mode, implementation):
    for unshuffled, expected in ((False, (0, 3, 8, 10)), (True, (0, 12, 4, 5))):

        def call(x, weight, bias, unshuffled=unshuffled):
            return functional.upsample_conv2d(x, weight, bias, pad_mode, implementation, unshuffled=unshuffled)

        assert run(call, (0, 4, 4, 5), (3, 4, k, k), (3,)) == [expected]
        for x, weight in (((2, 0, 4, 5), (3, 0, k, k)), ((0, 0, 4, 5), (3, 0, k, k)), ((2, 4, 4, 5), (0, 4, k, k))):
            with pytest.raises(ValueError, match="upsample_conv2d: expected a convolution with channels"):
                call(torch.zeros(x), torch.zeros(weight), None)


@each_implementation
@each_pad_mode
def test_adain_residual_block(pad_mode, implementation):
    def function(x, weight, bias, *styles):
        return functional.adain_residual_block(
            x, ((weight, bias), (weight, bias)), (styles[:2], styles[2:]), pad=1, pad_mode=pad_mode,
            implementation=implementation,
        )  # fmt: skip

    styles = [(0, 4)] * 4
    assert run(function, (0, 4, 5, 5), (4, 4, 3, 3), (4,), *styles) == [(0, 4, 7, 7), (0, 4, 5, 5)]
    with pytest.raises(ValueError, match="adain_residual_block: expected convolutions with channels"):
        run(function, (2, 0, 5, 5), (0, 0, 3, 3), (0,), *[(2, 0)] * 4)
    with pytest.raises(ValueError, match=r"expected weight of shape \(4,\) or \(2, 4\), got \(0, 4\)"):  # no style
        run(function, (2, 4, 5, 5), (4, 4, 3, 3), (4,), *styles)


@each_implementation
@pytest.mark.parametrize("shape", [(2, 4, 0, 4), (2, 4, 4, 0), (0, 4, 0, 0)])
def test_maps_without_a_pixel_are_refused(shape, implementation):
    x, weight = torch.zeros(shape), torch.zeros(4, 4, 3, 3)
    styles = ((torch.zeros(shape[0], 4),) * 2,) * 2
    how = {"implementation": implementation}
    for call in (
        lambda: functional.fused_norm(x, statistics="none", **how),
        lambda: functional.bias_act_pad(x, **how),
        lambda: functional.instance_norm_stats(x, **how),
        lambda: functional.upsample_conv2d(x, weight, **how),
        lambda: functional.upsample_conv2d(x, weight, unshuffled=True, **how),
        lambda: functional.adain_residual_block(x, ((weight, None),) * 2, styles, **how),
    ):
        with pytest.raises(ValueError, match="expected x with at least one pixel"):
            call()


@each_implementation
def test_gan_loss(implementation):
    for shape, gan_type in itertools.product(((0,), (0, 3), (2, 0, 4, 4)), ("lsgan", "nsgan", "hinge")):
        leaf = torch.zeros(shape, requires_grad=True)
        for target in ("real", "fake", "generator", "fake_real"):
            values, total = functional.gan_loss([leaf], [target], [1.0], gan_type, implementation)
            assert values.isnan().all() and total.isnan()
            assert torch.autograd.grad(total, leaf)[0].shape == shape
    with pytest.raises(ValueError, match="expected 1 to 32 maps, got 0"):
        functional.gan_loss([], [], [], "lsgan", implementation)


@each_implementation
def test_weighted_l1(implementation):
    for shape in ((0,), (0, 3), (2, 0, 4, 4)):
        leaves = [torch.zeros(shape, requires_grad=True) for _ in range(2)]
        values, total = functional.weighted_l1(*([leaf] for leaf in leaves), [1.0], implementation)
        assert values.isnan().all() and total.isnan()
        assert [g.shape for g in torch.autograd.grad(total, leaves)] == [shape, shape]
    with pytest.raises(ValueError, match="expected 1 to 16 pairs, got 0"):
        functional.weighted_l1([], [], [], implementation)
