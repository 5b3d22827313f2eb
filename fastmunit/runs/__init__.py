"""Training runs: the loop, checkpoints with exact resume, logs, sample grids and the HTML report."""

from fastmunit.runs.callbacks import Callback, Status
from fastmunit.runs.checkpoints.run_folder import RunFolder
from fastmunit.runs.device import describe_device, resolve_device
from fastmunit.runs.progress_bar import ProgressBar
from fastmunit.runs.reports.evaluation_log import EvaluationRecord
from fastmunit.runs.reports.wandb import WandbLogger
from fastmunit.runs.result import TrainingResult
from fastmunit.runs.start import train

__all__ = [
    "Callback",
    "EvaluationRecord",
    "ProgressBar",
    "RunFolder",
    "Status",
    "TrainingResult",
    "WandbLogger",
    "describe_device",
    "resolve_device",
    "train",
]
