"""The tools of a release: contents of sdists and wheels, and the commands of docs/project/releasing.md."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from tools.release.contents import REQUIRED, check_sdist, check_wheel

ROOT = Path(__file__).parents[2]
SOURCES = {*REQUIRED, "fastmunit/__init__.py"} - {"fastmunit/kernels/__init__.py"} | {"kernels/__init__.py"}
TRACKED = {*SOURCES, "tests/test_one.py", ".gitignore", ".ci/run"}
MODULE = "fastmunit/_C.cpython-311-x86_64-linux-gnu.so"
NATIVE = "fastmunit-1.0-cp311-cp311-linux_x86_64.whl"


def make_sdist(folder: Path, names: set[str]) -> Path:
    path = folder / "fastmunit-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in names | {"PKG-INFO", "setup.cfg", "fastmunit.egg-info/PKG-INFO"}:
            archive.addfile(tarfile.TarInfo(f"fastmunit-1.0/{name}"), io.BytesIO())
    return path


def make_wheel(
    folder: Path, name: str, added: set[str], left_out: set[str] = frozenset(), version: str = "1.0"
) -> Path:
    information = "fastmunit-1.0.dist-info"
    package = {
        entry.replace("kernels/", "fastmunit/kernels/") if entry.startswith("kernels") else entry for entry in SOURCES
    }
    with zipfile.ZipFile(folder / name, "w") as archive:
        archive.writestr(f"{information}/METADATA", f"Name: fastmunit\nVersion: {version}\n")
        for entry in (package | {f"{information}/licenses/LICENSE"} | added) - left_out:
            archive.writestr(entry, "")
    return folder / name


def test_complete_archives_pass(tmp_path: Path) -> None:
    sdist = make_sdist(tmp_path, TRACKED - {".gitignore", ".ci/run"})
    assert check_sdist(sdist, TRACKED) == []
    assert check_wheel(make_wheel(tmp_path, NATIVE, {MODULE}), sdist) == []
    assert check_wheel(make_wheel(tmp_path, "fastmunit-1.0-py3-none-any.whl", set()), sdist) == []


def test_faults_of_an_sdist_are_named(tmp_path: Path) -> None:
    sdist = make_sdist(tmp_path, SOURCES | {".ci/run", "runs/demo/report.html"})
    found = check_sdist(sdist, TRACKED)
    assert found == ["missing: tests/test_one.py", "unexpected: .ci/run", "unexpected: runs/demo/report.html"]


@pytest.mark.parametrize(
    ("name", "added", "left_out", "version", "message"),
    [
        (NATIVE, set(), set(), "1.0", "expected a module fastmunit/_C for cp311, got []"),
        (NATIVE, {MODULE.replace("311", "312")}, set(), "1.0", "expected a module fastmunit/_C for cp311"),
        (NATIVE, {MODULE, "fastmunit.libs/libtorch.so.2"}, set(), "1.0", "expected one compiled module"),
        ("fastmunit-1.0-py3-none-any.whl", {MODULE}, set(), "1.0", f"a wheel for any platform has {MODULE}"),
        (NATIVE, {MODULE}, {"fastmunit/py.typed"}, "1.0", "missing: fastmunit/py.typed"),
        (NATIVE, {MODULE}, {"fastmunit-1.0.dist-info/licenses/LICENSE"}, "1.0", "missing: fastmunit-1.0.dist-info/lic"),
        (NATIVE, {MODULE}, {"fastmunit/__init__.py"}, "1.0", "missing: fastmunit/__init__.py"),
        (NATIVE, {MODULE, "tests/test_one.py"}, set(), "1.0", "unexpected: tests/test_one.py"),
        (NATIVE, {MODULE}, set(), "1.1", "version 1.1, but its sdist is fastmunit-1.0.tar.gz"),
    ],
)
def test_faults_of_a_wheel_are_named(
    tmp_path: Path, name: str, added: set[str], left_out: set[str], version: str, message: str
) -> None:
    found = check_wheel(make_wheel(tmp_path, name, added, left_out, version), make_sdist(tmp_path, SOURCES))
    assert any(line.startswith(message) for line in found), found
