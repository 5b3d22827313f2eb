"""The launch table of fused_norm: tiles cover every map, and MUNIT's maps use the kernels written for them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmunit.testing import munit_maps
from tests.cuda.emulated import EmulationError
from tests.cuda.fused_norm_requests import Device, plan_of

H100, A100 = Device(), Device(108, 163 * 1024, 1)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_tiles_cover_the_map(data):
    draw = data.draw
    device = Device(
        draw(st.integers(1, 200)), 0, draw(st.sampled_from([1, 2, 8, 16])), draw(st.sampled_from([1, 2, 32]))
    )
    layout = draw(st.sampled_from(["nchw", "channels_last"]))
    statistics = draw(st.sampled_from(["instance", "layer", "none"]))
    dtype = draw(st.sampled_from(["float32", "bfloat16"]))
    vector = 4 if dtype == "float32" else 8
    n, c, h = draw(st.integers(1, 8)), draw(st.integers(1, 600)), draw(st.integers(1, 300))
    w = draw(st.one_of(st.integers(1, 600), st.sampled_from([32, 64, 128, 256, 512])))
    pixel_shuffle = draw(st.booleans())
    h, w = (2 * h, 2 * w) if pixel_shuffle else (h, w)
    vectors = c % vector == 0 and draw(st.booleans())
    maps = draw(st.sampled_from([1, 2]))
    plan = plan_of(
        device, layout, statistics, (n, c, h, w), dtype=dtype, pixel_shuffle=pixel_shuffle, vectors=vectors, maps=maps
    )
    pixels = h * w // (4 if pixel_shuffle and plan.kernel == "pixels" else 1)
    tile = plan.steps * plan.step_pixels
    assert (plan.tiles - 1) * tile < pixels <= plan.tiles * tile
    assert (plan.slices - 1) * plan.channels < c <= plan.slices * plan.channels
    assert plan.channels <= 32
    assert plan.lanes in (1, 2, 4, 8, 16, 32)
    assert plan.blocks == n * plan.slices * plan.tiles
    held = {"rows": 8, "pixels": 8 // maps, "any": 32 // maps}[plan.kernel]
    if plan.kernel == "rows" and maps == 2:
        held = min(8, 16 // (w // 32))
    rounds = 4 if plan.split and maps == 2 else 1
    assert 1 <= plan.steps <= rounds * min(device.max_steps, held)
    if plan.steps > held:
        assert plan.blocks >= 1.5 * device.multiprocessors
    step_pixels = 8 * w if maps == 2 else 8 * 128
    assert plan.step_pixels == (step_pixels if plan.kernel == "rows" else 256 // plan.lanes)
    if plan.kernel == "rows":
        assert (layout, pixel_shuffle, w % 32) == ("nchw", False, 0)
        assert dtype == "float32" if maps == 2 else (h * w % 128, 1024 % w) == (0, 0)
    if plan.kernel == "pixels":
        assert layout == "channels_last"
        assert vectors
    group = plan.tiles * (plan.slices if statistics == "layer" else 1)
    whole = statistics != "none" and not plan.split
    assert plan.cluster == (group if whole else 1) <= min(8, device.cluster)
    assert not (plan.split and statistics == "none")


@pytest.mark.parametrize("device", [H100, A100], ids=["H100", "A100"])
def test_maps_of_munit(device):
    """The systems run in NCHW float32 or channels_last bfloat16."""
    for of in munit_maps():
        shape = (1, of.channels, of.height, of.width)
        if of.channels % 8:
            continue  # images
        assert plan_of(device, "channels_last", of.statistics, shape, dtype="bfloat16").kernel == "pixels"
        if of.width % 32 == 0:
            plan = plan_of(device, "nchw", of.statistics, shape)
            assert plan.kernel == "rows"
            assert plan_of(device, "nchw", of.statistics, shape, dtype="bfloat16") == plan
            assert plan.blocks >= device.multiprocessors or plan.steps * plan.step_pixels <= 8192
            assert plan_of(device, "nchw", of.statistics, shape, maps=2).kernel == "rows"


@pytest.mark.parametrize(
    ("shape", "layout", "dtype", "maps", "cluster", "blocks"),
    [
        ((1, 64, 256, 256), "nchw", "float32", 1, 8, 512),
        ((1, 128, 128, 128), "nchw", "float32", 1, 2, 256),
        ((1, 256, 64, 64), "nchw", "float32", 1, 1, 256),
        ((1, 256, 64, 64), "channels_last", "bfloat16", 1, 8, 128),
        ((1, 128, 128, 128), "nchw", "float32", 2, 4, 512),
        ((1, 256, 64, 64), "nchw", "float32", 2, 1, 256),
        ((1, 256, 64, 64), "channels_last", "bfloat16", 2, 8, 128),
    ],
)
def test_planes_are_read_once_on_an_h100(shape, layout, dtype, maps, cluster, blocks):
    plan = plan_of(H100, layout, "instance", shape, dtype=dtype, maps=maps)
    assert (plan.split, plan.cluster, plan.blocks) == (False, cluster, blocks)


@pytest.mark.parametrize(("cluster", "split"), [(8, False), (4, True), (1, True)])
def test_groups_are_read_twice_if_clusters_do_not_fit(cluster, split):
    """On a partition of a shared GPU, a cluster of eight blocks may not fit."""
    plan = plan_of(Device(cluster=cluster), "channels_last", "instance", (1, 256, 64, 64), dtype="bfloat16", maps=2)
    assert plan.split == split
    assert plan.cluster == (1 if split else cluster)
    assert plan.blocks >= 128


def test_large_planes_of_the_backward_are_read_twice():
    """256² values and their gradients fill the registers of 16 blocks: four rounds of two blocks per multiprocessor."""
    plan = plan_of(H100, "nchw", "instance", (1, 64, 256, 256), maps=2)
    assert (plan.split, plan.steps, plan.blocks) == (True, 8, 256)


def test_large_channels_last_planes_are_read_twice():
    """The channels of one memory sector have 2 MiB, more than the registers of eight blocks."""
    plan = plan_of(H100, "channels_last", "instance", (1, 64, 256, 256), dtype="bfloat16")
    assert plan.split
    assert plan.blocks >= 2 * H100.multiprocessors - 8


@pytest.mark.parametrize("shape", [(1, 1, 1 << 16, 1 << 15), (1, 1, 1, (1 << 31) + 1), (1, 1 << 30, 1, 1)])
def test_too_large_maps_are_refused(shape):
    with pytest.raises(EmulationError, match="expected"):
        plan_of(H100, "nchw", "none", shape)
