"""Check what is in an sdist and in the wheels that were built from it.

Usage: python tools/release/contents.py SDIST [WHEEL ...]

An sdist has every file that git tracks, except those about git and the hosting platform. A wheel has every file of
fastmunit/ and kernels/ in the sdist, at most one compiled module, for the Python that its name says, and nothing
else.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from email.parser import HeaderParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOT_IN_SDIST = re.compile(r"\.git.*|\.ci/.*|\.github/.*|\.pre-commit-config\.yaml")
GENERATED = re.compile(r"PKG-INFO|setup\.cfg|fastmunit\.egg-info/.*")
REQUIRED = (
    "fastmunit/py.typed",
    "fastmunit/configs/demo.yaml",
    "fastmunit/data/demo_LICENSE.txt",
    "fastmunit/kernels/__init__.py",
    "fastmunit/models/fruit/DATA_LICENSE.txt",
    "fastmunit/models/fruit/model.safetensors",
)
"""Files that a wheel must have even if an sdist lacks them."""


def differences(found: Iterable[str], expected: Iterable[str]) -> list[str]:
    """Return a line for each name that is only in one of both."""
    found, expected = set(found), set(expected)
    missing = [f"missing: {name}" for name in sorted(expected - found)]
    return missing + [f"unexpected: {name}" for name in sorted(found - expected)]


def names_in_sdist(sdist: Path) -> set[str]:
    """Return the paths of the files in an sdist, relative to its folder."""
    with tarfile.open(sdist) as archive:
        return {name.partition("/")[2] for name in archive.getnames() if not archive.getmember(name).isdir()}


def check_sdist(sdist: Path, tracked: Iterable[str]) -> list[str]:
    """Return what is wrong with an sdist of a checkout in which git tracks the files `tracked`."""
    names = {name for name in names_in_sdist(sdist) if not GENERATED.fullmatch(name)}
    return differences(names, (name for name in tracked if not NOT_IN_SDIST.fullmatch(name)))


def check_wheel(wheel: Path, sdist: Path) -> list[str]:
    """Return what is wrong with a wheel of an sdist."""
    name, version, python, _, platforms = wheel.stem.split("-")
    information = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        names = {entry for entry in archive.namelist() if not entry.endswith("/")}
        metadata = HeaderParser().parsestr(archive.read(f"{information}/METADATA").decode())
    found = [f"missing: {name}" for name in REQUIRED if name not in names]
    if f"{information}/licenses/LICENSE" not in names:
        found.append(f"missing: {information}/licenses/LICENSE")
    if f"fastmunit-{metadata['Version']}.tar.gz" != sdist.name:
        found.append(f"version {metadata['Version']}, but its sdist is {sdist.name}")
    package = {entry for entry in names if not entry.startswith(f"{information}/")}
    modules = {entry for entry in package if re.search(r"\.(so(\..*)?|pyd|dylib|a|o)$", entry)}
    if platforms == "any":
        found += [f"a wheel for any platform has {entry}" for entry in sorted(modules)]
    elif not any(re.fullmatch(rf"fastmunit/_C\.cpython-{python[2:]}-[\w-]+\.so", entry) for entry in modules):
        found.append(f"expected a module fastmunit/_C for {python}, got {sorted(modules)}")
    elif len(modules) > 1:
        found.append(f"expected one compiled module, got {sorted(modules)}")
    sources = {re.sub(r"^kernels/", "fastmunit/kernels/", entry) for entry in names_in_sdist(sdist)}
    return found + differences(package - modules, (entry for entry in sources if entry.startswith("fastmunit/")))


def main() -> None:
    """Run the program."""
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    sdist, *wheels = map(Path, sys.argv[1:])
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = {sdist: check_sdist(sdist, filter(None, listed.split("\0")))}
    found |= {wheel: check_wheel(wheel, sdist) for wheel in wheels}
    lines = [f"{path}: {line}" for path, lines in found.items() for line in lines]
    if lines:
        raise SystemExit("\n".join(lines))
    print("\n".join(f"{path}: contents as expected" for path in found))


if __name__ == "__main__":
    main()
