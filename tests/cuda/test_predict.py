"""bench.predict: its inputs from the emulator and the kernel counts, and its table in docs/project/benchmarks.md."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench import predict
from bench.gpu_model import FITTED, GPUS
from bench.old_kernels import MEASURED
from bench.problems import FusedNormCase
from tests.cuda.emulated import Started
from tools.count_instructions import Counts
from tools.gpu_budget import short_name

H100 = GPUS["H100"]
CASE = FusedNormCase(
    "instance + relu + pad 1",
    (1, 32, 64, 64),
    torch.float32,
    "nchw",
    {"statistics": "instance", "activation": "relu", "pad": 1},
)
COUNTS = Counts(
    values=32, registers=64, shared_bytes=0, in_flight=128, barriers=4, load=100, sums=200, write=300, again=0
)


def started(mode, blocks=32, loaded=32 * 64 * 64 * 4, stored=0, cluster=1):
    name = f"void ns::forward_rows<float, 2, (ns::Mode){mode}>(ns::Arguments)"
    return Started(name, blocks, 256, cluster, False, loaded, stored)


def test_kernels_and_bytes_come_from_the_launchers():
    x, padded = 32 * 64 * 64 * 4, 32 * 66 * 66 * 4
    forward, backward = predict.kernels_of(CASE, H100.device)
    assert [short_name(kernel.name).split("<")[0] for kernel in forward] == ["forward_rows"]
    assert [short_name(kernel.name).split("<")[0] for kernel in backward] == ["backward_rows"]
    assert x <= forward[0].loaded <= 1.04 * x  # the two rows of 64 that the padding copies are loaded again
    assert padded <= forward[0].stored <= 1.01 * padded
    assert x + padded <= backward[0].loaded <= 1.02 * (x + padded)
    layer = replace(CASE, options={**CASE.options, "statistics": "layer"}, parameters=((32,), (32,)))
    forward, _ = predict.kernels_of(layer, H100.device)
    assert [kernel.dependent for kernel in forward] == [False, True, True]
    assert [kernel.loaded > x / 2 for kernel in forward] == [True, False, True]
    known = predict.read_counts()[1]
    assert all(short_name(kernel.name) in known for kernel in forward)


def test_a_block_reads_once_and_writes_in_proportion():
    """With 32 blocks of 256 threads, each thread holds 16 values of this map, half of a full tile."""
    launch = predict.launch_of(started(predict.WHOLE, stored=7, cluster=4), COUNTS, CASE, H100)
    load, sums, write = launch.phases
    assert (load.instructions, sums.instructions, write.instructions) == (100, 200, 150)
    assert (load.bytes_moved, write.bytes_moved) == (32 * 64 * 64 * 4, 7)
    assert (load.cached, load.round_trips) == (False, 1)
    assert sums.wait_us == pytest.approx(2 * FITTED.block_sum_us + FITTED.scalars_us + FITTED.cluster_us)
    assert launch.resident == 4


def test_further_rounds_execute_the_loop_again():
    """With 4 blocks, each thread processes 128 values: four rounds of 32."""
    launch = predict.launch_of(started(predict.REDUCE, blocks=4), replace(COUNTS, again=300), CASE, H100)
    load, sums, write = launch.phases
    assert (load.instructions, sums.instructions, write.instructions) == (250, 500, 750)
    assert load.round_trips == 4


def test_the_second_kernel_reads_the_map_from_the_cache():
    for mode, statistics, gpu, cached in (
        (predict.APPLY, "instance", H100, True),
        (predict.APPLY, "none", H100, False),
        (predict.REDUCE, "instance", H100, False),
        (predict.APPLY, "instance", replace(H100, cache_bytes=1000), False),
    ):
        case = replace(CASE, options={**CASE.options, "statistics": statistics})
        assert predict.launch_of(started(mode), COUNTS, case, gpu).phases[0].cached == cached


def test_the_compiled_time_is_the_measured_one():
    measured = MEASURED[0]
    channels, side = measured.shape
    case = replace(CASE, shape=(1, channels, side, side))
    kernel = started(predict.WHOLE)
    of = predict.predict(case, "H100", [kernel], {short_name(kernel.name): COUNTS})
    assert of.compiled_over_ours == pytest.approx(measured.us * measured.compiled_over_ours / of.us)
    assert replace(of, gpu="H200").compiled_over_ours is None
    assert replace(of, case=CASE).compiled_over_ours is None
    assert replace(of, case=replace(case, dtype=torch.bfloat16, layout="channels_last")).compiled_over_ours is not None
    bytes_of_copy = 4 * channels * (side**2 + (side + 2) ** 2)
    assert of.over_copy == pytest.approx(of.us / H100.copy_us(bytes_of_copy))


def test_the_documented_table_is_up_to_date(monkeypatch, capsys):
    text = (Path(__file__).parents[2] / "docs/project/benchmarks.md").read_text()
    monkeypatch.setattr(sys, "argv", ["predict", "--gpu", "H100"])
    predict.main()
    title, *lines = capsys.readouterr().out.strip().splitlines()
    assert title == "H100, predicted, not measured"
    table = "\n".join(lines).strip()
    assert table.count("\n") > 10
    assert table in text, "docs/project/benchmarks.md is not up to date: python -m bench.predict --gpu H100\n" + table
