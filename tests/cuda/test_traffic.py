"""The memory traffic of the emulated kernels at MUNIT's shapes, compared with the minimum.

The minimum is to read each input once and to write each output once. The tests limit the ratio of bytes and of 32-byte
sectors of all accesses to global memory, including partial sums and statistics, to the minimum. For each wide access
they limit the number of sectors to the number that its bytes fill.
"""

from functools import partial

import pytest
import torch

from fastmunit.testing import make_map
from tests.cuda import gan_loss_requests as gan_loss
from tests.cuda import instance_norm_stats_requests as instance_norm_stats
from tests.cuda import weighted_l1_requests as weighted_l1
from tests.cuda.emulated import name_of
from tests.cuda.fused_norm_cases import DEVICES
from tests.cuda.fused_norm_requests import backward as fused_norm_backward
from tests.cuda.fused_norm_requests import forward as fused_norm_forward

# The pairs of a step at 256²: images and content codes of both domains and style codes.
PAIRS = ((3, 256, 256), (3, 256, 256), (256, 64, 64), (256, 64, 64), (8, 1, 1), (8, 1, 1))


def bytes_of(*tensors):
    return sum(x.numel() * x.element_size() for x in tensors)


def weighted_l1_traffic(dtype, backward):
    inputs, targets = weighted_l1.make_pairs([dtype], shapes=[(1, *shape) for shape in PAIRS])
    weights = [1.0] * len(PAIRS)
    if not backward:
        *_, signs, reply = weighted_l1.forward(inputs, targets, weights, count=True)
        return reply, bytes_of(*inputs, *targets, signs)
    signs = torch.ones(sum(x.numel() for x in inputs), dtype=torch.int8)
    needed = [True] * 6 + [False, False, True, True, False, False]  # content codes get gradients as targets too
    gradients, reply = weighted_l1.backward(
        torch.ones(6), torch.ones(()), signs, inputs, targets, weights, needed, count=True
    )
    return reply, bytes_of(signs, *gradients)


def gan_loss_traffic(dtype, backward):
    """Return the reply and the minimum for the maps of a batch of 32 in MUNIT, on two of the three scales."""
    maps = [make_map((64, 1, side, side), dtype, seed=side) for side in (16, 8)] * 2
    arguments = (maps, ["fake_real"] * 4, [1.0] * 4, "lsgan")
    if not backward:
        *_, reply = gan_loss.forward(*arguments, count=True)
        return reply, bytes_of(*maps)
    gradients, reply = gan_loss.backward(torch.ones(4), torch.ones(()), *arguments, count=True)
    return reply, bytes_of(*maps, *gradients)


def instance_norm_stats_traffic(layout, dtype, backward):
    x = make_map((1, 64, 128, 128), dtype, layout)
    mean, rstd, reply = instance_norm_stats.forward(x, count=True)
    if not backward:
        return reply, bytes_of(x, mean, rstd)
    dx, reply = instance_norm_stats.backward(mean, rstd, x, mean, rstd, count=True)
    return reply, bytes_of(x, dx, *[mean] * 4)


def fused_norm_traffic(shape, layout, statistics, device, dtype, backward, residual=False):
    """Return the reply and the minimum of AdaIN or layer norm with relu and padding, as for the maps of MUNIT.

    A residual is the interior of the padded map of the previous block.
    """
    x = make_map(shape, dtype, layout)
    n, c, h, w = shape
    weight, bias = (make_map((1, 1, n, c), seed=seed)[0, 0] for seed in (1, 2))
    added = make_map((n, c, h + 2, w + 2), dtype, layout, seed=3)[:, :, 1:-1, 1:-1] if residual else None
    options = {"statistics": statistics, "activation": "relu", "pad": 1}
    padded, mean, rstd, reply = fused_norm_forward(x, weight, bias, added, options, DEVICES[device], count=not backward)
    extra = [x] if residual else []  # the residual, and its gradients in backward, are as large as x
    if not backward:
        return reply, bytes_of(x, *extra, weight, bias, padded, mean, rstd)
    interior = make_map(shape, dtype, layout, seed=4) if residual else None
    dx, dweight, dbias, _, reply = fused_norm_backward(
        padded, interior, x, mean, rstd, weight, bias, residual, options, DEVICES[device], count=True
    )
    return reply, bytes_of(padded, x, *extra, *extra, mean, rstd, weight, bias, dx, dweight, dbias)


# By name: a function that returns an op's reply and minimum bytes; the largest ratio; the number of launches.
CASES = {
    f"{name} {name_of(dtype)}": (partial(run, dtype=dtype), ratio, launches)
    for dtype in (torch.float32, torch.bfloat16)
    for name, run, ratio, launches in (
        ("weighted_l1 forward", partial(weighted_l1_traffic, backward=False), 1.05, 2),
        ("weighted_l1 backward", partial(weighted_l1_traffic, backward=True), 1.05, 1),
        ("gan_loss forward", partial(gan_loss_traffic, backward=False), 1.05, 2),
        # A warp reads few values for the two gradients of its map.
        ("gan_loss backward", partial(gan_loss_traffic, backward=True), 1.1, 1),
        ("instance_norm_stats forward nchw", partial(instance_norm_stats_traffic, "nchw", backward=False), 1.05, 2),
        ("instance_norm_stats backward nchw", partial(instance_norm_stats_traffic, "nchw", backward=True), 1.05, 1),
        (
            "instance_norm_stats forward channels_last",
            partial(instance_norm_stats_traffic, "channels_last", backward=False),
            1.05,
            2,
        ),
        (
            "instance_norm_stats backward channels_last",
            partial(instance_norm_stats_traffic, "channels_last", backward=True),
            1.05,
            1,
        ),
    )
}


