"""bench.on_gpu: a dry run of all stages, and their parts."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bench.harness import DEVICE
from bench.on_gpu import batch, candidates, floor, library, ops, timer
from bench.on_gpu.__main__ import main
from bench.on_gpu.clock import WallClock
from bench.on_gpu.kernel_profile import NAMES, category_of
from bench.on_gpu.library import Builds, Device, LaunchError, Maps
from bench.on_gpu.runner import PRELOADED
from bench.on_gpu.stage import Context, SkippedError
from bench.on_gpu.stages import STAGES
from bench.on_gpu.timer import FAKE_BYTES_PER_SECOND, FAKE_LAUNCH_SECONDS, DryTimer, GpuTimer, Launches
from bench.problems import instance_norm_stats_problem
from fastmunit.ops.availability import unavailable
from tools import fit_launch_table
from tools.gpu_budget import find_nvcc

ROOT = Path(__file__).parents[2]
NATIVE = unavailable("native", "cpu")


def on_gpu(folder, *arguments, **environment):
    command = [sys.executable, "-m", "bench.on_gpu", "--out", folder, "--dry-run", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=300, check=False)


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("on_gpu")
    run = on_gpu(folder)
    assert run.returncode == 0, run.stderr
    return json.loads((folder / "on_gpu.json").read_text())


@pytest.fixture
def rows(dry_run):
    """Return the rows of each stage by name."""
    return {stage["name"]: stage["rows"] for stage in dry_run["stages"]}


def test_every_stage_is_done(dry_run):
    assert dry_run["dry_run"] is True
    assert dry_run["minutes"] == 7
    assert [stage["name"] for stage in dry_run["stages"]] == [stage.name for stage in STAGES]
    for stage in dry_run["stages"]:
        assert (stage["status"], stage["left_out"]) == ("done", []), stage["name"]


def test_only_rows_that_need_a_gpu_have_no_result(rows):
    reasons = {row["reason"] for each in rows.values() for row in each if "status" in row}
    allowed = ("a dry run has no device", "Triton")
    assert [reason for reason in reasons if not any(words in reason for words in allowed)] == []


def test_stages_fit_in_the_minutes():
    assert sum(stage.seconds for stage in STAGES) <= 7 * 60 - 8


def test_the_floor_is_a_line(rows):
    lines = {(row["kind"], row["column"]): row for row in rows["floor"] if "fixed_us" in row}
    line = lines["memcpy node, fitted", "us_flushed"]
    assert line["fixed_us"] == pytest.approx(FAKE_LAUNCH_SECONDS * 1e6)
    assert line["terabytes_per_second"] == pytest.approx(FAKE_BYTES_PER_SECOND * 1e-12)
    assert len(lines) == 4


def test_copies_of_equal_time_fit_no_bandwidth():
    points = [{"bytes_moved": size, "us": 5.0} for size in (1000, 2000)]
    fitted = floor.fit_line(points, "us")
    assert fitted["fixed_us"] == pytest.approx(5)
    assert fitted["largest_relative_error"] < 1e-9


@pytest.mark.skipif(NATIVE is not None, reason=str(NATIVE))
def test_each_op_has_times_and_ratios(rows):
    (first, *_) = (row for row in rows["native kernels"] if row["implementation"] == "native")
    assert first["times_copy_cold"] == pytest.approx(1 / 2)  # a dry run makes the second competitor twice as slow
    assert 0 < first["error"] < 1e-6
    tasks = {row["task"] for row in rows["native kernels"] if "us_cold" in row}
    compared = [row for row in rows["compiled and copy"] if row["implementation"] == "native"]
    assert {row["task"] for row in compared} == tasks
    assert {row["compiled_over_this_cold"] for row in compared} == {3.0}
    assert {row["eager_over_this_warm"] for row in compared} == {2.0}


def test_the_cases_are_maps_of_a_step():
    cases = list(ops.fused_norm_cases(256))
    found = {(case.options["statistics"], case.shape[1:], case.options["pad"]) for case in cases}
    assert found >= {
        ("instance", (64, 256, 256), 1), ("instance", (128, 128, 128), 1), ("instance", (256, 64, 64), 1),
        ("layer", (128, 128, 128), 0), ("layer", (64, 256, 256), 3), ("none", (64, 128, 128), 1),
    }  # fmt: skip
    assert {case.options["pixel_shuffle"] for case in cases if case.options["statistics"] == "layer"} == {True}
    assert {(case.dtype, case.layout) for case in cases} == set(ops.FORMS)
    assert {case.backward for case in cases} == {False, True}


@pytest.mark.skipif(shutil.which("c++") is None, reason="the emulated kernels need a C++ compiler")
def test_candidates_are_correct_and_each_plan_is_timed_once(rows):
    found = [row for row in rows["candidates"] if "us_cold" in row]
    assert not any("status" in row for row in found)
    for row in found:
        assert row["max_error"] < (1e-6 if row["dtype"] == "float32" else 5e-3)
        assert row["us_copy_cold"] > row["us_copy_warm"] > 0
        assert row["us_cold"] > row["us_warm"] > 0
    assert {row["params"]["threads"] for row in found} == {128, 256}
    assert {row["params"]["split"] for row in found} == {0, 1}
    assert {row["params"]["cluster"] for row in found} >= {1, 2, 4, 8}
    assert {row["params"]["dependent_launches"] for row in found} == {True, False}
    assert {row["params"]["kernel"] for row in found} == {0, 1, 2}
    assert {row["pass"] for row in found} == {"forward", "backward"}
    numbers = ("split", "channels", "steps", "tiles", "cluster", "blocks")
    for task in {row["task"] for row in found}:
        of_task = [row["params"] for row in found if row["task"] == task]
        keys = [(p["threads"], p["dependent_launches"] and p["split"], *(p[n] for n in numbers)) for p in of_task]
        assert len(set(keys)) == len(keys), task
        assert of_task[0]["tile"] == 1


def test_a_launch_table_can_be_fitted_to_a_run(rows, dry_run):
    found = fit_launch_table.Candidates(fit_launch_table.rows_of(dry_run, "candidates"))
    assert sum(found.shares.values()) == pytest.approx(1)
    threads, dependent, *classes = fit_launch_table.thresholds(found)
    assert threads == "threads per block: 256"  # in a dry run, the first candidate is the fastest
    assert dependent == "dependent launches: yes"
    assert len(classes) == 12
    assert all(": as planned, " in line for line in classes)
    assert list(fit_launch_table.choices(dry_run)) == []
    triton = [row for row in rows["native kernels"] if row.get("implementation") == "native" and "us_cold" in row]
    triton = [{**row, "implementation": "triton", "us_cold": row["us_cold"] / 2, "us_warm": 0.0} for row in triton]
    faster = {**dry_run, "stages": [*dry_run["stages"], {"name": "triton kernels", "rows": triton}]}
    assert len(list(fit_launch_table.choices(faster))) == 6


@pytest.mark.parametrize("backward", [False, True])
def test_a_wrong_candidate_is_not_timed(context, monkeypatch, backward):
    case = next(case for case in ops.fused_norm_cases(16) if case.backward == backward)
    kind = candidates.Backward if backward else candidates.Forward
    right = kind.__call__

    def wrong(self, *tensors):
        results = right(self, *tensors)
        (results[0] if backward else results)[0, 0, 0, 0] += 1
        return results

    monkeypatch.setattr(kind, "__call__", wrong)
    found = list(candidates.rows(context, Builds(None), case, [256]))
    assert found
    assert {row["status"] for row in found} == {"wrong"}
    assert found[0]["variant"] == "256 threads, as planned"


def test_a_too_small_workspace_is_refused():
    case = next(case for case in ops.fused_norm_cases(16) if case.options["statistics"] == "layer")
    built, device = Builds(None).wait(256), Device(4, 1, False)
    maps = Maps(*case.problem("cpu").tensors[:4])
    plan = built.plan(device, maps, case.options)
    assert plan.split
    with pytest.raises(LaunchError, match="the workspace is too small"):
        built.forward(device, maps, case.options, replace(plan, workspace_doubles=plan.workspace_doubles // 4))


def test_without_a_compiler_candidates_are_skipped(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SkippedError, match="there is no C\\+\\+ compiler"):
        Builds(None, tmp_path)


def test_a_compilation_error_is_reported(monkeypatch, tmp_path):
    monkeypatch.setattr(library, "SOURCES", ("bench/no_such.cu",))
    with pytest.raises(RuntimeError, match="no_such"):
        Builds(None, tmp_path).wait(256)
    assert list(tmp_path.iterdir()) == []


def test_larger_batches(rows):
    found = {(row["precision"], row["tf32"], row["batch"]): row for row in rows["batch"]}
    precisions = [("bfloat16", False), ("float32", True), ("float32", False)]
    assert list(found) == [(*precision, batch) for precision in precisions for batch in (1, 2)]
    assert all(row["images_per_second"] == pytest.approx(1e3 * row["batch"] / row["ms"]) for row in found.values())


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_a_batch_without_memory_is_a_row(monkeypatch, error):
    def refuse(*args, **options):
        raise error

    monkeypatch.setattr("bench.on_gpu.step.our_step", refuse)
    context = Context.of(True, WallClock())
    (row,) = batch.tasks(context)[0].rows()
    assert (row["status"], row["precision"], row["batch"]) == ("out of memory", "bfloat16", 1)


def test_other_errors_of_a_batch_are_raised(monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("a wrong shape")

    monkeypatch.setattr("bench.on_gpu.step.our_step", fail)
    context = Context.of(True, WallClock())
    with pytest.raises(RuntimeError, match="a wrong shape"):
        list(batch.tasks(context)[0].rows())


def test_steps_and_profile(rows):
    steps = {row["task"]: row for row in (*rows["step"], *rows["compiled step"]) if "status" not in row}
    assert len(steps) == 7
    assert all(row["ms"] > 0 for row in steps.values())
    assert 0 < steps["ours, auto, graph, cudnn.benchmark True"]["largest_loss_error"] < 2e-2
    kinds = [row["kind"] for row in rows["profile"]]
    assert kinds.count("all") == 1
    assert 0 < kinds.count("kernel") <= NAMES
    shares = [row["share"] for row in rows["profile"] if row["kind"] == "category"]
    assert sum(shares) == pytest.approx(1)


def test_only_steps_need_pydantic_and_pytest(tmp_path):
    for name in ("pydantic", "pytest", "_pytest"):
        (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError('{name} is not installed here')")
    path = os.pathsep.join([str(tmp_path), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    run = on_gpu(tmp_path, "--stages", "native kernels", "step", PYTHONPATH=path)
    assert run.returncode == 1, run.stderr
    kernels, step = json.loads((tmp_path / "on_gpu.json").read_text())["stages"]
    assert kernels["status"] == "done"
    assert step["status"] == "skipped"
    assert "pydantic is not installed here" in step["reason"]


@pytest.mark.skipif(find_nvcc() is None, reason="there is no nvcc")
def test_candidates_compile_for_a_gpu(tmp_path):
    """Compile only their own source: test_compile.py compiles the launchers."""
    command = [
        find_nvcc(),
        "-std=c++17",
        "-arch=sm_90",
        "-Icsrc",
        "-c",
        "-o",
        tmp_path / "candidates.o",
        library.SOURCES[0],
    ]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf", "soon"])
def test_minutes_must_be_a_positive_number(minutes, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["on_gpu", "--out", str(tmp_path), "--dry-run", "--minutes", minutes])
    with pytest.raises(SystemExit):
        main()
    assert f"argument --minutes: invalid minutes value: '{minutes}'" in capsys.readouterr().err


@pytest.mark.skipif(DEVICE == "cuda", reason="there is a GPU")
def test_without_a_gpu_it_reports_an_error(tmp_path):
    command = [sys.executable, "-m", "bench.on_gpu", "--out", tmp_path]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 2
    assert "there is no CUDA device; --dry-run needs none" in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_preloaded_modules_do_not_initialize_cuda():
    """A process that is forked after CUDA has been initialized cannot use it."""
    code = f"""
