"""The stages of a run, in order of value. To add one, add a line: its name, its seconds, its tasks."""

from functools import partial

from bench.on_gpu import floor, kernel_profile, ops, step
from bench.on_gpu.stage import Stage

STAGES = (
    Stage("floor", 20, floor.tasks),
    Stage("native kernels", 45, partial(ops.tasks, implementations=["native"]), task_seconds=15),
    Stage("triton kernels", 60, partial(ops.tasks, implementations=["triton"]), task_seconds=25),
    Stage("compiled and copy", 95, partial(ops.tasks, implementations=["native", "triton"], with_compiled=True)),
    Stage("step", 75, step.tasks),
    Stage("profile", 25, kernel_profile.tasks),
    Stage("compiled step", 90, step.compiled_tasks, task_seconds=300),
)
