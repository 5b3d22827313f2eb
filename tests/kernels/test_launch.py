"""The launch tables of the Triton kernels. They need neither Triton nor a GPU."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastmunit.testing import munit_maps

launch = pytest.importorskip("fastmunit.kernels.launch", reason="the Triton kernels are not installed")
table = pytest.importorskip("fastmunit.kernels.fused_norm_launch", reason="the Triton kernels are not installed")
H100 = 132


def chosen_launch(shape, itemsize, channels_last, statistics):
    return table.choose_launch(shape, itemsize, channels_last, statistics, H100)


def is_power_of_two(value):
    return value > 0 and value & (value - 1) == 0


@given(
    st.tuples(st.integers(1, 8), st.integers(1, 1100), st.integers(1, 1100), st.integers(1, 1100)),
    st.sampled_from([2, 4]),
    st.booleans(),
    st.sampled_from(["instance", "layer", "none"]),
)
def test_every_value_has_its_program(shape, itemsize, channels_last, statistics):
    n, c, h, w = shape
    chosen = chosen_launch(shape, itemsize, channels_last, statistics)
    tile = chosen.tile
    assert all(map(is_power_of_two, (tile.channels, tile.rows, tile.columns, tile.warps)))
    assert tile.channels * tile.rows * tile.columns <= 32 * 32 * tile.warps and tile.warps <= 16
    blocks = [launch.ceil_div(c, tile.channels), launch.ceil_div(h, tile.rows), launch.ceil_div(w, tile.columns)]
    assert chosen.programs == n * blocks[0] * blocks[1] * blocks[2]
    covered = (blocks[0] * tile.channels, blocks[1] * tile.rows, blocks[2] * tile.columns)
    assert chosen.exact == (covered == (c, h, w))
    if chosen.whole:
        assert statistics == "instance" and blocks[1] == blocks[2] == 1


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("itemsize", [2, 4])
def test_maps_of_munit_occupy_the_gpu(itemsize, channels_last):
    """At batch 1, half of an H100's multiprocessors have a program if the map has 4096 values for each program."""
    for map in munit_maps():
        shape = (1, map.channels, map.height, map.width)
        values = map.channels * map.height * map.width
        programs = chosen_launch(shape, itemsize, channels_last, map.statistics).programs
        assert programs >= min(H100 // 2, values // 4096)


def test_planes_that_fit_are_read_once():
    for side, batch, channels in ((64, 1, 256), (128, 1, 128), (16, 4, 256)):
        assert chosen_launch((batch, channels, side, side), 4, False, "instance").whole
    assert not chosen_launch((1, 64, 256, 256), 4, False, "instance").whole
    assert not chosen_launch((1, 256, 64, 64), 4, False, "layer").whole
    assert chosen_launch((8, 256, 32, 32), 2, True, "instance").whole


def test_columns_of_a_pad():
    nchw = chosen_launch((1, 64, 256, 256), 4, False, "instance")
    assert [nchw.columns_at_a_time(columns) for columns in (0, 2, 6)] == [1, 2, 8]
    assert chosen_launch((1, 64, 256, 256), 2, True, "instance").columns_at_a_time(6) == 1


def test_64_bit_offsets():
    row = torch.empty(1).expand(1, 1, 3, 4)
    far = torch.empty(1).as_strided((1, 1, 1, 1), (1, 1, 2**31, 1))
    assert not launch.needs_64_bit_offsets(row, None, far)
    with torch.device("meta"):
        assert launch.needs_64_bit_offsets(torch.empty(1, 2, 2**15, 2**15 + 1))
        assert not launch.needs_64_bit_offsets(torch.empty(4, 2, 2**15, 2**15))


def test_a_map_that_is_dense_in_both_layouts_is_nchw():
    assert not launch.is_channels_last(torch.empty(2, 1, 4, 4).contiguous(memory_format=torch.channels_last))
    assert launch.is_channels_last(torch.empty(2, 3, 4, 4).contiguous(memory_format=torch.channels_last))