import importlib, torch
def touched(*args, **kwargs): raise AssertionError("CUDA was touched")
torch.cuda._lazy_init = torch.cuda.is_available = torch.cuda.device_count = touched
torch._C._cuda_getDeviceCount = torch._C._cuda_init = touched
for name in {PRELOADED}: importlib.import_module(name)
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@pytest.fixture
def context():
    return Context(True, WallClock(), DryTimer(WallClock()))


def ops_rows(context, ours):
    """Return the rows of a problem whose function is `ours`."""
    problem = instance_norm_stats_problem((1, 2, 4, 4), torch.float32, "nchw", backward=False, device="cpu")
    problem = replace(problem, ours=ours)
    return list(ops.rows(context, lambda: problem, implementations=["native"], with_compiled=False))


@pytest.mark.parametrize("fault", ["wrong", "unwritten", "another each time"])
def test_a_wrong_result_is_not_timed(context, fault):
    runs = []

    def ours(x, implementation):
        mean, var = x.mean((2, 3)), x.var((2, 3), correction=0)
        rstd = (var + 1e-5).rsqrt()
        runs.append(fault)
        match fault:
            case "wrong":
                mean = mean + 1e-3
            case "unwritten":
                rstd = torch.empty_like(rstd)
            case _:
                rstd = rstd * (1 + 1e-7 * len(runs))
        return mean, rstd

    (row,) = ops_rows(context, ours)
    assert (row["implementation"], row["status"]) == ("native", "wrong")
    assert len(runs) == 2


