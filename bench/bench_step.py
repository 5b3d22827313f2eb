"""A whole MUNIT iteration, and translation, at 256² with the public configuration, compared with the public trainer."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from bench import profile_step
from bench.census import Totals, census_of
from bench.harness import DEVICE, Count, StepTimes, without_tf32
from bench.steps import check_losses, check_losses_of, compile_as_a_user_would, images, our_step, plain_step, trainer_of
from fastmunit import functional, translate
from fastmunit.config import Config
from fastmunit.systems.munit import MUNIT
from fastmunit.testing import saved_bytes


def competitors():
    return (
        ("eager", plain_step, trainer_of(fused_adam=False)),
        ("ours", our_step, trainer_of()),
    )


def multiply_adds(step, trainer):
    """Return the number of multiply-adds of an iteration, by torch's counter."""
    with FlopCounterMode(display=False) as flops:
        step(trainer, *images())
    return flops.get_total_flops() // 2


@pytest.mark.slow
def bench_step_multiply_adds(count):
    check_losses("float32")
    macs = {name: multiply_adds(step, trainer) for name, step, trainer in competitors()}
    count(Count("multiply-adds of an iteration, default configuration, 256², batch 1", macs["ours"], macs["eager"]))


@pytest.mark.slow
def bench_step_multiply_adds_with_shared_fakes(count):
    plain = multiply_adds(plain_step, trainer_of(fused_adam=False))
    shared = multiply_adds(our_step, trainer_of("float32", "share_fakes=true"))
    count(Count("multiply-adds of an iteration with share_fakes", shared, plain))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def bench_step_census(count, precision):
    ours, plain = (census_of("munit", precision, reference=reference) for reference in (False, True))
    of_ours, of_plain = Totals.of(ours.cpu), Totals.of(plain.cpu)
    name = f"{{}} in an iteration, {precision}"
    counts = [
        Count(name.format("ops dispatched on a CPU, views and allocations left out,"), of_ours.ops, of_plain.ops),
        Count(name.format("kernels on an H100, counted by a rule,"), ours.kernels, plain.kernels),
    ]
    if precision != "float32":
        counts.append(Count(name.format("casts"), of_ours.casts, of_plain.casts))
    count(*counts)


@pytest.mark.slow
def bench_step_saved_bytes(count):
    x_a, x_b = images()
    saved = {}
    for name in ("reference", "auto"):
        trainer = trainer_of()
        parameters = [*trainer.parameters(), x_a, x_b]
        with functional.use_implementation(name):
            saved[name] = saved_bytes(lambda trainer=trainer: trainer.gen_update(x_a, x_b), parameters)
    count(Count("bytes saved for backward in gen_update, float32", saved["auto"], saved["reference"]))


@pytest.mark.slow
def bench_step_time(step_times):
    check_losses("float32")
    check_losses("bfloat16")
    compiled = trainer_of("bfloat16", fused_adam=False)
    compile_as_a_user_would(compiled, dynamic=False)
    check_losses_of(plain_step, compiled, "bfloat16")
    trainers = {
        "reference_step float32": (plain_step, trainer_of("float32", fused_adam=False)),
        "reference_step bfloat16": (plain_step, trainer_of("bfloat16", fused_adam=False)),
        "reference_step bfloat16, torch.compile": (plain_step, compiled),
        "float32": (our_step, trainer_of("float32")),
        "bfloat16": (our_step, trainer_of("bfloat16")),
    }
    x_a, x_b = images()
    calls = {name: lambda step=step, t=t: step(t, x_a, x_b) for name, (step, t) in trainers.items()}
    step_times(StepTimes("iteration, 256², batch 1", calls, baseline="reference_step float32"))


@pytest.mark.slow
def bench_step_limit(step_times):
    """Compare a step with its multiply-adds at the rate of the most frequent convolution."""
    macs = multiply_adds(our_step, trainer_of("bfloat16"))
    x, weight = (torch.randn(shape) for shape in ((2, 256, 66, 66), (256, 256, 3, 3)))
    x, weight = (t.to(DEVICE, torch.bfloat16, memory_format=torch.channels_last) for t in (x, weight))
    macs_of_one = 2 * 256 * 256 * 9 * 64 * 64
    trainer = trainer_of("bfloat16")
    x_a, x_b = images()
    calls = {
        "bfloat16": lambda: our_step(trainer, x_a, x_b),
        f"its {macs / 1e9:.0f} GMAC at the rate of a 3x3 convolution of 256 channels, forward": lambda: [
            torch.nn.functional.conv2d(x, weight) for _ in range(20)
        ],
    }
    share = {list(calls)[1]: macs / macs_of_one / 20}
    step_times(StepTimes("iteration, 256², batch 1", calls, "bfloat16", share))


