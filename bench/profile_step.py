"""Profile a MUNIT step: python bench/profile_step.py [--size 256] [--batch 1] [--precision bfloat16].

For the reference path and for "auto", it prints the time of one iteration (dis_update and gen_update) after a warm-up,
and its split into convolutions, matrix products and other ops, with the slowest of these by name.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch.profiler import ProfilerActivity, profile

from fastmunit import functional
from fastmunit.config import Config
from fastmunit.systems.munit import MUNIT

_CONVOLUTIONS = ("convolution", "mkldnn_convolution", "thnn_conv", "slow_conv", "cudnn_conv")
_PRODUCTS = ("addmm", "aten::mm", "linear", "bmm")
PRODUCTS = (*_CONVOLUTIONS, *_PRODUCTS)
"""Substrings of the names of convolutions and matrix products."""


def main() -> None:
    """Profile both paths."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="image height and width in pixels")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--config", default="edges2shoes", help="name or file of a configuration")
    parser.add_argument("--rows", type=int, default=8, help="number of other ops to list")
    arguments = parser.parse_args()
    config = Config.load(arguments.config, [f"precision={arguments.precision}"])
    for implementation in ("reference", "auto"):
        with functional.use_implementation(implementation):
            _report(implementation, config, arguments.batch, arguments.size, arguments.rows)


def _report(implementation: str, config: Config, batch: int, size: int, rows: int) -> None:
    torch.manual_seed(0)
    trainer = MUNIT(config)
    x_a, x_b = (torch.rand(batch, 3, size, size) * 2 - 1 for _ in range(2))

    def iterate() -> float:
        start = time.perf_counter()
        trainer.dis_update(x_a, x_b)
        trainer.gen_update(x_a, x_b)
        return time.perf_counter() - start

    iterate()
    seconds = min(iterate() for _ in range(2))
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        iterate()
    times = {event.key: event.self_cpu_time_total / 1e6 for event in profiled.key_averages()}
    total = sum(times.values())
    convolutions = sum(t for key, t in times.items() if any(name in key for name in _CONVOLUTIONS))
    products = sum(t for key, t in times.items() if any(name in key for name in _PRODUCTS))
    rest = {key: t for key, t in times.items() if not any(name in key for name in PRODUCTS)}
    print(f"{implementation}: {seconds:.2f} s per iteration (minimum of 2), {total:.2f} s under the profiler")
    for name, t in (("convolutions", convolutions), ("matrix products", products), ("the rest", sum(rest.values()))):
        print(f"  {name:<42} {t:8.3f} s {t / total:6.1%}")
    for key, t in sorted(rest.items(), key=lambda item: -item[1])[:rows]:
        print(f"    {key:<40} {t:8.3f} s {t / total:6.1%}")


if __name__ == "__main__":
    main()
