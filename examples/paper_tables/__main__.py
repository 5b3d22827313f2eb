"""Reproduce tables 1 and 2 of the MUNIT paper in miniature: real fruit photos at 64x64, minutes per model, not weeks.

    python -m examples.paper_tables --data FRUITS_360/train --output runs/tables --minutes 10 --weights WEIGHTS

Run it in the root folder of the repository. FRUITS_360/train holds apple, tomato and cherry, with files named
VARIETY__ROTATION_FRAME_100.jpg. Table 1 translates edges to fruit photos: quality (KID to held-out photos, instead of
the paper's human judges) and LPIPS diversity. Table 2 has the six directions between the three families: CIS and IS by
a classifier of varieties. `fastmunit.runs.train` trains every system with the configuration shipped for it.

The program can be stopped and run again: it skips finished work and resumes interrupted trainings. It refuses models
that were trained with other settings; results that were only measured with other settings are measured again.

Writes tables.md, tables.html and tables.json, with the spread over seeds and the figures of the paper.

Several processes that write to one --output, or several machines, can share the work:

    python -m examples.paper_tables --data FRUITS_360/train --output runs/tables --prepare
    python -m examples.paper_tables --output runs/tables --minutes 10 --train-only --tables 1 --systems MUNIT &
    python -m examples.paper_tables --output runs/tables --minutes 10 --train-only --tables 2 --pairs apple_tomato &
    python -m examples.paper_tables --output runs/tables --minutes 10 --measure-only --weights WEIGHTS

Prepared data need no --data; training needs neither weights nor the packages of metrics. To measure on another machine,
copy data/ and, of every model, training.json, config.yaml and checkpoints/gen_*.pt.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from examples.paper_tables.program import PAIRS, TABLE_1, Program
from fastmunit.errors import FastmunitError


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.paper_tables",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--data",
        type=Path,
        help="read Fruits-360 photos from apple, tomato and cherry in this folder; not needed once data are prepared",
    )
    parser.add_argument("--output", type=Path, required=True, help="write data, models and tables into this folder")
    parser.add_argument("--minutes", type=_positive, default=10.0, help="train each model for this time")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="train one model per seed")
    parser.add_argument("--tables", type=int, nargs="+", choices=(1, 2), default=[1, 2], help="make these tables")
    parser.add_argument("--systems", nargs="+", choices=TABLE_1, help="make these rows (all by default)")
    parser.add_argument("--pairs", nargs="+", choices=tuple(PAIRS), default=list(PAIRS), help="pairs of table 2 (all)")
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--prepare", action="store_true", help="prepare the data and stop")
    part.add_argument("--train-only", action="store_true", help="train models and measure nothing")
    part.add_argument("--measure-only", action="store_true", help="leave out models that are not trained")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="change keys of every configuration")
    parser.add_argument("--weights", type=Path, help="folder with alexnet_features.pth and vgg16_features.pth")
    parser.add_argument("--inputs", type=int, default=100, help="measure this many test images")
    parser.add_argument("--samples", type=int, default=38, help="measure this many outputs per image")
    parser.add_argument("--train-per-variety", type=int, default=25, help="photos per variety and domain in table 1")
    parser.add_argument("--test-pairs", type=int, default=200, help="held-out pairs in table 1")
    parser.add_argument("--classifier-epochs", type=int, default=12, help="train the classifiers for this many epochs")
    parser.add_argument("--device", default="auto", help="compute on this device: auto, cpu, cuda, …")
    return parser.parse_args(given)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


if __name__ == "__main__":
    try:
        Program(arguments()).run()
    except FastmunitError as error:
        raise SystemExit(f"error: {error}") from error