# The maps of MUNIT at 256². Forward reads x once in one launch if a group fits in the registers of eight blocks, else
# twice in three launches. The same holds for backward, whose tiles hold half as many values of x, and as many of dy.
SMALL, LARGE = (1, 256, 64, 64), (1, 64, 256, 256)
ONCE, TWICE = (1.05, 1), (1.55, 3)
BACKWARD_TWICE = (1.7, 3)
FUSED_NORM = (
    (SMALL, "nchw", "instance", "H100", ONCE, ONCE),
    (SMALL, "nchw", "instance", "A100", ONCE, ONCE),
    (SMALL, "nchw", "layer", "H100", TWICE, BACKWARD_TWICE),
    (SMALL, "nchw", "layer", "A100", TWICE, BACKWARD_TWICE),
    (SMALL, "channels_last", "instance", "H100", ONCE, ONCE),
    (SMALL, "channels_last", "instance", "A100", TWICE, BACKWARD_TWICE),
    (SMALL, "channels_last", "instance", "RTX 4090", TWICE, BACKWARD_TWICE),
    (SMALL, "channels_last", "layer", "H100", TWICE, BACKWARD_TWICE),
    (SMALL, "channels_last", "layer", "A100", TWICE, BACKWARD_TWICE),
    (LARGE, "nchw", "instance", "H100", ONCE, BACKWARD_TWICE),
    (LARGE, "nchw", "layer", "H100", TWICE, BACKWARD_TWICE),
    (LARGE, "nchw", "layer", "A100", TWICE, BACKWARD_TWICE),
    (LARGE, "channels_last", "instance", "H100", TWICE, BACKWARD_TWICE),
    (LARGE, "channels_last", "instance", "A100", TWICE, BACKWARD_TWICE),
    (LARGE, "channels_last", "layer", "H100", TWICE, BACKWARD_TWICE),
)
DTYPES = {"nchw": (torch.float32, torch.bfloat16), "channels_last": (torch.bfloat16,)}
CASES |= {
    f"fused_norm {'backward' if backward else 'forward'} {shape} {layout} {statistics} {device} {name_of(dtype)}": (
        partial(fused_norm_traffic, shape, layout, statistics, device, dtype, backward),
        *(limits[backward]),
    )
    for shape, layout, statistics, device, *limits in FUSED_NORM
    for backward in (False, True)
    for dtype in DTYPES[layout]
    if dtype is torch.bfloat16 or statistics == "instance"
    if not (dtype is torch.float32 and shape == LARGE and device == "A100")
}
CASES |= {
    f"fused_norm {'backward' if backward else 'forward'} {SMALL} {layout} residual {device} {name_of(dtype)}": (
        partial(fused_norm_traffic, SMALL, layout, "instance", device, dtype, backward, residual=True),
        *ONCE,
    )
    for layout, device, dtype in (
        ("nchw", "H100", torch.bfloat16),
        ("nchw", "H100", torch.float32),
        ("channels_last", "H100", torch.bfloat16),
    )
    for backward in (False, True)
}
# Planes of padded maps may start within a sector, which two blocks then touch. A few values are read one by one.
SECTORS = 1.025
# The rows of padded NCHW maps are stored, and their gradients loaded, value by value. A warp accesses 128 bytes (64 for
# 16-bit types) at any alignment, and the columns of the padding separately. Adjacent accesses touch the same sector
# twice; the cache combines them.
SECTORS_OF_ROWS = {"float32": 1.3, "bfloat16": 1.5}


@pytest.mark.parametrize("case", CASES)
def test_traffic(case, record_property):
    run, ratio, launches = CASES[case]
    reply, minimum = run()
    by_bytes, by_sectors = reply.bytes / minimum, reply.sector_bytes / minimum
    record_property("bytes", f"{by_bytes:.3f}")
    record_property("sectors", f"{by_sectors:.3f}")
    print(f"{case}: minimum {minimum} bytes; ratio {by_bytes:.3f} in bytes, {by_sectors:.3f} in sectors")
    assert minimum <= reply.bytes <= ratio * minimum
    rows = "fused_norm" in case and " nchw " in case
    sectors = SECTORS_OF_ROWS[case.split()[-1]] if rows else SECTORS
    assert reply.sector_bytes <= sectors * ratio * minimum
    assert reply.launches == launches
    for site in reply.sites:
        if site.width >= 8 and site.bytes > minimum / 20:
            assert site.sectors <= SECTORS * site.min_sectors, site
