"""Standard output and error of the commands: they may be closed, full, or unable to show a name."""

import io
import os
import shlex
import sys
from collections.abc import Sequence

import typer

from fastmunit.errors import FastmunitError
from fastmunit.files import is_unicode


def prepare_streams() -> None:
    """Make standard output and error take any text, and give closed streams a place to write to.

    Characters that a stream cannot encode are escaped: a name that is not UTF-8, or "↔" in an ASCII locale. A closed
    stream would be None in Python, and its descriptor would go to the next file that is opened.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            handle = os.open(os.devnull, os.O_RDWR)
            if handle != number:
                os.dup2(handle, number)
                os.close(handle)
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8"))  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def echo(text: str) -> None:
    """Print a line of text.

    Raises:
        FastmunitError: Standard output cannot be written (disk full).
        BrokenPipeError: Its reader has ended; typer ends the process without a message then.
    """
    try:
        typer.echo(text)
    except BrokenPipeError:
        raise
    except OSError as error:
        _discard_output()
        raise FastmunitError(f"cannot write to standard output: {error.strerror}.") from error


def _discard_output() -> None:
    """Send what is left in the buffer nowhere: Python would fail on it again while it exits."""
    handle = os.open(os.devnull, os.O_WRONLY)
    os.dup2(handle, sys.stdout.fileno())
    os.close(handle)


def shell_line(parts: Sequence[str]) -> str:
    """Return a command line for a shell; bytes that are not UTF-8 are escaped in $'…'."""
    return " ".join(_quoted(part) for part in parts)


def _quoted(part: str) -> str:
    if is_unicode(part):
        return shlex.quote(part)
    escaped = os.fsencode(part).replace(b"\\", b"\\\\").replace(b"'", b"\\'").decode("utf-8", "backslashreplace")
    return f"$'{escaped}'"
