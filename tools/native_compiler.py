"""The compilers of the native extension, for the build backend, setup.py and releases."""

import os
import re
import shutil
import subprocess
from pathlib import Path


def find_compiler() -> str | None:
    """Return the path of the C++ compiler, or None if there is none."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    return next((path for path in map(shutil.which, names) if path), None)


def compiles() -> bool:
    """Return true if the native extension will be compiled: FASTMUNIT_BUILD is not 0 and there is a compiler."""
    return os.environ.get("FASTMUNIT_BUILD") != "0" and find_compiler() is not None


def find_nvcc() -> Path | None:
    """Return the path of the CUDA toolkit's nvcc, or None if there is none or FASTMUNIT_CUDA=0."""
    setting = os.environ.get("FASTMUNIT_CUDA", "")
    if setting == "0":
        return None
    folders = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    if wrapper := shutil.which("nvcc"):
        # The nvcc on PATH may be a script or a link. nvcc itself reports the folder of its toolkit.
        command = [wrapper, "--dryrun", "-x", "cu", "/dev/null"]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if match := re.search(r"^#\$ TOP=(.*)$", run.stderr, re.MULTILINE):
            folders.append(match[1].strip())
    folders.append("/usr/local/cuda")
    for folder in filter(None, folders):
        nvcc = Path(folder) / "bin" / "nvcc"
        if nvcc.is_file():
            return nvcc.resolve()
    if setting == "1":
        raise SystemExit("fastmunit: FASTMUNIT_CUDA=1, but no CUDA toolkit was found; set CUDA_HOME to its folder")
    return None
