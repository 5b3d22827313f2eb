"""Starting the processes of a training as torchrun does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(
    world: int, arguments: Sequence[str], changes: Mapping[str, str] | None = None
) -> list[subprocess.Popen[str]]:
    """Start `python ARGUMENTS` once per rank."""
    port = free_port()
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared.update(changes or {})
    shared["WORLD_SIZE"] = str(world)
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]


def outputs(processes: Sequence[subprocess.Popen[str]], timeout: float = 240) -> list[str]:
    """Wait for all processes and return their outputs. Kill those that do not end in time, and raise."""
    try:
        return [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()


def run(world: int, *arguments: str) -> list[str]:
    """Start all ranks, require that all end without an error, and return their outputs."""
    processes = start(world, arguments)
    written = outputs(processes)
    codes = [process.returncode for process in processes]
    assert codes == [0] * world, "\n".join(written)
    return written
