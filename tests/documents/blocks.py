"""The code blocks of README.md and docs/, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
SHELL = ("bash", "console")
OTHER = {"text", "yaml", "cpp", "javascript"}
"""Languages of blocks that are not run."""

_COMMAND = re.compile(r"""(?:'[^']*'|"[^"]*"|\S#|[^'"#])*""")
"""A command up to the comment after it."""
_FENCE = re.compile(r"^( *)```(\S*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Step:
    """A command or a Python block of a page.

    Attributes:
        page: The page, relative to the root of the repository.
        line: Its line there.
        language: "python", or "bash" for a command.
        text: The code, or the command without its comment, in one line.
    """

    page: str
    line: int
    language: str
    text: str

    @property
    def lines(self) -> set[str]:
        """The lines by which commands.yaml names this step."""
        return {" ".join(line.split()) for line in self.text.splitlines()}

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text, comments=True)


def blocks_of(page: Path) -> Iterator[tuple[int, str, str]]:
    """Yield the first line, the language and the code of each block of a page. Directives of the site are no code."""
    text = page.read_text(encoding="utf-8")
    for match in _FENCE.finditer(text):
        indent, language, code = match.groups()
        if language.startswith("{") and language != "{code-block}":
            continue
        yield text.count("\n", 0, match.start()) + 2, language, re.sub(f"(?m)^{indent}", "", code)


def steps_of(page: Path) -> list[Step]:
    """Return the commands and Python blocks of a page, in their order."""
    name = page.relative_to(ROOT).as_posix()
    steps = []
    for line, language, code in blocks_of(page):
        if language == "python":
            steps.append(Step(name, line, language, code))
        elif language in SHELL:
            steps += [Step(name, line + offset, "bash", text) for offset, text in _commands(language, code)]
    return steps


def _commands(language: str, code: str) -> Iterator[tuple[int, str]]:
    """Yield the commands of a block, each with its line. In a console block, they follow "$ "; the rest is output."""
    if code.startswith("#!"):  # a script
        yield 0, code
        return
    lines = iter(enumerate(code.splitlines()))
    for offset, line in lines:
        if language == "console":
            if not line.startswith("$ "):
                continue
            line = line.removeprefix("$ ")
        while line.endswith("\\"):
            line = line[:-1].rstrip() + " " + next(lines)[1].strip()
        if command := _COMMAND.match(line)[0].strip():  # type: ignore[index]  # it matches any line
            yield offset, command
