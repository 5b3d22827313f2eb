"""Build the native extension: find torch and the CUDA toolkit, then run CMake with Ninja.

The metadata is in pyproject.toml; sources, flags and architectures are in CMakeLists.txt.

Environment variables:
    FASTMUNIT_BUILD: 0 builds no native extension.
    FASTMUNIT_CUDA: 0 builds without CUDA; 1 makes a missing CUDA toolkit an error. By default, CUDA is built if there
        is a toolkit.
    FASTMUNIT_CUDA_ARCHS: Compute capabilities such as "80;90". The default is those of the visible GPUs.
    CXX: The C++ compiler.
"""

import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
from email.parser import HeaderParser
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tools"))

from native_compiler import compiles, find_compiler, find_nvcc  # noqa: E402 - pip adds no folder to the path


def find_torch() -> Path:
    """Return the folder of the installed torch package without importing it."""
    spec = PathFinder.find_spec("torch")
    if spec is None or spec.origin is None:
        raise SystemExit("fastmunit: torch was not found; install it first, or let pip build with isolation")
    return Path(spec.origin).parent


class CMakeBuild(build_ext):
    """A build_ext that runs CMake in a persistent build folder, so the next build compiles only changed sources."""

    def build_extension(self, ext: Extension) -> None:
        """Build the module and copy it to the path that setuptools expects."""
        import pybind11

        torch = find_torch()
        compiler = find_compiler()
        nvcc = find_nvcc()
        folder = ROOT / "build" / f"native-{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
        # A persistent copy: each isolated build has pybind11 in a different folder with new time stamps.
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
        temporary = target.with_suffix(".tmp")
        shutil.copy2(built, temporary)
        temporary.replace(target)


def extensions() -> list[Extension]:
    """Return the native extension, or none if it is disabled or there is no compiler; then the reference path runs."""
    if compiles():
        return [Extension("fastmunit._C", sources=[])]
    if {"editable_wheel", "develop", "--inplace"} & set(sys.argv):
        for stale in (ROOT / "fastmunit").glob("_C.*"):  # of an earlier editable install
            stale.unlink()
    return []


def version() -> str | None:
    """Return None where setuptools-scm determines the version; else that of an sdist, or "0.0" in a checkout."""
    if find_spec("setuptools_scm") is not None:
        return None
    metadata = ROOT / "PKG-INFO"
    return HeaderParser().parsestr(metadata.read_text("utf-8"))["Version"] if metadata.is_file() else "0.0"


setup(version=version(), ext_modules=extensions(), cmdclass={"build_ext": CMakeBuild})
