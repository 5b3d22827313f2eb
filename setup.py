"""Builds the native extension: finds torch and the CUDA toolkit, then runs CMake with Ninja.

Metadata is in pyproject.toml; sources, flags and architectures are in CMakeLists.txt.

Environment variables:
    FASTMUNIT_BUILD=0: leave the native extension out.
    FASTMUNIT_CUDA=0 or 1: leave CUDA out, or make its absence an error. Without it, CUDA is built where a toolkit is.
    FASTMUNIT_CUDA_ARCHS: compute capabilities such as "80;90" instead of those of the visible GPUs.
    CXX: the C++ compiler.
"""

import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
from importlib.machinery import PathFinder
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tools"))

from native_compiler import compiles, find_compiler  # noqa: E402 - pip looks for modules in no folder of its own accord


def find_torch() -> Path:
    """The folder of the installed torch package, which is not imported."""
    spec = PathFinder.find_spec("torch")
    if spec is None or spec.origin is None:
        raise SystemExit("fastmunit: torch was not found; install it first, or let pip build with isolation")
    return Path(spec.origin).parent


def find_nvcc() -> Path | None:
    """Path of the CUDA toolkit's nvcc, or None where there is none or FASTMUNIT_CUDA=0."""
    wanted = os.environ.get("FASTMUNIT_CUDA", "")
    if wanted == "0":
        return None
    folders = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    if wrapper := shutil.which("nvcc"):
        # What lies on PATH may be a script or a link; nvcc itself says where its toolkit is.
        command = [wrapper, "--dryrun", "-x", "cu", "/dev/null"]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if match := re.search(r"^#\$ TOP=(.*)$", run.stderr, re.MULTILINE):
            folders.append(match[1].strip())
    folders.append("/usr/local/cuda")
    for folder in filter(None, folders):
        nvcc = Path(folder) / "bin" / "nvcc"
        if nvcc.is_file():
            return nvcc.resolve()
    if wanted == "1":
        raise SystemExit("fastmunit: FASTMUNIT_CUDA=1, but no CUDA toolkit was found; set CUDA_HOME to its folder")
    return None


class CMakeBuild(build_ext):
    """Runs CMake in a build folder that stays, so that the next build compiles only what changed."""

    def build_extension(self, ext: Extension) -> None:
        """Build the module and put it where setuptools expects it."""
        import pybind11

        torch = find_torch()
        compiler = find_compiler()
        nvcc = find_nvcc()
        folder = ROOT / "build" / f"native-{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
        # A copy that stays: an isolated build has pybind11 in another place, with new dates, each time.
        pybind11_include = folder / f"pybind11-{pybind11.__version__}"
        if not pybind11_include.is_dir():
            shutil.copytree(pybind11.get_include(), pybind11_include)
        definitions = {
            "CMAKE_CXX_COMPILER": compiler,
            "CMAKE_MAKE_PROGRAM": shutil.which("ninja"),
            "FASTMUNIT_TORCH_ROOT": torch,
            "FASTMUNIT_TORCH_VERSION": runpy.run_path(str(torch / "version.py"))["__version__"],
            "FASTMUNIT_PYTHON_INCLUDE": sysconfig.get_path("include"),
            "FASTMUNIT_PYBIND11_INCLUDE": pybind11_include,
            "FASTMUNIT_MODULE_SUFFIX": sysconfig.get_config_var("EXT_SUFFIX"),
            "FASTMUNIT_CUDA_COMPILER": nvcc or "",
            "FASTMUNIT_CUDA_ARCHS": os.environ.get("FASTMUNIT_CUDA_ARCHS", "").replace(",", ";"),
        }
        arguments = [f"-D{name}={value}" for name, value in definitions.items()]
        subprocess.run(["cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", *arguments], check=True)
        subprocess.run(["cmake", "--build", folder], check=True)
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        built = folder / f"_C{definitions['FASTMUNIT_MODULE_SUFFIX']}"
        # Renamed into place: a running process keeps the file that it has mapped.
        beside = target.with_suffix(".tmp")
        shutil.copy2(built, beside)
        beside.replace(target)


def extensions() -> list[Extension]:
    """The native extension, or none where it is not wanted or there is no compiler; the reference path runs then."""
    if compiles():
        return [Extension("fastmunit._C", sources=[])]
    if {"editable_wheel", "develop", "--inplace"} & set(sys.argv):
        for stale in (ROOT / "fastmunit").glob("_C.*"):  # of an earlier install of this kind
            stale.unlink()
    return []


setup(ext_modules=extensions(), cmdclass={"build_ext": CMakeBuild})
