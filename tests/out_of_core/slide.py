"""Translates a large synthetic slide with a packaged model in a process whose memory and disk space are watched.

python -m tests.out_of_core.slide --side 3000 prints its figures as one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from fastmunit.data.demo import unpack_demo
from fastmunit.data.images import read_image

MODEL = "fruit"
TILE = 256
_SECONDS = 0.02
"""Time between two looks at the process."""


def write_slide(path: Path, side: int, seed: int = 0) -> None:
    """Write a tiled BigTIFF (side, side, 3) of uint8, a mosaic of the drawings of the demo data."""
    with tempfile.TemporaryDirectory() as folder:
        files = sorted((unpack_demo(folder) / "trainA").iterdir())
        drawings = [((read_image(file, 3) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy() for file in files]
    height, width, _ = drawings[0].shape
    random = np.random.default_rng(seed)

    def tiles() -> Iterator[np.ndarray]:
        for _ in range((-(-side // TILE)) ** 2):
            chosen = random.integers(len(drawings), size=(TILE // height, TILE // width))
            yield np.concatenate([np.concatenate([drawings[k] for k in row], axis=1) for row in chosen], axis=0)

    tifffile.imwrite(
        path,
        tiles(),
        shape=(side, side, 3),
        dtype=np.uint8,
        tile=(TILE, TILE),
        photometric="rgb",
        bigtiff=True,
        compression="zlib",
    )


def translated(slide: Path, output: Path, memory: str) -> dict[str, Any]:
    """Translate a slide into one style with the command, and save its statistics.

    Returns:
        The peak of its resident memory, its resident memory when the translation began, and the peak of its files in
        the scratch folder, in bytes; its time in seconds; and the line in which it says its plan.
    """
    command = [
        sys.executable, "-m", "fastmunit", "translate", "--checkpoint", MODEL, "--input", slide, "--output", output,
        "--styles", "1", "--like-input", "--memory", memory, "--save-statistics", output / "statistics.safetensors",
    ]  # fmt: skip
    output.mkdir()
    figures: dict[str, Any] = {"memory": memory, "plan": "", "base_bytes": 0, "peak_bytes": 0, "disk_bytes": 0}
    log, begin = output / "log.txt", time.monotonic()
    with log.open("w") as file:
        process = subprocess.Popen(list(map(str, command)), stdout=file, stderr=subprocess.STDOUT)
    while process.poll() is None:
        figures["peak_bytes"] = max(figures["peak_bytes"], resident(process.pid))
        figures["disk_bytes"] = max(figures["disk_bytes"], disk_used(output / ".scratch"))
        if not figures["plan"]:
            plans = [line for line in log.read_text().splitlines() if "out of core" in line]
            if plans:
                figures["plan"], figures["base_bytes"] = plans[0], resident(process.pid)
        time.sleep(_SECONDS)
    figures["seconds"] = round(time.monotonic() - begin, 1)
    assert process.returncode == 0, log.read_text()
    return figures


def resident(process: int) -> int:
    """Return the bytes of memory that a process has now, with its libraries; 0 if it has ended."""
    with suppress(OSError, IndexError):
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * 4096
    return 0


def disk_used(folder: Path) -> int:
    """Return the bytes that the files in a folder take."""
    used = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # it has been removed meanwhile
            used += path.stat().st_blocks * 512
    return used


def main() -> None:
    """Run once and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=10_000, help="height and width in pixels")
    parser.add_argument("--memory", default="1.2GB", help="--memory of the command")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        slide, output = Path(folder, "slide.tif"), Path(folder, "out")
        write_slide(slide, arguments.side)
        print(json.dumps({"side": arguments.side, **translated(slide, output, arguments.memory)}))


if __name__ == "__main__":
    main()
