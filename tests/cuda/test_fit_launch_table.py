"""tools/fit_launch_table.py on made-up reports: each part of the rule in its docstring."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tools.fit_launch_table import Candidates, choices, cost, thresholds

ROOT = Path(__file__).parents[2]
LARGE, MIDDLE, SMALL = (1, 64, 256, 256), (1, 128, 128, 128), (1, 256, 64, 64)
AS_PLANNED = ("as planned", {"tile": 1.0, "cluster_limit": 8})
HALF = ("half tiles", {"tile": 0.5, "cluster_limit": 8})
NO_CLUSTERS = ("no clusters", {"tile": 1.0, "cluster_limit": 1})
WITHOUT = ("no dependent launches", {"tile": 1.0, "cluster_limit": 8})


def row(shape, variant, us, *, warm=None, threads=256, task=None, same=(), **more):
    name, params = variant
    return {
        "task": task or f"{threads} {shape}", "variant": f"{threads} threads, {name}", "variants": [name, *same],
        "params": {"threads": threads, **params}, "op": "instance + relu + pad 1", "statistics": "instance",
        "shape": list(shape), "layout": "nchw", "dtype": "float32", "pass": "forward",
        "us_cold": us, "us_warm": us / 2 if warm is None else warm, **more,
    }  # fmt: skip


def lines(*rows):
    return list(thresholds(Candidates(rows)))


def test_cost_is_the_cold_time_unless_the_warm_time_is_longer():
    assert cost({"us_cold": 10, "us_warm": 4}) == 10
    assert cost({"us_cold": 10, "us_warm": 14}) == 12


def test_a_class_uses_the_variant_with_the_lowest_cost():
    found = lines(
        row(LARGE, AS_PLANNED, 20), row(LARGE, NO_CLUSTERS, 19),
        row(MIDDLE, AS_PLANNED, 14), row(MIDDLE, NO_CLUSTERS, 13),
    )  # fmt: skip
    assert found[0] == "threads per block: 256"
    assert found[2:] == [
        "nchw float32 instance forward: no clusters, tile 1 of the largest, clusters of at most 1, +6% speed"
    ]


@pytest.mark.parametrize(("us", "second"), [(8.9, True), (9.1, False)])
def test_a_second_variant_must_be_a_tenth_faster(us, second):
    found = lines(row(LARGE, AS_PLANNED, 20), row(LARGE, HALF, 30), row(SMALL, AS_PLANNED, 10), row(SMALL, HALF, us))
    assert [line for line in found if line.startswith("  ")] == [
        f"  instance + relu + pad 1 {SMALL}: half tiles, tile 0.5 of the largest, clusters of at most 8, 11% less time"
    ] * second
    assert ("nchw float32 instance forward: smaller tiles for maps of at most 1048576 values" in found) == second


def test_there_is_no_second_variant_for_a_small_share_of_the_time():
    found = lines(row(LARGE, AS_PLANNED, 900), row(LARGE, HALF, 990), row(MIDDLE, AS_PLANNED, 10), row(MIDDLE, HALF, 5))
    assert not any(line.startswith("  ") for line in found)


def test_a_variant_without_a_time_for_every_shape_is_ignored():
    found = lines(row(LARGE, AS_PLANNED, 20), row(LARGE, HALF, 10), row(MIDDLE, AS_PLANNED, 100))
    assert "as planned" in found[2]


def test_a_variant_with_the_same_plan_has_its_cost():
    found = lines(
        row(LARGE, AS_PLANNED, 20), row(LARGE, HALF, 10),
        row(MIDDLE, AS_PLANNED, 14, same=["half tiles"]),
    )  # fmt: skip
    assert "half tiles" in found[2]


def test_numbers_of_threads_are_compared_in_the_same_rounds():
    rounds = [row(LARGE, AS_PLANNED, 40, task="both"), row(LARGE, AS_PLANNED, 30, threads=512, task="both")]
    assert lines(row(LARGE, AS_PLANNED, 20), row(LARGE, HALF, 19), *rounds)[0] == "threads per block: 512"
    assert lines(row(LARGE, AS_PLANNED, 20), row(LARGE, HALF, 14), *rounds)[0] == "threads per block: 256"


@pytest.mark.parametrize(("us", "answer"), [(19, "no"), (20, "yes"), (21, "yes")])
def test_dependent_launches(us, answer):
    assert lines(row(LARGE, AS_PLANNED, 20), row(LARGE, WITHOUT, us))[1] == f"dependent launches: {answer}"


def test_nothing_measured():
    assert lines() == ["no candidates were measured"]
    assert lines(row(LARGE, HALF, 20)) == ["no candidates were measured"]  # the default gave a wrong result


def report(times, *, passes="forward+backward"):
    """Return a report with times of the native and Triton kernels, by number of channels of a 64² map."""
    head = {
        "function": "fused_norm", "op": "instance + relu + pad 1", "statistics": "instance", "layout": "nchw",
        "dtype": "float32", "pass": passes, "us_warm": 1.0,
    }  # fmt: skip
    stages = [
        {
            "name": f"{implementation} kernels",
            "rows": [
                {**head, "implementation": implementation, "shape": [1, c, 64, 64], "us_cold": us[k]}
                for c, us in times.items()
            ],
        }
        for k, implementation in enumerate(("native", "triton"))
    ]
    device = [
        {"task": "device", "date": "2026-12-01"},
        {"task": "device", "torch": "2.11.0"},
        {"task": "device", "name": "H100", "major": 9, "minor": 0},
    ]
    return {"dry_run": False, "stages": [{"name": "floor", "rows": device}, *stages]}


def test_triton_is_chosen_where_it_is_a_tenth_faster():
    found = list(choices(report({64: (10, 8.9), 128: (20, 18), 256: (40, 37), 512: (80, 40)})))
    start = 'Choice(capability=(9, 0), function="fused_norm", layout="nchw", dtype="float32", statistics="instance", '
    end = 'implementation="triton", source="bench.on_gpu, H100, torch 2.11.0, 2026-12-01'
    assert found == [
        f'{start}min_values={64 * 4096}, max_values={128 * 4096}, {end}: 8.9 against 10.0 µs, 18.0 against 20.0 µs")',
        f'{start}min_values={512 * 4096}, max_values={512 * 4096}, {end}: 40.0 against 80.0 µs")',
    ]
    assert list(choices(report({64: (10, 1)}, passes="forward"))) == []


def test_command_line(tmp_path):
    content = report({64: (10, 5)})
    content["stages"].append({"name": "candidates", "rows": [row(LARGE, AS_PLANNED, 20)]})
    path = tmp_path / "on_gpu.json"
    path.write_text(json.dumps(content))
    command = [sys.executable, "-m", "tools.fit_launch_table", str(path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.startswith("threads per block: 256\n")
    assert "where Triton is faster:\nChoice(" in run.stdout
    assert "min_values=262144" in run.stdout
