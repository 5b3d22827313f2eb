"""What the emulated kernels read and write at MUNIT's shapes, against the least that the op has to.

Bytes and 32-byte sectors of all accesses to global memory, partial sums and statistics included, are held to their
ratio to each input read once and each output written once.
"""

from functools import partial

import pytest
import torch

from fastmunit.testing import make_map
from tests.cuda import fused_norm_requests as fused_norm
from tests.cuda import instance_norm_stats_requests as instance_norm_stats
from tests.cuda import weighted_l1_requests as weighted_l1
from tests.cuda.emulated import name_of

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
    wanted = [True] * 6 + [False, False, True, True, False, False]  # content codes learn on both sides
    gradients, reply = weighted_l1.backward(
        torch.ones(6), torch.ones(()), signs, inputs, targets, weights, wanted, count=True
    )
    return reply, bytes_of(signs, *gradients)


def instance_norm_stats_traffic(layout, dtype, backward):
    x = make_map((1, 64, 128, 128), dtype, layout)
    mean, rstd, reply = instance_norm_stats.forward(x, count=True)
    if not backward:
        return reply, bytes_of(x, mean, rstd)
    dx, reply = instance_norm_stats.backward(mean, rstd, x, mean, rstd, count=True)
    return reply, bytes_of(x, dx, *[mean] * 4)


def fused_norm_traffic(statistics, shape, layout, dtype, backward, pad):
    x = make_map((1, *shape), dtype, layout)
    weight, bias = torch.ones(2, 1, shape[0])
    options, device = fused_norm.Options(statistics, "relu", pad=pad), fused_norm.Device()
    padded, mean, rstd, reply = fused_norm.forward(x, weight, bias, None, options, device, count=True)
    if not backward:
        return reply, bytes_of(x, padded, mean, rstd, weight, bias)
    dpadded = make_map(tuple(padded.shape), dtype, layout, seed=1)
    dx, *_, reply = fused_norm.backward(
        dpadded, None, x, mean, rstd, weight, bias, False, options, device, count=True
    )  # fmt: skip
    return reply, bytes_of(x, dpadded, dx, mean, rstd, *[weight, bias] * 2)


# Runs an op and gives its reply and the least bytes; the greatest ratio; launches. A new kernel gets its lines here.
CASES = {
    f"{name} {name_of(dtype)}": (partial(run, dtype=dtype), ratio, launches)
    for dtype in (torch.float32, torch.bfloat16)
    for name, run, ratio, launches in (
        ("weighted_l1 forward", partial(weighted_l1_traffic, backward=False), 1.05, 2),
        ("weighted_l1 backward", partial(weighted_l1_traffic, backward=True), 1.05, 1),
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
CASES |= {
    f"fused_norm {way} {statistics} {layout} {name_of(dtype)}": (
        partial(fused_norm_traffic, statistics, shape, layout, dtype, way == "backward", pad=pad),
        ratio,
        launches,
    )
    for dtype in (torch.float32, torch.bfloat16)
    for layout in ("nchw", "channels_last")
    for statistics, shape, pad, way, ratio, launches in (
        ("instance", (256, 64, 64), 1, "forward", 1.05, 1),
        ("instance", (256, 64, 64), 1, "backward", 1.05, 2),
        ("layer", (128, 128, 128), 0, "forward", 1.55, 3),
        ("layer", (128, 128, 128), 0, "backward", 1.7, 4),
    )
}


# What misses its ratio, and by how much.
MISSED = {
    "fused_norm backward layer channels_last bfloat16": "1.702 as bytes, 1.716 as sectors: sums of channels and tiles"
}


@pytest.mark.parametrize("case", CASES)
def test_traffic(case, record_property, request):
    if case in MISSED:
        request.applymarker(pytest.mark.xfail(reason=MISSED[case], strict=True))
    run, ratio, launches = CASES[case]
    reply, least = run()
    by_bytes, by_sectors = reply.bytes / least, reply.sector_bytes / least
    record_property("bytes", f"{by_bytes:.3f}")
    record_property("sectors", f"{by_sectors:.3f}")
    print(f"{case}: {least} bytes at least, {by_bytes:.3f} as bytes, {by_sectors:.3f} as sectors")
    assert least <= reply.bytes <= ratio * least
    assert reply.sector_bytes <= ratio * least
    assert reply.launches == launches
