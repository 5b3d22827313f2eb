"""The C++ compiler of the native extension, for the build backend and setup.py."""

import os
import shutil


def find_compiler() -> str | None:
    """Return the path of the C++ compiler, or None if there is none."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    return next((path for path in map(shutil.which, names) if path), None)


def compiles() -> bool:
    """Return true if the native extension will be compiled: FASTMUNIT_BUILD is not 0 and there is a compiler."""
    return os.environ.get("FASTMUNIT_BUILD") != "0" and find_compiler() is not None
