"""The launch table of fused_norm's backward: every map is covered, fits, and MUNIT's are read once where a GPU can."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmunit.testing import munit_maps
from tests.cuda.emulated import emulate
from tests.cuda.fused_norm_requests import Device

H100 = Device()
DEVICES = {"H100": H100, "A100": Device(108, 163 * 1024, 1), "RTX 4090": Device(128, 99 * 1024, 1)}
DEVICES["T4"] = Device(40, 64 * 1024, 1)


@dataclass(frozen=True)
class Plan:
    """The launch table's answer; see csrc/fused_norm/backward_plan.h."""

    channels: int
    channel_tiles: int
    row_tiles: int
    reads_once: int
    staged: int
    vectors: int
    cluster: int
    threads: int
    shared_bytes: int
    blocks: int


def plan_of(
    device, layout, statistics, n, c, h, w, *, value_bytes=4, pad=1, pad_mode="reflect", phases=False, aligned=True,
    dpadded=False, dinterior=False,
):  # fmt: skip
    values = {"batch": n, "channels": c, "height": h, "width": w, "pad": pad, "negative_slope": 0.2, "eps": 1e-5}
    values |= {"phases": phases, "aligned": aligned, "dpadded": dpadded, "dinterior": dinterior, **vars(device)}
    values = {name: value if isinstance(value, float) else int(value) for name, value in values.items()}
    values["value_bytes"] = value_bytes
    texts = {"dtype": {4: "float32", 2: "bfloat16"}[value_bytes], "layout": layout, "statistics": statistics}
    texts |= {"activation": "relu", "pad_mode": pad_mode}
    plan = torch.empty(10, dtype=torch.int64)
    emulate("fused_norm_plan", values, texts, {}, {"plan": plan})
    return Plan(*plan.tolist())


