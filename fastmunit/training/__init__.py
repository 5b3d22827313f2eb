"""Training: the loop, snapshots with exact resume, logs, sample grids and the HTML report."""

from fastmunit.training.device import describe_device, resolve_device
from fastmunit.training.loop import TrainingResult
from fastmunit.training.progress import Callback, Status
from fastmunit.training.run_folder import RunFolder
from fastmunit.training.start import train

__all__ = ["Callback", "RunFolder", "Status", "TrainingResult", "describe_device", "resolve_device", "train"]
