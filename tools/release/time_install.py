"""Time `pip install` of the sdist in dist/ with and without a compiler, and of the wheel, and record the seconds.

Usage: python tools/release/time_install.py

The first installation, of the wheel with all it requires, is into an empty virtual environment; what pip has in its
cache is not downloaded again. The others follow in the same environment, without the requirements.
docs/project/install_times.json gets the result.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from try_wheel import ROOT, Environment, only

RECORD = ROOT / "docs" / "project" / "install_times.json"


def seconds(command: tuple[str | Path, ...], environment: Mapping[str, str]) -> float:
    """Run a command and return how long it took."""
    start = time.monotonic()
    subprocess.run(command, env={**os.environ, **environment}, check=True)
    return round(time.monotonic() - start, 1)


def processor() -> str:
    """Return the model of the processor and the number of cores that this process may use."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    return f"{model}, {len(os.sched_getaffinity(0))} cores"


def main() -> None:
    """Run the program."""
    if sys.argv[1:]:
        raise SystemExit(__doc__)
    sdist, wheel = only("*.tar.gz"), only("*.whl")
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="fastmunit-install-") as temporary:
        environment = Environment(Path(temporary) / "venv")
        empty = Path(temporary) / "bin"
        empty.mkdir()
        times = {"wheel and all requirements": seconds(environment.pip("install", "--quiet", wheel), {})}
        again = environment.pip("install", "--quiet", "--no-deps", "--force-reinstall", "--no-cache-dir")
        no_compiler = {"PATH": str(empty), "CXX": ""}
        for name, file, variables in (
            ("wheel", wheel, {}),
            ("sdist, with a compiler, without CUDA", sdist, {"FASTMUNIT_CUDA": "0"}),
            ("sdist, FASTMUNIT_BUILD=0", sdist, {"FASTMUNIT_BUILD": "0"}),
            ("sdist, no compiler on PATH", sdist, no_compiler),
        ):
            times[name] = seconds((*again, file), variables)
            print(f"{times[name]:7.1f} s  {name}", flush=True)
        listed = subprocess.run(environment.pip("list", "--format=json"), capture_output=True, text=True, check=True)
    versions = {package["name"]: package["version"] for package in json.loads(listed.stdout)}
    record = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "processor": processor(),
        "load average": [round(load, 1), round(os.getloadavg()[0], 1)],
        "python": platform.python_version(),
        "torch": versions["torch"],
        "fastmunit": versions["fastmunit"],
        "seconds": times,
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
