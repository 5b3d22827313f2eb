"""Statistics for fused_norm that are not those of its map, and the comparison of an implementation with float64."""

import torch

from fastmunit.testing import assert_as_exact_as, make_map, uninitialized_memory_is_nan
from tests.ops.fused_norm_cases import double, eager


def given_statistics(case, dtype=torch.float64, *, mean=0.5, seed=6):
    """Return a mean and a rstd for each group of the case: (N, C) for "instance", (N,) for "layer"."""
    n, c = case.shape[:2]
    group = (n, c) if case.statistics == "instance" else (n,)
    means = make_map((n, c, 1, 1), torch.float64, mean=mean, seed=seed).flatten(1)
    rstds = make_map((n, c, 1, 1), torch.float64, seed=seed + 1).flatten(1).abs() + 0.1
    return tuple(values[:, : c if len(group) == 2 else 1].reshape(group).to(dtype) for values in (means, rstds))


def with_statistics(function, case, tensors, statistics):
    """Return both results of fused_norm for given statistics, without gradients."""
    x, weight, bias, residual = tensors
    mean, rstd = statistics
    with torch.no_grad():
        return function(x, weight, bias, mean=mean, rstd=rstd, residual=residual, **case.options())


def check_with_statistics(case, tensors, statistics, function):
    """Compare an implementation with the reference in its dtype and in float64."""
    with uninitialized_memory_is_nan():
        ours = with_statistics(function, case, tensors, statistics)
    plain = with_statistics(eager, case, tensors, statistics)
    exact = with_statistics(eager, case, list(map(double, tensors)), statistics)
    for name, *results in zip(("padded", "interior"), ours, plain, exact, strict=True):
        assert_as_exact_as(*results, name)
    x = tensors[0]
    channels_last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    assert ours[0].is_contiguous(memory_format=memory_format)
    assert ours[1].untyped_storage().data_ptr() == ours[0].untyped_storage().data_ptr()


def tile_of(case, tensors, rows, columns):
    """Return x, weight, bias and residual of a tile, whose bounds are those of the result before padding."""
    x, weight, bias, residual = tensors
    shrink = 2 if case.pixel_shuffle else 1
    bounds = [slice(bound.start // shrink, bound.stop // shrink) for bound in (rows, columns)]
    x = x[:, :, bounds[0], bounds[1]]
    if case.layout == "channels_last":  # a slice is dense in neither layout
        x = x.contiguous(memory_format=torch.channels_last)
    return x, weight, bias, None if residual is None else residual[:, :, rows, columns]
