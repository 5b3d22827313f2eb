"""bench.predict: its arithmetic, and one count that is known."""

import subprocess
import sys
from pathlib import Path

import torch

from bench.predict import GPUS, LAUNCH_SECONDS, Case, Work, eager, ideal_compiled, ours

ROOT = Path(__file__).parents[2]
CASE = Case((1, 8, 32, 32), "instance", "relu", 1, False)


def test_bound_is_bytes_or_launches():
    gpu = GPUS["H100"]
    assert Work(3_000_000_000, 2).bound(gpu) == 1e-3
    assert Work(1, 4).bound(gpu) == 4 * LAUNCH_SECONDS


def test_ideal_compiled_reads_twice():
    x, y = 8 * 32 * 32 * 2, 8 * 34 * 34 * 2
    assert ideal_compiled(CASE, torch.bfloat16) == Work(2 * x + y + 2 * (x + y) + x, 4)


def test_ours_is_counted_and_eager_moves_more():
    work = ours(CASE, "nchw", torch.bfloat16, GPUS["H100"].device)
    x, y = 8 * 32 * 32 * 2, 8 * 34 * 34 * 2
    assert 2 * (x + y) + x <= work.bytes <= 1.1 * (2 * (x + y) + x)
    plain = eager(CASE, "nchw", torch.bfloat16)
    assert plain.launches > work.launches
    assert plain.bytes > 2 * work.bytes


def test_prints_a_labelled_table():
    command = [sys.executable, "-m", "bench.predict", "--gpu", "A100", "--layout", "nchw", "--size", "32"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.startswith("predicted bound, not measured: max(bytes / bandwidth, launches * 2.5 us)")
    assert "geometric mean of the bounds" in run.stdout