def test_categories_of_kernels():
    expected = {
        "void fastmunit::cuda::backward_nchw<true, float>(fastmunit::cuda::BackwardArguments)": "fused_norm, backward",
        "void fastmunit::cuda::forward_channels_last<true, 8, __nv_bfloat16>(...)": "fused_norm, forward",
        "void fastmunit::cuda::l1_values(...)": "weighted_l1",
        "void fastmunit::cuda::gan::gan_gradients(fastmunit::GanLossBackward, ...)": "gan_loss",
        "_gan_sums_kernel": "gan_loss",
        "_forward_kernel": "fused_norm in Triton",
        "sm90_xmma_wgrad_implicit_gemm_indexed_bf16bf16_bf16f32_f32_nhwckrsc_nhwc": "convolution, weight gradient",
        "sm90_xmma_dgrad_implicit_gemm_bf16": "convolution, data gradient",
        "sm90_xmma_fprop_implicit_gemm_bf16": "convolution, forward or unnamed",
        "void cudnn::ops::nchwToNhwcKernel<float>(...)": "layout",
        "nvjet_tst_128x64": "matrix product",
        "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<FusedAdamMathFunctor>": "optimizer",
        "void at::native::unrolled_elementwise_kernel<at::native::direct_copy_kernel_cuda(...)>": "copy or cast",
        "Memset (Device)": "fill",
        "void at::native::reduce_kernel<512, 1>": "reduction",
        "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>>": "elementwise",
        "something": "other",
    }
    assert {name: category_of(name) for name in expected} == expected