def fits_on_chip(
    device, layout, statistics, c, h, w, *, step, value_bytes, pad, reflect, aligned, dpadded, dinterior
):  # fmt: skip
    """Whether a group surely fits in a cluster, cut into as many parts as it has blocks."""
    if layout == "nchw":
        channels = -(-c // device.cluster) if statistics == "layer" else 1
        row_tiles = max(1, device.cluster // c) if statistics == "layer" else device.cluster
    else:
        sector = 32 // value_bytes
        channels = 8 * sector if statistics == "layer" else sector
        row_tiles = device.cluster // -(-c // channels) if statistics == "layer" else device.cluster
    if row_tiles == 0 or (layout == "nchw" and channels > 1 and row_tiles > 1):
        return False
    steps = h // step
    if row_tiles > 1 and reflect and steps // row_tiles * step <= pad:
        return False
    rows = -(-steps // row_tiles) * step
    values = rows * w * (2 if dinterior else 1) + (rows + 2 * pad) * (w + 2 * pad) * dpadded
    return values * channels * value_bytes + 80 * channels + 8 * 1024 <= device.shared_bytes


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_tiles_cover_the_map_and_fit(data):
    draw = data.draw
    device = Device(draw(st.integers(1, 200)), draw(st.integers(1, 227)) * 1024, draw(st.sampled_from([1, 8, 16])))
    layout, statistics = (
        draw(st.sampled_from(["nchw", "channels_last"])),
        draw(st.sampled_from(["instance", "layer", "none"])),
    )
    n, c = draw(st.integers(1, 8)), draw(st.integers(1, 600))
    h, w, phases = draw(st.integers(2, 600)), draw(st.integers(2, 600)), draw(st.booleans())
    h, w = (2 * h, 2 * w) if phases else (h, w)
    pad_mode = draw(st.sampled_from(["reflect", "replicate", "zero"]))
    pad = draw(st.integers(0, min(3, h - 1, w - 1)))
    value_bytes = draw(st.sampled_from([2, 4]))
    aligned = c * value_bytes % 16 == 0 and draw(st.booleans())
    gradients = {"dpadded": draw(st.booleans()), "dinterior": draw(st.booleans())}
    plan = plan_of(
        device, layout, statistics, n, c, h, w, value_bytes=value_bytes, pad=pad, pad_mode=pad_mode, phases=phases,
        aligned=aligned, **gradients,
    )  # fmt: skip
    assert plan.channel_tiles == -(-c // plan.channels)
    assert 1 <= plan.row_tiles <= h
    assert plan.blocks == n * plan.channel_tiles * plan.row_tiles
    assert plan.threads in (128, 256, 512)
    # The rows that a reflected pad shows are in the tile that writes it.
    steps = h // 2 if phases else h
    if pad and pad_mode == "reflect" and plan.row_tiles > 1:
        assert steps // plan.row_tiles * (2 if phases else 1) > pad
    if plan.staged:
        assert plan.shared_bytes <= device.shared_bytes
        rows = -(-steps // plan.row_tiles) * (2 if phases else 1)
        assert plan.shared_bytes >= rows * w * plan.channels * value_bytes * (1 + sum(gradients.values()))
    if layout == "nchw":
        assert plan.channels == 1 or plan.row_tiles == 1
    else:
        lanes = 16 // value_bytes if plan.vectors else 1
        assert plan.channels % lanes == 0
        assert plan.channels // lanes in (1, 2, 4, 8, 16, 32)  # threads of a warp that share a pixel
        assert aligned or not plan.vectors
    if statistics != "none" and fits_on_chip(
        device, layout, statistics, c, h, w, step=2 if phases else 1, value_bytes=value_bytes, pad=pad,
        reflect=pad_mode == "reflect", aligned=aligned, **gradients,
    ):  # fmt: skip
        assert plan.reads_once
    group = plan.channel_tiles * plan.row_tiles if statistics == "layer" else plan.row_tiles
    if plan.reads_once and statistics != "none":
        assert plan.cluster == group <= device.cluster
    else:
        assert plan.cluster == 1


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("value_bytes", [4, 2])
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("device", list(DEVICES))
def test_maps_of_munit(device, layout, value_bytes, batch):
    gpu = DEVICES[device]
    for of in munit_maps():
        shape = (batch, of.channels, of.height, of.width)
        plan = plan_of(gpu, layout, of.statistics, *shape, value_bytes=value_bytes, pad=of.pad)
        assert plan.staged
        assert plan.vectors
        if gpu is H100 and of.statistics == "instance":
            assert plan.reads_once
        # Enough blocks for every multiprocessor, or tiles so small that more of them would not help. What is read once
        # may leave some idle.
        values = of.channels * of.height * of.width * batch / plan.blocks
        enough = {"instance": 0.12, "layer": 0.12, "none": 0.9}[of.statistics] if plan.reads_once else 1
        assert plan.blocks >= enough * gpu.multiprocessors or values * value_bytes <= 8 * 1024


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_gradients_of_munit_are_read_once(layout):
    for of in munit_maps():
        too_large = layout == "channels_last" and of.height == 256  # 32-byte columns of x and of the gradient: 4.2 MB
        if of.statistics == "instance" and not too_large:
            shape = (1, of.channels, of.height, of.width)
            plan = plan_of(H100, layout, "instance", *shape, pad=of.pad, dpadded=True)
            assert plan.reads_once


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_a_sample_that_fits_in_sixteen_blocks_is_read_once(layout):
    """2 MiB of MUNIT's layer norm at 128², and twice that, which 16 times 227 KiB do not hold."""
    assert plan_of(H100, layout, "layer", 1, 64, 128, 128, value_bytes=2).reads_once
    assert not plan_of(H100, layout, "layer", 1, 128, 128, 128, value_bytes=2).reads_once


@pytest.mark.parametrize(("cluster", "reads_once"), [(16, 1), (8, 0), (1, 0)])
def test_where_large_clusters_find_no_room_groups_are_read_twice(cluster, reads_once):
    """A sector of channels of 256² maps: 2 MiB. A GPU that is shared may have no room for sixteen blocks together."""
    device = Device(132, 227 * 1024, cluster)
    plan = plan_of(device, "channels_last", "instance", 1, 64, 256, 256, value_bytes=2)
    assert plan.reads_once == reads_once
    assert plan.cluster == (cluster if reads_once else 1)
    if not reads_once:
        assert plan.blocks >= device.multiprocessors
