"""The tools of a release: contents of sdists and wheels, and the commands of docs/project/releasing.md."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.packaging.checkout import ROOT, copy_of_checkout
from tools.release.contents import REQUIRED, check_sdist, check_wheel

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


def commands_of(document: str) -> list[str]:
    blocks = re.findall(r"^ *```bash\n(.*?)^ *```$", document, re.DOTALL | re.MULTILINE)
    return [line.strip() for block in blocks for line in block.splitlines()]


@pytest.mark.slow
def test_commands_of_the_checklist(tmp_path: Path) -> None:
    """Run the commands of docs/project/releasing.md in a copy; make runs dry, and nothing is published or installed."""
    pytest.importorskip("setuptools_scm", reason="setuptools-scm is not installed")
    pytest.importorskip("build", reason="build is not installed")
    for program in ("git", "make"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    checkout = copy_of_checkout(tmp_path)
    commands = commands_of((checkout / "docs/project/releasing.md").read_text("utf-8"))
    author = {
        "GIT_AUTHOR_NAME": "a",
        "GIT_COMMITTER_NAME": "a",
        "EMAIL": "a@example.org",
        "GIT_CONFIG_GLOBAL": os.devnull,
    }
    environment = {
        **os.environ,
        **author,
        "PAGER": "cat",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }

    def run(command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", command], cwd=checkout, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    run("git init --quiet --initial-branch main && git add . && git commit --quiet --message first")
    run(f"git init --quiet --bare {tmp_path / 'public'} && git remote add origin {tmp_path / 'public'}")
    assert run(commands[0]) == ""
    for command in commands[1:]:
        command = command.replace("X.Y.Z", "9.0.0")
        if command.startswith("make "):
            run(command.replace("make ", "make --dry-run "))
            if command == "make constraints":
                (checkout / "tests/constraints.txt").write_text("written by it\n")
        elif command.startswith(("git ", "python tools/release/")):
            run(command)
            if command.startswith("git tag "):
                run("FASTMUNIT_BUILD=0 python -m build --no-isolation --outdir dist .")
                run("python tools/release/contents.py dist/*.tar.gz dist/*.whl")
                assert sorted(path.name for path in (checkout / "dist").iterdir()) == [
                    "fastmunit-9.0.0-py3-none-any.whl",
                    "fastmunit-9.0.0.tar.gz",
                ]
        else:  # these need the package index
            assert re.match(r"python -m (twine upload dist/|venv /tmp/)|/tmp/released/bin/", command), command
    pushed = subprocess.run(
        ["git", "tag"], cwd=tmp_path / "public", env=environment, capture_output=True, text=True, check=True
    )
    assert pushed.stdout == "v9.0.0\n"


def test_install_times_of_the_page_are_those_of_the_record() -> None:
    record = json.loads((ROOT / "docs/project/install_times.json").read_text("utf-8"))
    code = "import json, sys, time_install; print(time_install.section(json.load(sys.stdin)))"
    tools = {**os.environ, "PYTHONPATH": str(ROOT / "tools/release")}
    run = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(record), env=tools, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() in (ROOT / "docs/project/releasing.md").read_text("utf-8")
