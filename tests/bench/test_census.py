"""bench.census: its totals, and its table in docs/project/benchmarks.md."""

import json
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from bench import census
from bench.census import Census, Totals
from bench.dispatch import recorded
from fastmunit import functional
from fastmunit.systems import registry


def test_totals_of_a_composite_op():
    x, weight = torch.zeros(1, 8, 8, 8), torch.zeros(4, 8, 5, 5)

    def step():
        functional.upsample_conv2d(F.relu(x.bfloat16()), weight.bfloat16(), None)

    calls = recorded(step, "cuda")
    totals = Totals.of(calls)
    parts = [call for call in calls if call.inside is not None]
    assert (totals.ops, totals.casts) == (6, 2)  # two casts, relu, phase_kernels, the pad, upsample_conv2d
    assert totals.ops_with_parts == 4 + len(parts)
    assert sum("convolution" in call.name for call in parts) >= 1
    assert not any(call.name in ("aten.conv2d.default", "aten.matmul.default") for call in parts)
    assert totals.cast_bytes >= (x.numel() + weight.numel()) * (4 + 2)
    found = Census("a system", calls, calls, "H100")
    assert found.kernels == sum(counts["kernels"] for counts in found.by(census.category_of).values())
    assert found.kernels >= len(parts) / 2
    written = json.loads(json.dumps(found.as_json()))
    assert written["cuda"]["kernels"] == found.kernels
    assert written["cpu"]["ops"] == 6


def test_only_some_systems_have_a_reference_step():
    with pytest.raises(ValueError, match="no reference step of cyclegan, only of munit and unit"):
        census.census_of("cyclegan", "float32", reference=True)


@pytest.mark.slow
def test_the_documented_table_is_up_to_date(monkeypatch, capsys):
    text = (Path(__file__).parents[2] / "docs/project/benchmarks.md").read_text()
    monkeypatch.setattr(sys, "argv", ["census", "--system", *registry.names()])
    census.main()
    table = capsys.readouterr().out.split("\n\n")[1]
    for row in table.splitlines():
        assert row in text, "docs/project/benchmarks.md is not up to date: python -m bench.census\n" + table
