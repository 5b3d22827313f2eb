"""Ask a machine with a GPU all that matters, within minutes: `python -m bench.on_gpu --out FOLDER`.

Runs the stages of bench/on_gpu/stages.py in order of value and writes FOLDER/on_gpu.json after each one.
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
    """Run the stages. Returns 0 if each one is done, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for on_gpu.json")
    parser.add_argument("--minutes", type=minutes, default=7.0, help="the run ends by itself within them")
    parser.add_argument("--stages", nargs="*", choices=[s.name for s in STAGES], help="only these")
    parser.add_argument(
        "--dry-run", action="store_true", help="on the CPU, tiny, with made-up times: a check of itself"
    )
    arguments = parser.parse_args()
    clock: Clock = WallClock()
    if arguments.dry_run:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        clock = FakeClock(FORKING)
    else:
        # Without it a look for a GPU initialises CUDA, which no process that is forked afterwards can use.
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
        os._exit(status)  # an ordinary end would wait for that process
    return status


def minutes(text: str) -> float:
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
