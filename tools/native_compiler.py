"""Whether the native extension is to be compiled here, and with what: asked by the build backend and by setup.py."""

import os
import shutil


def find_compiler() -> str | None:
    """The C++ compiler's path, or None where there is none."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    return next((path for path in map(shutil.which, names) if path), None)


def compiles() -> bool:
    """Whether the native extension is wanted (FASTMUNIT_BUILD is not 0) and there is a compiler for it."""
    return os.environ.get("FASTMUNIT_BUILD") != "0" and find_compiler() is not None
