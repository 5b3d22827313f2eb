"""How errors reach the user of the command line."""

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import typer

from fastmunit.cli.interrupt import INTERRUPTED, as_exception
from fastmunit.errors import FastmunitError

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def reported(command: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Wrap a command: a FastmunitError becomes one message and exit status 1, Ctrl-C exit status 130.

    So does an error that says that memory has run out. Any other exception is a defect of fastmunit and keeps its
    traceback.
    """

    @functools.wraps(command)
    def run(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        try:
            with as_exception():
                return command(*args, **kwargs)
        except FastmunitError as error:
            show_error(str(error))
            raise typer.Exit(1) from error
        except (MemoryError, RuntimeError) as error:
            from fastmunit.memory import first_line, is_out_of_memory

            if not is_out_of_memory(error):
                raise
            show_error(f"there is too little memory ({first_line(error)}): use smaller images, or fewer at once.")
            raise typer.Exit(1) from error
        except KeyboardInterrupt:
            print("\ninterrupted", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None

    return run


def show_error(message: str) -> None:
    """Print the message of an error."""
    typer.secho("error: ", fg="red", bold=True, nl=False, err=True)
    typer.echo(message, err=True)
