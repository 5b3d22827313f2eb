"""Bugs that the simulator must catch. tests/kernels/test_simulator.py expects each of these tests to fail."""

import torch
import triton
import triton.language as tl


@triton.jit
def _unmasked_kernel(x, y, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + at, tl.load(x + at, mask=at < 100, other=0.0))


@triton.jit
def _shared_result_kernel(x, y, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(y + at, tl.load(x + at) + tl.program_id(0))


@triton.jit
def _reflect_kernel(x, y, size, PAD: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK) - PAD
    i = tl.where(i < 0, -i - 1, i)  # off by one: the edge is repeated
    source = tl.where(i < size, i, 2 * size - i)  # off by one at the other end
    tl.store(y + tl.arange(0, BLOCK), tl.load(x + source))


@triton.jit
def _unwritten_kernel(x, y, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(y + at, tl.load(x + at), mask=at < BLOCK - 1)


def test_out_of_bounds_write():
    x = torch.randn(100, device="cuda")
    _unmasked_kernel[(4,)](x, torch.empty_like(x), BLOCK=32)


def test_race_between_programs():
    x = torch.randn(128, device="cuda")
    _shared_result_kernel[(2,)](x, torch.empty_like(x), BLOCK=128)


def test_out_of_bounds_read_of_a_reflected_index():
    x = torch.randn(14, device="cuda")
    _reflect_kernel[(1,)](x, torch.empty(16, device="cuda"), 14, PAD=1, BLOCK=16)


def test_unwritten_output():
    x = torch.randn(64, device="cuda")
    y = torch.empty_like(x)
    _unwritten_kernel[(1,)](x, y, BLOCK=64)
    assert torch.equal(x, y)
