"""Every command and every Python block of README.md and docs/ runs as written, or commands.yaml says why not.

blocks.py says what a command is. Each page runs in a folder of its own that has the files its commands name (world.py).
`fastmunit` and Python blocks run in this process.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fastmunit.cli import main
from fastmunit.nn.networks import imagenet
from tests.documents import world
from tests.documents.blocks import OTHER, PAGES, PROGRAMS, ROOT, SHELL, Step, blocks_of, names_of, steps_of, text_of
from tests.runs.conftest import one_thread  # noqa: F401 - a fixture

TEXTS = {page.relative_to(ROOT).as_posix(): text_of(page) for page in PAGES}
STEPS = {page: steps_of(text, page) for page, text in TEXTS.items()}
_lists = yaml.safe_load((Path(__file__).parent / "commands.yaml").read_text(encoding="utf-8"))
SLOW = set(_lists["slow"])
SERVERS = set(_lists["servers"])
PACKAGES = _lists["packages"]
OTHER_PAGES = _lists["pages"]
PROGRAMS_NOT_RUN = _lists["programs"]
NOT_RUN = {line: reason for reason, lines in _lists["not run"].items() for line in lines}

_RUN = re.compile(r"""(?:fastmunit train .*--output |fastmunit\.train\(\s*config,\s*")([\w/.-]+)""")
"""The run folder that a command or a Python block trains in."""


def is_run(step: Step) -> bool:
    return step.page not in OTHER_PAGES and step.program not in PROGRAMS_NOT_RUN and not listed(step, NOT_RUN)


def listed(step: Step, lines: set[str] | dict[str, str]) -> bool:
    return any(line in lines for line in step.lines)


def to_run(page: str, slow: bool) -> list[Step]:
    """Return what is run of a page; without `slow`, the slow steps are left out."""
    return [step for step in STEPS[page] if is_run(step) and (slow or not listed(step, SLOW))]


CASES = [pytest.param(page, False, id=page) for page in STEPS if to_run(page, False)]
CASES += [
    pytest.param(page, True, id=f"{page}-slow", marks=pytest.mark.slow)
    for page in STEPS
    if to_run(page, True) != to_run(page, False)
]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("documents")
    world.build(root)
    return root


@pytest.fixture
def folder(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    for program in ("bench", "examples", "tools"):
        (tmp_path / program).symlink_to(ROOT / program)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(imagenet.WEIGHTS_VARIABLE, str(tmp_path / "weights"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    programs = [str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
    monkeypatch.setenv("PATH", os.pathsep.join(programs))
    return tmp_path


@pytest.mark.parametrize(("page", "slow"), CASES)
def test_commands_run_as_written(page: str, slow: bool, folder: Path, prepared: Path) -> None:
    for package in PACKAGES.get(page, ()):
        pytest.importorskip(package, reason=f"the page needs {package}")
    names = world.names(folder)
    with contextlib.ExitStack() as servers:
        for step in to_run(page, slow):
            runs = [] if "resume" in step.text else [folder / run for run in _RUN.findall(step.text)]
            for path in runs:
                shutil.rmtree(path, ignore_errors=True)  # an earlier command may have trained there
            try:
                if listed(step, SERVERS):
                    servers.close()
                    servers.enter_context(running(step))
                else:
                    run(step, names)
            except (Exception, SystemExit) as error:
                pytest.fail(f"{step.page}:{step.line}: {step.text}\n{type(error).__name__}: {error}")
            for path in runs:
                if (prepared / path.relative_to(folder)).exists():
                    shutil.rmtree(path, ignore_errors=True)
            shutil.copytree(prepared, folder, copy_function=_copy_missing, dirs_exist_ok=True)


def _copy_missing(source: str, target: str) -> None:
    if not Path(target).exists():
        shutil.copy(source, target)


def run(step: Step, names: dict[str, Any]) -> None:
    """Run a step, and raise an error if it fails."""
    if step.language == "python":
        exec(compile(step.text, f"{step.page}:{step.line}", "exec"), names)
    elif step.words[0] == "fastmunit" and "--devices" not in step.words:
        try:
            main(step.words[1:])
        except SystemExit as exit:
            if exit.code:
                raise
    elif step.words[:2] == ["python", "-c"]:
        exec(step.words[2], {"__name__": "__main__"})
    else:
        assert step.words[0] in ("cp", "curl", "fastmunit", "npm", "python", "torchrun"), (
            "list this program in commands.yaml, or allow it here"
        )
        subprocess.run(["bash", "-euo", "pipefail", "-c", step.text], check=True, timeout=3600)


@contextlib.contextmanager
def running(step: Step) -> Iterator[None]:
    """Run a server until the next one or the end of the page, when Ctrl-C must stop it."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 8000)) == 0:
            pytest.skip("another program uses port 8000")
    server = subprocess.Popen(step.words)
    try:
        for _ in range(3000):
            with contextlib.suppress(OSError), urllib.request.urlopen("http://127.0.0.1:8000/"):
                break
            assert server.poll() is None, f"it ended with {server.returncode}"
            time.sleep(0.1)
        else:
            pytest.fail("it does not answer at port 8000")
        yield
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(60) in (0, -signal.SIGINT)


def test_every_block_names_its_language() -> None:
    known = {*SHELL, *OTHER, "python"}
    for page, text in TEXTS.items():
        if page in OTHER_PAGES:
            continue
        for line, language, code in blocks_of(text):
            if language.startswith("{"):  # a directive of the site
                continue
            where = f"{page}:{line}"
            assert language in known, f"{where}: expected one of {sorted(known)} after the backquotes, got {language!r}"
            if language in OTHER:
                hidden = re.findall(rf"(?m)^\s*(?:\$ )?(?:{'|'.join(PROGRAMS)}) .*", code)
                assert not hidden, f"{where}: write commands in a block of bash or console: {hidden[0]}"


def test_the_lists_name_what_is_in_the_documents() -> None:
    lines = {line for steps in STEPS.values() for step in steps for line in step.lines}
    for line in [*SLOW, *SERVERS, *NOT_RUN]:
        assert line in lines, f"commands.yaml lists a command that no page has: {line}"
    programs = {step.program for steps in STEPS.values() for step in steps}
    assert programs >= PROGRAMS_NOT_RUN.keys()
    assert STEPS.keys() >= PACKAGES.keys() | OTHER_PAGES.keys()
    assert not NOT_RUN.keys() & (SLOW | SERVERS)


def test_targets_of_make_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    uses = [(f"{step.page}:{step.line}", step.text) for steps in STEPS.values() for step in steps]
    uses += [(f"{page}:{line}", name) for page, text in TEXTS.items() for line, name in names_of(text)]
    for where, text in uses:
        for target in re.findall(r"(?m)^make ([\w-]+)", text):
            assert re.search(rf"(?m)^{target}:", makefile), f"{where}: no target {target}"


def test_tests_and_benchmarks_that_are_named_exist() -> None:
    for page in STEPS.keys() - OTHER_PAGES.keys():
        for step in STEPS[page]:
            if step.program == "pytest":
                for path in [word for word in step.words if re.match("tests|bench", word)]:
                    assert (ROOT / path).exists(), f"{page}:{step.line}: no {path}"
