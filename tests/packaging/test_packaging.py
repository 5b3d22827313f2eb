"""Packaging: the package list of pyproject.toml, wheels, and builds without a compiler or CUDA."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.packaging.checkout import ROOT, copy_of_checkout

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")  # a dependency of pytest


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_all_packages_are_listed(project):
    found = {"fastmunit.kernels"}
    for path in (ROOT / "fastmunit").rglob("*.py"):
        found.add(".".join(path.parent.relative_to(ROOT).parts))
    found |= {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "fastmunit").rglob("*.yaml")}
    assert set(project["tool"]["setuptools"]["packages"]) == found


def test_kernels_are_importable_from_this_installation():
    from importlib.util import find_spec

    spec = find_spec("fastmunit.kernels")
    if spec is None:
        pytest.skip("fastmunit is not installed")
    installed = Path(spec.origin)
    for path in (ROOT / "kernels").glob("*.py"):
        assert (installed.parent / path.name).read_bytes() == path.read_bytes()


@pytest.fixture(scope="module")
def build_backend():
    for module in ("setuptools", "pybind11"):
        pytest.importorskip(module, reason=f"{module} is not installed")
    if shutil.which("cmake") is None or shutil.which("ninja") is None:
        pytest.skip("cmake or ninja is not installed")


def build_wheel(checkout, target, **environment):
    run = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", target, checkout],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return run, sorted(Path(target).glob("*.whl"))


def names_in(wheel):
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.mark.slow
@pytest.mark.usefixtures("build_backend")
def test_wheel_without_native_code(tmp_path):
    checkout = copy_of_checkout(tmp_path)
    run, wheels = build_wheel(checkout, tmp_path / "wheels", FASTMUNIT_BUILD="0")
    assert run.returncode == 0, run.stderr
    (wheel,) = wheels
    assert wheel.name.endswith("-py3-none-any.whl")
    names = names_in(wheel)
    for path in (checkout / "fastmunit").rglob("*"):
        if path.suffix in (
            ".py",
            ".yaml",
            ".zip",
            ".typed",
            ".j2",
            ".css",
            ".js",
            ".json",
            ".safetensors",
            ".md",
            ".txt",
        ):
            assert str(path.relative_to(checkout)) in names
    for path in (checkout / "kernels").glob("*.py"):
        assert f"fastmunit/kernels/{path.name}" in names
    assert {name.split("/")[0] for name in names} == {"fastmunit", wheel.name.split("-py3")[0] + ".dist-info"}

    installed = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(installed)
    code = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder)]  # of this environment
import fastmunit.kernels
from fastmunit import info
print(fastmunit.kernels.__file__)
print(info.report())
"""
    out = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(installed)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert out.startswith(str(installed))
    assert '"auto" on cpu      reference' in out


