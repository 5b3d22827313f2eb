"""Measurements for a machine with a GPU, in a few minutes: `python -m bench.on_gpu`; see docs/gpu.md."""

import time

STARTED = time.monotonic()
"""When this process began; importing torch from a cold disk is part of a run's minutes."""
