"""Install a wheel from dist/ into a new virtual environment outside of the checkout, and run the tests against it.

Usage: python tools/release/try_wheel.py [--wheel FILE] [--folder FOLDER] [TEST ...]

The tests are those of the sdist, next to neither fastmunit/ nor kernels/, so they can only import the installed
package. What the environment contains is written to dist/: the packages that the wheel requires as a CycloneDX bill
of materials, and, after the tests have passed, the versions of these and of the tests' requirements as constraints
for pip.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DIST = ROOT / "dist"
QUICK = (
    "tests/test_info.py",
    "tests/test_functional.py",
    "tests/ops",
    "tests/nn",
    "tests/systems/test_munit.py",
    "tests/systems/test_golden.py",
    "tests/model_folder",
    "tests/translation",
    "tests/cli/test_app.py",
)
"""Tests of what depends on packaging: the compiled ops, files that come with the package, commands, and one system."""

OF_THE_CHECKOUT = ("tests/packaging", "tests/test_imports.py", "tests/test_prose.py")
"""Tests that read the sources of the package or git."""

HEAD = """\
# Versions with which an installed wheel of fastmunit {version} passed tests: Python {python}, {system}, {date},
# {tests}.
# `make test` does not use them, because it tests the newest releases, and because other versions of Python need other
# ones. To get exactly these:
#     PIP_CONSTRAINT=tests/constraints.txt make test
# `make constraints` writes this file.
"""


class Environment:
    """A virtual environment that has no pip of its own, so it contains what was asked for and nothing else."""

    def __init__(self, folder: Path) -> None:
        self.python = folder / "bin" / "python"
        self.kept = self.python.exists()
        if not self.kept:
            run(sys.executable, "-m", "venv", "--without-pip", folder)

    def pip(self, *arguments: str | Path) -> tuple[str | Path, ...]:
        """Return a pip command for this environment."""
        return (sys.executable, "-m", "pip", "--python", self.python, *arguments)


def run(*command: str | Path, folder: Path = ROOT) -> None:
    """Run a command without this checkout on Python's path, print its time, and end this program if it fails."""
    print("+", *command, flush=True)
    start = time.monotonic()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    status = subprocess.run(command, cwd=folder, env={**environment, "OMP_NUM_THREADS": "1"}, check=False).returncode
    print(f"  status {status} after {time.monotonic() - start:.0f} s", flush=True)
    if status:
        raise SystemExit(1)


def unpack_tests(sdist: Path, folder: Path) -> Path:
    """Unpack the sdist without the package, and return its folder."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.unpack_archive(sdist, folder)
    (tests,) = folder.iterdir()
    for name in ("fastmunit", "fastmunit.egg-info", "kernels"):
        shutil.rmtree(tests / name)
    return tests


def only(*patterns: str) -> Path:
    """Return the one file in dist/ that matches one of the patterns."""
    found = [path for pattern in patterns for path in DIST.glob(pattern)]
    if len(found) != 1:
        raise SystemExit(f"expected one file in {DIST} like {' or '.join(patterns)}, got {len(found)}; run make wheel")
    return found[0]


def built_wheel() -> Path:
    """Return the wheel in dist/ for this Python."""
    return only(f"*-cp{sys.version_info.major}{sys.version_info.minor}-*.whl", "*-py3-none-any.whl")


def write_constraints(environment: Environment, version: str, tests: Sequence[str]) -> None:
    """Write the versions of all packages of the environment to dist/constraints.txt."""
    frozen = environment.pip("freeze", "--exclude", "fastmunit")
    pins = subprocess.run(frozen, capture_output=True, text=True, check=True).stdout
    head = HEAD.format(
        version=version,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        date=time.strftime("%Y-%m-%d", time.gmtime()),
        tests=" ".join(tests),
    )
    (DIST / "constraints.txt").write_text(head + pins, encoding="utf-8")


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tests", nargs="*", help="arguments of pytest; `tests` runs all (default: a quick part)")
    parser.add_argument("--wheel", type=Path, help="default: the one in dist/ for this Python")
    parser.add_argument("--folder", type=Path, help="keep the environment here, or use one that was kept")
    arguments = parser.parse_args()
    chosen = arguments.tests or QUICK
    sdist = only("*.tar.gz")
    wheel = (arguments.wheel or built_wheel()).resolve()
    version = wheel.name.split("-")[1]
    with contextlib.ExitStack() as stack:
        folder = arguments.folder or stack.enter_context(tempfile.TemporaryDirectory(prefix="fastmunit-wheel-"))
        folder = Path(folder).resolve()
        environment = Environment(folder / "venv")
        # By name, since pip records the path of a file, and the bill of materials would contain it.
        install = environment.pip("install", "--quiet", "--find-links", wheel.parent)
        run(*install, "--no-index", "--no-deps", "--force-reinstall", f"fastmunit=={version}")
        run(*install, f"fastmunit=={version}")
        if not environment.kept:
            materials = DIST / f"{wheel.stem}.cdx.json"
            run(sys.executable, "-m", "cyclonedx_py", "environment", "--output-file", materials, environment.python)
        run(*install, f"fastmunit[test]=={version}")
        tests = unpack_tests(sdist, folder / "tests")
        run(folder / "venv/bin/fastmunit", "info", folder=tests)
        plugin = ("-p", "tools.release.installed_only", "-p", "no:cacheprovider")
        ignored = [f"--ignore={name}" for name in OF_THE_CHECKOUT]
        pytest = (environment.python, "-m", "pytest", *plugin, *ignored, "-m", "not slow and not browser")
        run(*pytest, "-n", "2", "--dist", "worksteal", *chosen, folder=tests)
        write_constraints(environment, version, chosen)


if __name__ == "__main__":
    main()
