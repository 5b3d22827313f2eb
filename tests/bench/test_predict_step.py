"""bench.predict_step: the times of products and of bytes, by hand and on the one convolution that was measured."""

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from bench import predict_step
from bench.dispatch import recorded
from bench.gpu_model import FITTED, GPUS
from bench.predict_step import bytes_moved, prediction, product_us, time_us
from fastmunit import functional

H100 = GPUS["H100"]


def calls_of(function):
    return recorded(function, "cuda")


def bfloat16(*shape):
    return torch.zeros(shape, dtype=torch.bfloat16)


def test_the_measured_convolution_is_reproduced():
    x, weight = bfloat16(1, 256, 66, 66), bfloat16(256, 256, 3, 3)
    (call,) = calls_of(lambda: F.conv2d(x, weight))
    assert time_us(call, H100) - FITTED.launch_us == pytest.approx(13.6, rel=0.01)


def test_the_last_wave_takes_as_long_as_a_full_one():
    rows = 128 * 132
    full = product_us(rows, 128, 64000, H100)
    assert product_us(rows + 1, 128, 64000, H100) > 1.3 * full
    assert product_us(rows // 2, 128, 64000, H100) <= full
    assert product_us(128, 128, 64000, H100, splits=True) < product_us(128, 128, 64000, H100) / 4
    assert product_us(128, 128, 640, H100, batch=132) == product_us(rows, 128, 640, H100)
    assert product_us(rows, 128, 64000, H100, share=0.1) == pytest.approx(10 * full, rel=0.01)


def test_each_gradient_of_a_convolution_adds_its_time():
    x, weight = bfloat16(1, 64, 34, 34).requires_grad_(), bfloat16(128, 64, 4, 4).requires_grad_()
    times = []
    for learning in ([x], [weight], [x, weight]):
        calls = calls_of(lambda learning=learning: torch.autograd.grad(F.conv2d(x, weight, stride=2).sum(), learning))
        times.append(sum(time_us(call, H100) for call in calls if "backward" in call.name))
    assert times[2] == pytest.approx(times[0] + times[1])


def test_bytes_of_optimizers_include_what_they_write():
    parameters = [torch.zeros(100, requires_grad=True)]
    parameters[0].grad = torch.zeros(100)
    optimizer = torch.optim.Adam(parameters, fused=True)
    calls = calls_of(optimizer.step)
    (adam,) = (call for call in calls if "adam" in call.name)
    assert bytes_moved(adam) == pytest.approx(7 * 400, abs=20)  # and the count of steps
    low = [bfloat16(100)]
    (copy,) = calls_of(lambda: torch._foreach_copy_(low, [torch.zeros(100)]))[-1:]
    assert bytes_moved(copy) == 600


def test_a_step_is_the_sum_of_its_ops():
    x = bfloat16(1, 8, 16, 16)

    def step():
        functional.fused_norm(functional.upsample_conv2d(x, bfloat16(8, 8, 5, 5), None), statistics="instance")

    calls = calls_of(step)
    found = prediction(calls, H100)
    assert sum(counts["us"] for counts in found.values()) == pytest.approx(sum(time_us(call, H100) for call in calls))
    assert found["fused_norm, forward"]["us"] > FITTED.launch_us
    small = calls_of(lambda: torch.ones(4) + 1)[-1]
    large = calls_of(lambda: torch.ones(2**26) + 1)[-1]
    assert time_us(small, H100) == pytest.approx(FITTED.launch_us + FITTED.round_trip_us, rel=0.01)
    assert time_us(large, H100) == pytest.approx(H100.memory_us(2**29), rel=0.02)


@pytest.mark.slow
def test_the_documented_table_is_up_to_date(monkeypatch, capsys):
    text = (Path(__file__).parents[2] / "docs/project/benchmarks.md").read_text()
    monkeypatch.setattr(sys, "argv", ["predict_step"])
    predict_step.main()
    title, table = capsys.readouterr().out.strip().split("\n\n")
    assert title.endswith("predicted, not measured")
    assert table in text, "docs/project/benchmarks.md is not up to date: python -m bench.predict_step\n" + table
