"""Measurements on a GPU within a few minutes: `python -m bench.on_gpu`; see docs/project/gpu.md."""

import time

STARTED = time.monotonic()
"""Start time of this process. Importing torch from a cold disk counts toward the minutes of a run."""
