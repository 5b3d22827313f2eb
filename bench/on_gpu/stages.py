"""The stages of a run, in order of importance. To add a stage, add a line with its name, seconds and tasks."""

from functools import partial

from bench.on_gpu import batch, candidates, floor, kernel_profile, ops, step
from bench.on_gpu.stage import Stage

STAGES = (
    Stage("floor", 20, floor.tasks),
    Stage("native kernels", 40, partial(ops.tasks, implementations=["native"]), task_seconds=15),
    Stage("triton kernels", 50, partial(ops.tasks, implementations=["triton"]), task_seconds=25),
    Stage("compiled and copy", 85, partial(ops.tasks, implementations=["native", "triton"], with_compiled=True)),
    Stage("candidates", 60, candidates.tasks, task_seconds=120),
    Stage("step", 65, step.tasks),
    Stage("profile", 20, kernel_profile.tasks),
    Stage("compiled step", 70, step.compiled_tasks, task_seconds=300),
    Stage("batch", 2, batch.tasks, task_seconds=60),  # in what is left; `--stages batch` gives it the whole time
)
