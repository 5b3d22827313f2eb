"""How errors reach the user of the command line."""

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import typer

from fastmunit.errors import FastmunitError

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

INTERRUPTED = 130
"""Exit status of a process that Ctrl-C ended."""


def reported(command: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Wrap a command: a FastmunitError becomes one message and exit status 1, Ctrl-C exit status 130.

    Any other exception is a defect of fastmunit and keeps its traceback.
    """

    @functools.wraps(command)
    def run(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        try:
            return command(*args, **kwargs)
        except FastmunitError as error:
            typer.secho("error: ", fg="red", bold=True, nl=False, err=True)
            typer.echo(str(error), err=True)
            raise typer.Exit(1) from error
        except KeyboardInterrupt:
            print("\ninterrupted", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None

    return run