class Event:
    """A CUDA event with a fake time."""

    now = 0.0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.at = Event.now

    def synchronize(self):
        pass

    def elapsed_time(self, end):
        return end.at - self.at


@pytest.fixture
def device(monkeypatch):
    """Return the list of calls, in order, on a fake device."""
    calls = []
    properties = SimpleNamespace(L2_cache_size=50 * 2**20)
    monkeypatch.setattr(timer, "captured", lambda call: call)
    monkeypatch.setattr(timer, "WARM_UP_SECONDS", 0)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    return calls


def test_time_of_a_call_is_its_share_of_the_graph(device):
    def call(name, milliseconds):
        def run():
            Event.now += milliseconds
            device.append(name)

        return run

    sets = [call(f"ours {k}", 2.0 if k else 5.0) for k in range(4)]
    times = GpuTimer().times({"ours": Launches(sets, 1), "copy": Launches([call("copy", 1.0)] * 4, 1)})
    assert times["ours"].cold == pytest.approx((5 + 3 * 2) / 4 * 1e-3)
    assert times["ours"].warm == pytest.approx(5e-3)
    assert times["copy"].cold == pytest.approx(1e-3)
    first_round = device[: 4 + timer.MIN_WARM_LAUNCHES + 1]
    assert first_round == [*(f"ours {k}" for k in range(4)), *["ours 0"] * timer.MIN_WARM_LAUNCHES, "copy"]


def test_sets_of_buffers_move_four_times_the_cache(device):
    sets = GpuTimer().sets
    assert sets(34 * 2**20) == 6
    assert sets(10**9) == timer.MIN_SETS
    assert sets(1) == timer.MAX_SETS
