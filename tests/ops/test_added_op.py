"""The example of docs/project/adding_an_op.md builds, passes its tests and is clean, in a copy of the checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documents.blocks import ROOT, steps_of
from tests.packaging.checkout import copy_of_checkout

PAGE = "docs/project/adding_an_op.md"
DOCUMENT = (ROOT / PAGE).read_text(encoding="utf-8").partition("\n## The rest")[0]
FILE = re.compile(r"^`([\w/.]+)`, (?:(?!^```).)*^```(?:python|cpp)\n(.*?)^```", re.MULTILINE | re.DOTALL)
"""A paragraph that starts with the path of a file, and the block with its contents."""
INSTALL = "pip install -e ."
BUILD = "python setup.py build_ext --inplace"
"""Builds in the folder as the editable install does, without changing the environment of the tests."""


def test_every_part_of_the_example_has_a_file() -> None:
    blocks = re.findall(r"(?m)^```(?:python|cpp)$", DOCUMENT)
    assert len(FILE.findall(DOCUMENT)) == len(blocks) == 5


@pytest.mark.slow
def test_the_example_builds_and_passes_its_tests(tmp_path: Path) -> None:
    """Run the commands of the page. It compiles the extension, which takes minutes."""
    for program in ("c++", "git", "make"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    for module in ("cmake", "mypy", "ninja", "pybind11", "ruff"):
        pytest.importorskip(module, reason=f"{module} is not installed")
    checkout = copy_of_checkout(tmp_path)
    write_files(checkout)
    change_lists(checkout)
    run("git init --quiet && git add .", checkout)  # make lint checks the files that git tracks
    commands = [step.text for step in steps_of(DOCUMENT, PAGE) if step.language == "bash"]
    assert commands[0].endswith(INSTALL) and commands[-1] == "make lint"
    for command in commands:
        run(without_changes_of_the_environment(command), checkout)


def write_files(checkout: Path) -> None:
    """Write the files of the example."""
    for path, text in FILE.findall(DOCUMENT):
        (checkout / path).parent.mkdir(parents=True, exist_ok=True)
        (checkout / path).write_text(text, encoding="utf-8")


def change_lists(checkout: Path) -> None:
    """Add the op to the lists that the page names, in the order of their names."""
    kernels = re.search(r'`("scale": .*,)`', DOCUMENT)
    assert kernels
    insert(checkout / "CMakeLists.txt", "csrc/scale/torch/cpu.cpp ", before="csrc/fused_norm/torch/cpu.cpp")
    insert(checkout / "fastmunit/ops/__init__.py", "    scale,\n", before="    upsample_conv2d,\n")
    insert(checkout / "fastmunit/ops/__init__.py", '"scale", ', before='"upsample_conv2d"')
    insert(checkout / "fastmunit/ops/availability.py", f"    {kernels[1]}\n", before='    "weighted_l1": _EVERYWHERE')
    functions = checkout / "fastmunit/functional/__init__.py"
    insert(
        functions, "from fastmunit.functional.scale import scale\n", before="from fastmunit.functional.upsample_conv2d"
    )
    insert(functions, '    "scale",\n', before='    "upsample_conv2d",\n')


def insert(path: Path, text: str, before: str) -> None:
    """Insert a text before another one, which must be in the file once."""
    old = path.read_text(encoding="utf-8")
    assert old.count(before) == 1, f"{path}: {old.count(before)} times {before!r}"
    path.write_text(old.replace(before, text + before), encoding="utf-8")


def without_changes_of_the_environment(command: str) -> str:
    """Return a command of the page that installs no package."""
    if command == "make lint":
        return f"make lint VENV={sys.prefix} --assume-old={sys.prefix}/.fastmunit-dev"
    return command.replace(INSTALL, BUILD)


def run(command: str, checkout: Path) -> None:
    """Run a command in the checkout, whose package is imported before the installed one."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(checkout),
        "SETUPTOOLS_SCM_PRETEND_VERSION_FOR_FASTMUNIT": "0.1.0",  # the copy has no tags
    }
    done = subprocess.run(
        ["bash", "-euc", command], cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-5000:]}{done.stderr[-5000:]}"
