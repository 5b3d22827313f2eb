"""Run all measurements on a machine with a GPU within minutes: `python -m bench.on_gpu --out FOLDER`.

It runs the stages of bench/on_gpu/stages.py in order of importance and writes FOLDER/on_gpu.json after each one.
"""

import argparse
import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

from bench.on_gpu import STARTED
from bench.on_gpu.clock import Clock, FakeClock, WallClock
from bench.on_gpu.report import Report, line_of
from bench.on_gpu.runner import FORKING, Runner
from bench.on_gpu.stage import Row
from bench.on_gpu.stages import STAGES
from fastmunit.errors import FastmunitError


def main() -> int:
    """Run the stages. Return 0 if all are done, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for on_gpu.json")
    parser.add_argument("--minutes", type=minutes, default=7.0, help="time limit of the run")
    parser.add_argument("--stages", nargs="*", choices=[s.name for s in STAGES], help="run only these stages")
    parser.add_argument(
        "--dry-run", action="store_true", help="check the program: tiny inputs on the CPU, made-up times"
    )
    arguments = parser.parse_args()
    clock: Clock = WallClock()
    if arguments.dry_run:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        clock = FakeClock(FORKING)
    else:
        # Without it, looking for a GPU initializes CUDA, and processes that are forked afterwards cannot use it.
        os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
        import torch

        if not torch.cuda.is_available():
            parser.error("there is no CUDA device; --dry-run needs none")
    signal.signal(signal.SIGTERM, _interrupt)
    report = Report(arguments.out, dry_run=arguments.dry_run, minutes=arguments.minutes)
    runner = Runner(report, clock, dry_run=arguments.dry_run, tell=_tell)
    chosen = [stage for stage in STAGES if arguments.stages is None or stage.name in arguments.stages]
    try:
        report.write()
        runner.run(chosen, 60 * arguments.minutes - (0 if arguments.dry_run else time.monotonic() - STARTED))
    except FastmunitError as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(["", str(report.path), *report.summary()]), flush=True)
    status = int(any(stage.status != "done" for stage in report.stages))
    if runner.immortal:
        os._exit(status)  # a normal exit would wait for that process
    return status


def minutes(text: str) -> float:
    """Parse a positive, finite number of minutes."""
    value = float(text)
    if not 0 < value < math.inf:
        raise ValueError(text)
    return value


def _tell(stage: str, row: Row) -> None:
    print(f"{stage}: {line_of(row)}", flush=True)


def _interrupt(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