@pytest.mark.slow
@pytest.mark.usefixtures("build_backend")
def test_wheel_with_native_code(tmp_path):
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("no C++ compiler")
    checkout = copy_of_checkout(tmp_path)
    run, wheels = build_wheel(checkout, tmp_path / "wheels", FASTMUNIT_CUDA="0")
    assert run.returncode == 0, run.stderr
    assert "warning:" not in run.stderr
    (extension,) = (name for name in names_in(wheels[0]) if name.startswith("fastmunit/_C."))
    installed = tmp_path / "installed"
    zipfile.ZipFile(wheels[0]).extractall(installed)
    code = """
import sys, torch
sys.path.insert(0, sys.argv[1])
import fastmunit._C
print(fastmunit._C.__file__, fastmunit._C.build_config()["cuda"])
"""
    out = subprocess.run(
        [sys.executable, "-c", code, installed], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert out.split() == [str(installed / extension), "None"]


@pytest.mark.slow
@pytest.mark.usefixtures("build_backend")
def test_second_build_compiles_nothing(tmp_path):
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("no C++ compiler")
    checkout = copy_of_checkout(tmp_path)
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    environment = {**os.environ, "FASTMUNIT_CUDA": "0"}
    outputs = [
        subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert "Building CXX object" in outputs[0]
    assert "Building CXX object" not in outputs[1]
    assert "no work to do" in outputs[1]


def test_a_requested_but_missing_cuda_toolkit_is_an_error():
    code = """
import pathlib, shutil, sys
sys.path.insert(0, "tools")
shutil.which = lambda name, *args, **kwargs: None
pathlib.Path.is_file = lambda self: False
from native_compiler import find_nvcc
find_nvcc()
"""
    environment = {**os.environ, "FASTMUNIT_CUDA": "1", "FASTMUNIT_BUILD": ""}
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert "FASTMUNIT_CUDA=1, but no CUDA toolkit was found" in run.stderr


def test_backend_requires_torch_only_if_there_is_none(tmp_path):
    pytest.importorskip("setuptools", reason="setuptools is not installed")
    code = """
import sys, sysconfig, site
sys.path.insert(0, "tools")
import build_backend
if sys.argv[1] == "absent":
    build_backend.PathFinder = type("Finder", (), {"find_spec": staticmethod(lambda *args: None)})
print(build_backend._torch_requirement())
"""
    compiler = tmp_path / "c++"
    compiler.touch(0o755)
    with_compiler = {"CXX": str(compiler), "FASTMUNIT_BUILD": ""}
    for torch, environment, expected in (
        ("present", with_compiler, "[]"),
        ("absent", with_compiler, "['torch>=2.10']"),
        ("absent", {**with_compiler, "FASTMUNIT_BUILD": "0"}, "[]"),
        ("absent", {**with_compiler, "CXX": str(tmp_path / "no compiler")}, "[]"),
    ):
        run = subprocess.run(
            [sys.executable, "-c", code, torch],
            cwd=ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout.strip() == expected


def test_only_editable_installs_remove_an_earlier_extension(tmp_path):
    pytest.importorskip("setuptools", reason="setuptools is not installed")
    checkout = copy_of_checkout(tmp_path)
    extension = checkout / "fastmunit/_C.so"
    for command, stays in ((["dist_info"], True), (["bdist_wheel"], True), (["build_ext", "--inplace"], False)):
        extension.touch()
        subprocess.run(
            [sys.executable, "setup.py", "-q", *command],
            cwd=checkout,
            env={**os.environ, "FASTMUNIT_BUILD": "0"},
            capture_output=True,
            check=True,
        )
        assert extension.exists() == stays


USE = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder)]  # of this environment
import torch
import fastmunit
from fastmunit.functional import instance_norm
from fastmunit.ops.availability import automatic, extension
x = torch.randn(2, 3, 5, 7)
expected = torch.nn.functional.instance_norm(x)
torch.testing.assert_close(instance_norm(x)[0], expected)
print(fastmunit.__file__, automatic("cpu"), extension is not None)
"""


def use_installed(folder):
    """Return the path of the package imported from `folder`, its implementation on the CPU, and if it is native."""
    return subprocess.run(
        [sys.executable, "-c", USE],
        env={**os.environ, "PYTHONPATH": str(folder)},
        cwd=folder.parent,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()


@pytest.mark.slow
@pytest.mark.usefixtures("build_backend")
def test_wheel_without_a_compiler(tmp_path):
    (tmp_path / "bin").mkdir()
    run, wheels = build_wheel(
        copy_of_checkout(tmp_path), tmp_path / "wheels", PATH=str(tmp_path / "bin"), CXX="", FASTMUNIT_BUILD=""
    )
    assert run.returncode == 0, run.stderr
    assert wheels[0].name.endswith("-py3-none-any.whl")
    zipfile.ZipFile(wheels[0]).extractall(tmp_path / "installed")
    place = str(tmp_path / "installed/fastmunit/__init__.py")
    assert use_installed(tmp_path / "installed") == [place, "reference", "False"]


@pytest.mark.slow
def test_isolated_install(tmp_path):
    """Install as `pip install .` does: build requirements from the package index, torch from this environment."""
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("no C++ compiler")
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    pip = [sys.executable, "-m", "pip"]
    fetched = subprocess.run(
        [*pip, "download", "-q", "--no-deps", "-d", tmp_path / "requirements", *requirements],
        capture_output=True,
        text=True,
        check=False,
    )
    if fetched.returncode != 0:
        pytest.skip(f"the build requirements cannot be downloaded: {fetched.stderr.strip()[-200:]}")
    run = subprocess.run(
        [*pip, "install", "-q", "--no-deps", "--target", tmp_path / "installed", copy_of_checkout(tmp_path)],
        env={**os.environ, "FASTMUNIT_CUDA": "0", "PIP_FIND_LINKS": str(tmp_path / "requirements")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    place = str(tmp_path / "installed/fastmunit/__init__.py")
    assert use_installed(tmp_path / "installed") == [place, "native", "True"]
