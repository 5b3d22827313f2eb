"""The commands of README.md and docs/, and the Python blocks.

A command is a line of a fenced block of bash or console, or inline code that starts with one of `PROGRAMS`. Inline code
is a name, not a command, if

- it is no more than a program, its subcommand and an option without a value, such as `fastmunit train --plan`, or
- it has a placeholder: a word in capitals, such as `fastmunit train --devices N`, or an ellipsis.

Tutorials are scripts whose markdown cells are read like pages. Their Python cells are no steps: tests/test_tutorials.py
runs them. `loose_commands` finds what looks like a command in any other form.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from typer.main import get_command

from fastmunit.cli.app import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
PAGES += sorted(ROOT.glob("docs/tutorials/*.py"))
PROGRAMS = ("fastmunit", "python", "pytest", "pip", "make", "torchrun", "curl", "npm")
"""Programs that commands start with, where it is not clear that a text is a command."""
SHELL = ("bash", "console")
OTHER = {"text", "yaml", "cpp", "javascript"}
"""Languages of blocks that are not run."""

_COMMAND = re.compile(r"""(?:'[^']*'|"[^"]*"|\S#|[^'"#])*""")
"""A command up to the comment after it."""
_FENCE = re.compile(r"^( *)```(\S*)[^`\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"(?<!`)(``?)(?!`)((?:(?!\n\s*\n).)+?)(?<!`)\1(?!`)", re.DOTALL)
_HTML_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_STARTS_WITH_A_PROGRAM = re.compile(rf"(?:\w+=\S+ )*(?:{'|'.join(PROGRAMS)}) ")
_NAME = re.compile(r"(?:fastmunit(?: styles)?(?: [a-z-]+)?(?: --[a-z-]+)?|make [a-z-]+|pip install)")
PLACEHOLDER = re.compile(r"(?<![\w/.-])[A-Z][A-Z_]*\b(?!=)|…")
_COMMANDS = "|".join(re.escape(name) for name in get_command(app).commands)  # type: ignore[attr-defined]
_LOOSE = re.compile(
    rf"\b(?:fastmunit (?:{_COMMANDS})\b|python3? (?:-\w|\S+\.py)|pip3? install|(?:torchrun|curl|pytest) -).*"
    r"|^\s+make [\w-]+$",
    re.MULTILINE,
)
"""Commands in text that is not code. `make` counts only in a line of its own, since it is a common word."""


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

    @property
    def program(self) -> str | None:
        """The program of a command. `python -m pytest` is pytest."""
        if self.language == "python":
            return None
        return "pytest" if self.words[:3] == ["python", "-m", "pytest"] else self.words[0]


def text_of(page: Path) -> str:
    """Return the Markdown of a page, each line where it is in the file. Comments that no reader sees are left out."""
    text = page.read_text(encoding="utf-8")
    return _HTML_COMMENT.sub(_line_ends, _markdown_cells(text) if page.suffix == ".py" else text)


def _markdown_cells(script: str) -> str:
    """Return the markdown cells of a script in the percent format, with empty lines for its code."""
    lines, markdown = [], False
    for line in script.splitlines():
        if line.startswith("# %%"):
            markdown = line == "# %% [markdown]"
            line = ""
        lines.append(line.removeprefix("#").removeprefix(" ") if markdown else "")
    return "\n".join(lines) + "\n"


def _line_ends(match: re.Match[str]) -> str:
    return "\n" * match[0].count("\n")


def blocks_of(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield the first line, the language and the code of each block. Directives of the site are no code."""
    for match in _FENCE.finditer(text):
        indent, language, code = match.groups()
        if language.startswith("{") and language != "{code-block}":
            continue
        yield text.count("\n", 0, match.start()) + 2, language, re.sub(f"(?m)^{indent}", "", code)


def inline_code_of(text: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each inline code, in one line."""
    text = _without_blocks(text)
    for match in _INLINE.finditer(text):
        yield text.count("\n", 0, match.start()) + 1, " ".join(match[2].split())


def _without_blocks(text: str) -> str:
    """Return the text without its blocks of code. Directives are kept, because they contain text."""
    return _FENCE.sub(lambda match: match[0] if match[2].startswith("{") else _line_ends(match), text)


def names_of(text: str) -> list[tuple[int, str]]:
    """Return the inline code that names a program with a subcommand, an option or placeholders."""
    return [
        (line, code) for line, code in inline_code_of(text) if _STARTS_WITH_A_PROGRAM.match(code) and _is_name(code)
    ]


def _is_name(code: str) -> bool:
    return bool(_NAME.fullmatch(code) or PLACEHOLDER.search(code))


def loose_commands(text: str) -> list[str]:
    """Return what looks like a command, but is in no form that `steps_of` reads."""
    rest = _INLINE.sub(_line_ends, _without_blocks(text))
    return [match[0].strip() for match in _LOOSE.finditer(rest)]


def steps_of(text: str, name: str) -> list[Step]:
    """Return the commands and Python blocks of the page `name`, in their order."""
    steps = []
    for line, language, code in blocks_of(text):
        if language == "python":
            steps.append(Step(name, line, language, code))
        elif language in SHELL:
            steps += [Step(name, line + offset, "bash", command) for offset, command in _commands(language, code)]
    for line, code in inline_code_of(text):
        if _STARTS_WITH_A_PROGRAM.match(code) and not _is_name(code):
            steps.append(Step(name, line, "bash", code))
    return sorted(steps, key=lambda step: step.line)


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
