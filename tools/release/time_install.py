"""Time `pip install` of the sdist in dist/ with and without a compiler, and of the wheel, and record the seconds.

Usage: python tools/release/time_install.py [--folder FOLDER]

The first installation, of the wheel with all it requires, is into an empty virtual environment. The others follow in
it, without the requirements. An environment that was kept in FOLDER has them already. pip's cache is not used.
docs/project/install_times.json and releasing.md get the result.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import re
import resource
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from try_wheel import ROOT, Environment, built_wheel, only

RECORD = ROOT / "docs" / "project" / "install_times.json"
PAGE = ROOT / "docs" / "project" / "releasing.md"


def seconds(command: tuple[str | Path, ...], environment: Mapping[str, str]) -> tuple[float, float]:
    """Run a command and return how long it took, and how much time of processors it used: others hardly change that."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, env={**os.environ, **environment}, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return round(time.monotonic() - start, 1), round(used, 1)


def processor() -> str:
    """Return the model of the processor and the number of cores that this process may use."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    return f"{model}, {len(os.sched_getaffinity(0))} cores"


def section(record: Mapping[str, Any]) -> str:
    """Return the part of docs/project/releasing.md about a record."""
    low, high = record["load average"]
    lines = [
        f"Measured on {record['date']} ({record['processor']}, Python {record['python']}, pip {record['pip']},",
        f"torch {record['torch']}), without pip's cache. The load average was {low} to {high}: the more other programs",
        "run, the more the time of the clock exceeds that of an idle machine. The time of processors changes little.",
        "Unless a row says otherwise, torch and the other requirements were installed before.",
        "",
        "| installed | seconds | seconds of processors |",
        "|---|---|---|",
    ]
    for name, took in record["installations"].items():
        lines.append(f"| {name} | {took['seconds']:.0f} | {took['processor seconds']:.0f} |")
    return "\n".join(["", *lines, "", ""])


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="keep the environment here, or use one that was kept")
    given = parser.parse_args().folder
    sdist, wheel = only("*.tar.gz"), built_wheel()
    loads, times = [os.getloadavg()[0]], {}
    with contextlib.ExitStack() as stack:
        folder = Path(given or stack.enter_context(tempfile.TemporaryDirectory(prefix="fastmunit-install-"))).resolve()
        environment = Environment(folder / "venv")
        empty = folder / "bin"
        empty.mkdir(exist_ok=True)
        new = environment.pip("install", "--quiet", "--no-cache-dir")
        again = (*new, "--no-deps", "--force-reinstall")
        for name, command, variables in (
            *([] if environment.kept else [("wheel and all that it requires", (*new, wheel), {})]),
            ("wheel", (*again, wheel), {}),
            ("sdist, `FASTMUNIT_BUILD=0`", (*again, sdist), {"FASTMUNIT_BUILD": "0"}),
            ("sdist, no compiler on PATH", (*again, sdist), {"PATH": str(empty), "CXX": ""}),
            ("sdist, compiled without CUDA", (*again, sdist), {"FASTMUNIT_CUDA": "0"}),
        ):
            wall, used = seconds(command, variables)
            times[name] = {"seconds": wall, "processor seconds": used}
            loads.append(os.getloadavg()[0])
            print(f"{wall:7.1f} s, {used:7.1f} s of processors: {name}", flush=True)
        listed = subprocess.run(environment.pip("list", "--format=json"), capture_output=True, text=True, check=True)
    versions = {package["name"]: package["version"] for package in json.loads(listed.stdout)}
    record = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "processor": processor(),
        "load average": [round(min(loads), 1), round(max(loads), 1)],
        "python": platform.python_version(),
        "pip": importlib.metadata.version("pip"),
        "torch": versions["torch"],
        "fastmunit": versions["fastmunit"],
        "installations": times,
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    pattern = re.compile(r"(?<=^<!-- times -->\n).*(?=^<!-- end of times -->$)", re.DOTALL | re.MULTILINE)
    PAGE.write_text(pattern.sub(lambda _: section(record), PAGE.read_text("utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
