"""The reference of all commands as Markdown, from their typer declarations."""

import re
from collections.abc import Iterator
from typing import Any

import typer

_MARKUP = re.compile(r"\[/?bold\]")
_NOTES = re.compile(r"  \[([^\[\]]*)\]$")
_RANGE = re.compile(r"([\d.-]+)<=x<=([\d.-]+)")
_LARGE = 10**9  # limits that no user meets
_CODE = re.compile(r"(?<!\w)--[a-z][\w-]*|(?<!\w)[\w/]*\*[\w.*]*|\b[A-Za-z]+_\w+\b(\.\w+)?")
_DOCUMENT = re.compile(r"\bdocs/([\w/]+)\.md\b")
_EXAMPLE = ("fastmunit ", "FASTMUNIT_", "torchrun ", "curl ")


def commands_text() -> str:
    """Return a section per command: what it does, examples, arguments and options."""
    from fastmunit.cli.app import app

    return "\n".join(_lines(typer.main.get_command(app), "fastmunit"))


def _lines(command: Any, name: str) -> Iterator[str]:
    if " " in name:
        yield f"{'#' * (name.count(' ') + 1)} {name}\n"
        yield _help_text(command.help or "")
    yield f"\n```{{program}} {name}\n```\n"
    context = typer.Context(command)
    panels: dict[str | None, list[str]] = {None: []}
    for parameter in command.params:
        record = None if "completion" in parameter.opts[0] else parameter.get_help_record(context)
        if record:
            names, text = record
            names = names.split()[0] if parameter.param_type_name == "argument" else names
            panels.setdefault(getattr(parameter, "rich_help_panel", None), []).append(_parameter_text(names, text))
    for panel, texts in panels.items():
        yield from ([f"**{panel}**\n"] if panel else []) + texts
    for part, subcommand in getattr(command, "commands", {}).items():
        yield from _lines(subcommand, f"{name} {part}")


def _help_text(text: str) -> str:
    """Return a help text with its examples in one block of code, and links instead of paths of documents."""
    blocks: list[list[str]] = []
    for paragraph in text.strip().split("\n\n"):
        kind = "```sh" if paragraph.startswith(_EXAMPLE) else ""
        if blocks and kind and blocks[-1][0] == kind:
            blocks[-1].append(paragraph)
        elif "Examples" not in paragraph.split("[/bold]")[0][-8:]:
            blocks.append([kind, paragraph if kind else prose(paragraph)])
    return "\n\n".join("\n".join([*block, "```"] if block[0] else block[1:]) for block in blocks)


def _parameter_text(names: str, text: str) -> str:
    notes = _NOTES.search(text)
    words = [prose(text[: notes.start()] if notes else text)]
    for note in notes[1].split("; ") if notes else []:
        label, _, value = note.partition(": ")
        low, high = _RANGE.fullmatch(note).groups() if _RANGE.fullmatch(note) else (None, None)
        if value:
            words.append(f"{label.capitalize()}: `{value}`.")
        elif low and high and float(high) < _LARGE:
            words.append(f"From {low} to {high}.")
        else:
            least = low or (note.removeprefix("x>=") if note.startswith("x>=") else None)
            words.append(f"At least {least}." if least else f"{note.capitalize()}.")
    return f"````{{option}} {re.sub(r'[<>]', '', names)}\n{' '.join(words)}\n````\n"


def prose(text: str) -> str:
    """Return the text of a help as Markdown: options and file names as code, documents as links."""
    parts = text.split("`")
    parts[::2] = [_CODE.sub(r"`\g<0>`", part) for part in parts[::2]]
    return _DOCUMENT.sub(r"{doc}`/\1`", _MARKUP.sub("**", "`".join(parts)))
