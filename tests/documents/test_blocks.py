"""Commands are found in every form that blocks.py names, and the documents have no command in another form."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.main import get_command

from fastmunit.cli.app import app
from tests.documents.blocks import PAGES, PLACEHOLDER, ROOT, loose_commands, names_of, steps_of, text_of

FENCED = "Text.\n\n```bash\nfastmunit info  # a comment\nfastmunit train \\\n  --resume\n```\n"
INDENTED = "- Text:\n\n  ```bash\n  fastmunit info\n  ```\n"
CONSOLE = "```console\n$ fastmunit info\nfastmunit 0.1\n```\n"
WRAPPED = "Text and `fastmunit translate --checkpoint fruit\n--input drawing.png` in a sentence.\n"


def commands(text: str) -> list[tuple[int, str]]:
    return [(step.line, step.text) for step in steps_of(text, "page.md")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (FENCED, [(4, "fastmunit info"), (5, "fastmunit train --resume")]),
        (INDENTED, [(4, "fastmunit info")]),
        (CONSOLE, [(2, "fastmunit info")]),
        (WRAPPED, [(1, "fastmunit translate --checkpoint fruit --input drawing.png")]),
        ("| `pip install x` | ``python -m bench.serving`` |\n", [(1, "pip install x"), (1, "python -m bench.serving")]),
        (f"`python a.py`\n\n{FENCED}", [(1, "python a.py"), (6, "fastmunit info"), (7, "fastmunit train --resume")]),
    ],
)
def test_commands_are_found(text: str, expected: list[tuple[int, str]]) -> None:
    assert commands(text) == expected
    assert loose_commands(text) == []


@pytest.mark.parametrize(
    "name",
    [
        "fastmunit train",
        "fastmunit styles extract",
        "fastmunit train --plan",
        "fastmunit --version",
        "make demo",
        "pip install",
        "fastmunit train --devices N",
        "python -m bench.on_gpu --out FOLDER --stages batch",
        "python -m tools.fit_launch_table FOLDER/on_gpu.json",
        "fastmunit translate --checkpoint fruit …",
    ],
)
def test_names_and_placeholders_are_no_commands(name: str) -> None:
    text = f"Text with `{name}` in it.\n"
    assert commands(text) == [] == loose_commands(text)
    assert names_of(text) == [(1, name)]


def test_markdown_cells_of_a_tutorial_are_read(tmp_path: Path) -> None:
    tutorial = tmp_path / "tutorial.py"
    tutorial.write_text(
        "# %% [markdown]\n# # Title\n#\n# ```bash\n# fastmunit info\n# ```\n\n# %%\n# `python not_text.py`\nprint()\n"
        "# %% [markdown]\n# Text with `fastmunit train --resume --minutes 1`.\n"
    )
    assert commands(text_of(tutorial)) == [(5, "fastmunit info"), (12, "fastmunit train --resume --minutes 1")]


@pytest.mark.parametrize(
    "text",
    [
        "Text:\n\n    python -m examples.stain --minutes 1\n",
        "Text:\n\n    make demo\n",
        "~~~bash\nfastmunit info\n~~~\n",
        "```{code-block} bash\nfastmunit info\n```\n",
        "<pre>pip install fastmunit</pre>\n",
        "Run fastmunit translate --checkpoint fruit.\n",
        "```bash\nfastmunit info\n",
    ],
)
def test_other_forms_are_reported(text: str) -> None:
    assert commands(text) == []
    assert len(loose_commands(text)) == 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_has_no_command_in_another_form(page: Path) -> None:
    found = loose_commands(text_of(page))
    assert not found, f"write this in a block of bash or console, or in backquotes, so that tests run it: {found[0]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_names_of_a_page_exist(page: Path) -> None:
    for line, name in names_of(text_of(page)):
        assert not unknown_words(name), f"{page.name}:{line}: {name}"


def test_unknown_names_are_found() -> None:
    assert unknown_words("fastmunit trian --plan") == ["trian", "--plan"]
    assert unknown_words("fastmunit styles extract --plan") == ["--plan"]
    assert unknown_words("python -m bench.no_such --out FOLDER") == ["bench.no_such"]


def unknown_words(name: str) -> list[str]:
    """Return the commands, options and modules of a name that do not exist."""
    program, *words = name.split()
    if program == "python" and words[0] == "-m":
        return [] if find_spec(words[1]) else [words[1]]
    return _unknown_to_fastmunit(words) if program == "fastmunit" else []


def _unknown_to_fastmunit(words: list[str]) -> list[str]:
    command, unknown = get_command(app), []
    for word in words:
        commands = getattr(command, "commands", {})
        if word in commands:
            command = commands[word]
        elif word.startswith("-"):
            unknown += [word] * (word not in {"-h", "--help", *(name for p in command.params for name in p.opts)})
        elif commands and not PLACEHOLDER.search(word):
            unknown.append(word)
    return unknown
