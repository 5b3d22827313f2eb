"""The version: from git tags in checkouts, and without git, without tags and without setuptools-scm."""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

import fastmunit
from fastmunit import info
from tests.packaging.checkout import IGNORED, ROOT

NEEDED = ("pyproject.toml", "setup.py", "README.md", "LICENSE", ".gitattributes", ".git_archival.txt", "tools")


def git(folder: Path, *arguments: str) -> None:
    names = {
        "GIT_AUTHOR_NAME": "a",
        "GIT_COMMITTER_NAME": "a",
        "EMAIL": "a@example.org",
        "GIT_CONFIG_GLOBAL": os.devnull,
    }
    subprocess.run(["git", *arguments], cwd=folder, env={**os.environ, **names}, capture_output=True, check=True)


def version_of(folder: Path, *options: str, **environment: str) -> str:
    """Return the version that setup.py gives the project in `folder`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SETUPTOOLS_SCM")}
    command = [sys.executable, *options, "setup.py", "--version"]
    run = subprocess.run(
        command,
        cwd=folder,
        env={**kept, "FASTMUNIT_BUILD": "0", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with the files that the version is made from, not in a git repository."""
    pytest.importorskip("setuptools", reason="setuptools is not installed")
    folder = tmp_path / "files"
    folder.mkdir()
    for name in NEEDED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=IGNORED)
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture
def checkout(files: Path) -> Path:
    """A git checkout with one commit and no tag."""
    pytest.importorskip("setuptools_scm", reason="setuptools-scm is not installed")
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    git(files, "init", "--quiet")
    git(files, "add", ".")
    git(files, "commit", "--quiet", "--message", "first")
    return files


def test_checkout_with_and_without_tags(checkout: Path) -> None:
    assert re.fullmatch(r"0\.1\.dev1\+g[0-9a-f]+", version_of(checkout))
    git(checkout, "tag", "v0.1.0")
    git(checkout, "tag", "gpu-2026")  # not a version
    assert version_of(checkout) == "0.1.0"
    (checkout / "README.md").write_text("changed")
    git(checkout, "commit", "--quiet", "--all", "--message", "second")
    assert re.fullmatch(r"0\.1\.1\.dev1\+g[0-9a-f]+", version_of(checkout))


def test_shallow_clone_and_archive(checkout: Path, tmp_path: Path) -> None:
    git(checkout, "tag", "v0.1.0")
    git(checkout, "archive", "--prefix=archive/", "--output", str(tmp_path / "archive.zip"), "HEAD")
    shutil.unpack_archive(tmp_path / "archive.zip", tmp_path)
    assert version_of(tmp_path / "archive") == "0.1.0"
    git(checkout, "tag", "--delete", "v0.1.0")
    git(tmp_path, "clone", "--quiet", "--depth", "1", checkout.as_uri(), "shallow")
    assert re.fullmatch(r"0\.1\.dev1\+g[0-9a-f]+", version_of(tmp_path / "shallow"))


def test_copy_without_git(files: Path, tmp_path: Path) -> None:
    if find_spec("setuptools_scm") is None:
        pytest.skip("setuptools-scm is not installed")
    if shutil.which("git") is not None:
        git(tmp_path, "init", "--quiet")  # that of a project which contains a copy of this one
    assert version_of(files) == "0.0"
    assert version_of(files, SETUPTOOLS_SCM_PRETEND_VERSION_FOR_FASTMUNIT="1.2.3") == "1.2.3"


def test_without_setuptools_scm(files: Path, tmp_path: Path) -> None:
    import setuptools

    (tmp_path / "packages").mkdir()
    for name in ("setuptools", "_distutils_hack"):
        (tmp_path / "packages" / name).symlink_to(Path(setuptools.__file__).parents[1] / name)
    alone = {"PYTHONPATH": str(tmp_path / "packages")}  # -S: without site-packages
    assert version_of(files, "-S", **alone) == "0.0"
    (files / "PKG-INFO").write_text("Metadata-Version: 2.4\nName: fastmunit\nVersion: 1.2.3\n\nVersion: not this\n")
    assert version_of(files, "-S", **alone) == "1.2.3"


def test_all_reports_agree_with_the_installed_metadata() -> None:
    try:
        installed = version("fastmunit")
    except ModuleNotFoundError:
        installed = "0+not.installed"
    assert fastmunit.__version__ == installed
    assert info.report().splitlines()[0].split() == ["fastmunit", installed]
