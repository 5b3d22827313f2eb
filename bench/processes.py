"""Compare the training speed of one process with two threads and of two processes with one thread each.

`python -m bench.processes` trains the demo's MUNIT on the same batches of random images in interleaved rounds: in one
process, and in two processes with and without overlapped communication. It needs a machine with two cores and nothing
else running. The results are ratios of the median speeds.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time

import torch

from fastmunit import distributed
from fastmunit.config import Config
from fastmunit.systems import registry

BATCH, WARM_UP, SIZE = 4, 3, 64


def train(iterations: int, overlap: bool) -> float:
    """Return the number of images per domain and second, over all processes."""
    overrides = [f"batch_size={BATCH}", "cuda_graph=false", f"overlap_communication={str(overlap).lower()}"]
    config = Config.load("demo", overrides)
    torch.manual_seed(0)
    trainer = registry.system_of(config)(config)
    generator = torch.Generator().manual_seed(1)
    images = [trainer.share(torch.rand(BATCH, 3, SIZE, SIZE, generator=generator) * 2 - 1) for _ in "ab"]
    for _ in range(WARM_UP):
        trainer.step(*images)
    distributed.barrier()
    began = time.perf_counter()
    for _ in range(iterations):
        trainer.step(*images)
    distributed.barrier()
    return BATCH * iterations / (time.perf_counter() - began)


def run(processes: int, threads: int, overlap: bool, iterations: int) -> float:
    """Train in new processes and return the speed that rank 0 measured."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = []
    for rank in range(processes):
        ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, "-m", "bench.processes", "--train", str(iterations), *["--overlap"] * overlap]
        started.append(
            subprocess.Popen(command, env={**os.environ, **shared, **ranks}, stdout=subprocess.PIPE, text=True)
        )
    written = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise RuntimeError("a process has failed; its error is above")
    return float(written[0])


def main() -> None:
    """Print both speeds and their ratio as JSON, or train as one of the processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--train", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--overlap", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train is not None:
        distributed.setup(device="cpu")
        speed = train(arguments.train, arguments.overlap)
        distributed.shutdown()
        print(speed)
        return
    ways = {
        "1 process, 2 threads": (1, 2, False),
        "2 processes, 1 thread": (2, 1, False),
        "2 processes, 1 thread, overlapped": (2, 1, True),
    }
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name, way in ways.items():
            speeds[name].append(run(*way, arguments.iterations))
            print(f"{name}: {speeds[name][-1]:.2f} images per second", file=sys.stderr)
    one, two, overlapped = (statistics.median(found) for found in speeds.values())
    ratios = {"two_processes_over_one": two / one, "overlapped_over_two": overlapped / two}
    print(json.dumps({"images_per_second": speeds, **ratios}, indent=1))


if __name__ == "__main__":
    main()
