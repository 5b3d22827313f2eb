"""Ctrl-C before and during a command: one line, exit status 130."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fastmunit.cli import interrupt, main

ROOT = Path(__file__).parents[2]

# The program sends SIGINT to itself when the named module is imported.
INTERRUPTED_AT = """
import os, signal, sys
module, *arguments = sys.argv[1:]
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
sys.argv[1:] = arguments
from fastmunit.cli import main
main()
"""


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT to one process")
@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("fastmunit.cli.app", ["info"]),
        ("typer", ["--help"]),
        ("fastmunit.cli.translate", ["--help"]),
        ("fastmunit.info", ["info"]),
        ("torch", ["info"]),
        ("torch._C", ["info"]),
        ("torch", ["translate", "--checkpoint", "x", "--input", "y", "--output", "z"]),
        ("numpy", ["evaluate", "--checkpoint", "x", "--output", "z"]),
        ("yaml", ["train", "--config", "demo", "--data", "x", "--output", "y"]),
        ("numpy", ["train", "--config", "demo", "--data", "x", "--output", "y"]),
        ("fastmunit.config", ["configs"]),
    ],
)
def test_ctrl_c_during_imports(module: str, arguments: list[str]) -> None:
    child = run(INTERRUPTED_AT, module, *arguments)
    assert (child.returncode, child.stderr) == (130, "\ninterrupted\n")


IN_A_COMMAND = """
import os, signal
from fastmunit.cli import main
from fastmunit.config import Config
def interrupted():
    try:
        os.kill(os.getpid(), signal.SIGINT)
    finally:
        print("cleaned up", flush=True)
Config.shipped = interrupted
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT to one process")
def test_ctrl_c_in_a_command_cleans_up() -> None:
    child = run(IN_A_COMMAND, "configs")
    assert (child.returncode, child.stdout, child.stderr) == (130, "cleaned up\n", "\ninterrupted\n")


def test_main_restores_the_handler_of_a_program_that_calls_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupt, "_end", None)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit):
        main(["configs"])
    assert signal.getsignal(signal.SIGINT) is before
    own = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert not interrupt.install()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, own)
