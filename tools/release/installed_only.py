"""A pytest plugin that ends the run unless fastmunit is imported from site-packages, with the module of its wheel."""

import sysconfig
from importlib.metadata import distribution
from pathlib import Path

import pytest


def pytest_sessionstart() -> None:
    """Check where fastmunit, its kernels and its compiled module are."""
    import fastmunit
    import fastmunit.kernels
    from fastmunit.ops.availability import extension

    installed = Path(sysconfig.get_path("platlib")).resolve()
    for module in (fastmunit, fastmunit.kernels, extension):
        if module is not None and not Path(str(module.__file__)).resolve().is_relative_to(installed):
            pytest.exit(f"expected {module.__name__} in {installed}, got {module.__file__}", returncode=1)
    compiled = "Root-Is-Purelib: false" in (distribution("fastmunit").read_text("WHEEL") or "")
    if compiled != (extension is not None):
        pytest.exit("the compiled module of the wheel cannot be imported: fastmunit info has the reason", returncode=1)
