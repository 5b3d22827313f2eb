"""Standard output and error of commands. They may be closed, full, or unable to encode a name."""

import io
import os
import shlex
import sys
from collections.abc import Sequence
from typing import IO

import typer

from fastmunit.errors import FastmunitError
from fastmunit.files import is_unicode


def prepare_streams() -> None:
    """Make standard output and error accept any text, and open closed standard streams on the null device.

    Characters that a stream cannot encode are escaped, such as a name that is not UTF-8, or "↔" in an ASCII locale. A
    closed stream would be None in Python, and the next opened file would get its descriptor.
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


def echo(text: str, *, err: bool = False) -> None:
    """Print a line of text to standard output, or with `err` to standard error.

    Raises:
        FastmunitError: If the stream cannot be written, for example because the disk is full.
        BrokenPipeError: If the reader has ended; typer then ends the process without a message.
    """
    try:
        typer.echo(text, err=err)
    except BrokenPipeError:
        raise
    except OSError as error:
        _discard(sys.stderr if err else sys.stdout)
        raise FastmunitError(f"cannot write to standard {'error' if err else 'output'}: {error.strerror}.") from error


def _discard(stream: IO[str]) -> None:
    """Send a stream to the null device: Python would fail again on the rest of its buffer at exit."""
    handle = os.open(os.devnull, os.O_WRONLY)
    os.dup2(handle, stream.fileno())
    os.close(handle)


def shell_line(parts: Sequence[str]) -> str:
    """Return a command line for a shell. Bytes that are not UTF-8 are escaped in $'…'."""
    return " ".join(_quoted(part) for part in parts)


def _quoted(part: str) -> str:
    if is_unicode(part):
        return shlex.quote(part)
    escaped = os.fsencode(part).replace(b"\\", b"\\\\").replace(b"'", b"\\'").decode("utf-8", "backslashreplace")
    return f"$'{escaped}'"