@pytest.mark.slow
def bench_step_rest(count):
    """Measure the time outside convolutions and matrix products."""
    trainer = trainer_of("bfloat16")
    x_a, x_b = images()
    for _ in range(2):  # the first creates the state of the optimizers, the second frees its temporary memory
        our_step(trainer, x_a, x_b)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        our_step(trainer, x_a, x_b)
    times = {event.key: event.self_cpu_time_total for event in profiled.key_averages()}
    products = sum(t for key, t in times.items() if any(name in key for name in profile_step.PRODUCTS))
    total = sum(times.values())
    count(Count("µs of a bfloat16 step outside convolutions and products, and all", int(total - products), int(total)))


TRAINING = """
import sys
from bench.steps import compile_as_a_user_would, images, our_step, plain_step, trainer_of
precision, form = sys.argv[1:]
trainer = trainer_of(precision, fused_adam=form == "ours")
if form == "compiled":
    compile_as_a_user_would(trainer, dynamic=False)
batch = images()
for _ in range(2):
    our_step(trainer, *batch) if form == "ours" else plain_step(trainer, *batch)
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak.split()[1]) * 1024)
"""
ROOT = Path(__file__).parents[1]
TRAININGS = (
    ("reference_step", "bfloat16", "plain"),
    ("reference_step with torch.compile", "bfloat16", "compiled"),
    ("fastmunit", "float32", "ours"),
    ("fastmunit", "bfloat16", "ours"),
)


def peak_memory(precision, form):
    """Return the peak resident bytes of a process that trains for two iterations, with compilation if it compiles."""
    run = subprocess.run(
        [sys.executable, "-c", TRAINING, precision, form], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return int(run.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from Linux's /proc")
def bench_step_peak_memory(count):
    plain = peak_memory("float32", "plain")
    name = "peak resident bytes of training, {} in {}; eager in float32"
    count(
        *(
            Count(name.format(code, precision), peak_memory(precision, form), plain)
            for code, precision, form in TRAININGS
        )
    )


@pytest.mark.slow
def bench_step_batch(step_times):
    trainer = trainer_of("bfloat16")
    batches = {f"batch {size}": images(size) for size in (1, 2, 4, 8)}
    calls = {name: lambda batch=batch: our_step(trainer, *batch) for name, batch in batches.items()}
    share = {name: 1 / len(x_a) for name, (x_a, _) in batches.items()}
    step_times(StepTimes("iteration in bfloat16, time per image", calls, "batch 1", share))


STYLES = 10


@torch.inference_mode()
def one_by_one(trainer, image, styles):
    """Translate as the public test.py does: encode once, then decode each style."""
    with functional.use_implementation("reference"):
        content, _ = trainer.gen_a.encode(image[None])
        return torch.cat([trainer.gen_b.decode(content, style[None]) for style in styles])


@pytest.mark.slow
def bench_step_translations(step_times):
    torch.manual_seed(0)
    trainer = MUNIT(Config.load("edges2shoes")).to(DEVICE)
    fast = MUNIT(Config.load("edges2shoes", ["precision=bfloat16"])).to(DEVICE)
    fast.load_state_dict(trainer.state_dict())
    image, styles = (t.to(DEVICE) for t in (torch.rand(3, 256, 256) * 2 - 1, torch.randn(STYLES, 8, 1, 1)))
    with without_tf32():
        expected = one_by_one(trainer, image, styles)
        for precision, tolerance in (("float32", 1e-4), ("bfloat16", 0.1)):  # a wrong result is not timed
            found = translate(fast, image, styles, precision=precision).to(DEVICE)
            assert (found - expected).abs().max() <= tolerance
    calls = {
        "one by one, float32": lambda: one_by_one(trainer, image, styles),
        "translate, float32": lambda: translate(trainer, image, styles),
        "translate, bfloat16": lambda: translate(fast, image, styles, precision="bfloat16"),
    }
    step_times(StepTimes(f"1 image in {STYLES} styles, 256²", calls, "one by one, float32"))
