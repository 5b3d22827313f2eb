"""The launch tables of the Triton kernels, which need neither Triton nor a GPU."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastmunit.testing import munit_maps

launch = pytest.importorskip("fastmunit.kernels.launch", reason="the Triton kernels are not installed")
table = pytest.importorskip("fastmunit.kernels.fused_norm_launch", reason="the Triton kernels are not installed")
H100 = 132


def launches(shape, itemsize, channels_last, statistics, pad_targets=3):
    arguments = (shape, itemsize, channels_last, statistics, H100)
    return table.forward_launch(*arguments), table.backward_launch(*arguments, pad_targets)


def is_power_of_two(value):
    return value > 0 and value & (value - 1) == 0


@given(
    st.tuples(st.integers(1, 8), st.integers(1, 1100), st.integers(1, 1100), st.integers(1, 1100)),
    st.sampled_from([2, 4]),
    st.booleans(),
    st.sampled_from(["instance", "layer", "none"]),
    st.sampled_from([1, 3, 5, 7]),
)
def test_every_value_has_its_program(shape, itemsize, channels_last, statistics, pad_targets):
    n, c, h, w = shape
    for chosen in launches(shape, itemsize, channels_last, statistics, pad_targets):
        tile = chosen.tile
        assert all(map(is_power_of_two, (tile.channels, tile.rows, tile.columns, tile.warps)))
        assert tile.channels * tile.rows * tile.columns <= 16384 and tile.warps <= 32
        blocks = [launch.ceil_div(c, tile.channels), launch.ceil_div(h, tile.rows), launch.ceil_div(w, tile.columns)]
        assert chosen.programs == n * blocks[0] * blocks[1] * blocks[2]
        if chosen.whole:
            assert statistics == "instance" and blocks[1] == blocks[2] == 1


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("itemsize", [2, 4])
def test_maps_of_munit_occupy_the_gpu(itemsize, channels_last):
    """At batch 1 there is a program for half of an H100's multiprocessors wherever the map has 4096 values for each."""
    for map in munit_maps():
        shape = (1, map.channels, map.height, map.width)
        for chosen in launches(shape, itemsize, channels_last, map.statistics):
            values = map.channels * map.height * map.width
            assert chosen.programs >= min(H100 // 2, values // 4096)


def test_planes_that_fit_are_read_once():
    for side, batch, channels in ((64, 1, 256), (128, 1, 128), (16, 4, 256)):
        forward, backward = launches((batch, channels, side, side), 4, False, "instance")
        assert forward.whole and backward.whole
    assert not any(chosen.whole for chosen in launches((1, 64, 256, 256), 4, False, "instance"))
    assert not any(chosen.whole for chosen in launches((1, 256, 64, 64), 4, False, "layer"))
    assert not launches((1, 256, 64, 64), 4, False, "instance", pad_targets=7)[1].whole
    assert all(chosen.whole for chosen in launches((8, 256, 32, 32), 2, True, "instance"))


def test_64_bit_offsets():
    row = torch.empty(1).expand(1, 1, 3, 4)
    far = torch.empty(1).as_strided((1, 1, 1, 1), (1, 1, 2**31, 1))
    assert not launch.needs_64_bit_offsets(row, None, far)
    with torch.device("meta"):
        assert launch.needs_64_bit_offsets(torch.empty(1, 2, 2**15, 2**15 + 1))
        assert not launch.needs_64_bit_offsets(torch.empty(4, 2, 2**15, 2**15))


def test_layout_of_a_map_that_is_both_is_nchw():
    assert not launch.is_channels_last(torch.empty(2, 1, 4, 4).contiguous(memory_format=torch.channels_last))
    assert launch.is_channels_last(torch.empty(2, 3, 4, 4).contiguous(memory_format=torch.channels_last))
