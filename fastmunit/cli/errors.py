"""Error messages and exit statuses of commands."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import typer

from fastmunit.cli.interrupt import INTERRUPTED, as_exception
from fastmunit.cli.output import echo
from fastmunit.errors import FastmunitError

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def reported(command: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Wrap a command to exit with 1 and a message on a FastmunitError or when memory runs out, with 130 on Ctrl-C.

    Any other exception is a bug of fastmunit and keeps its traceback.
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
            show_error(f"out of memory ({first_line(error)}): use smaller images, or fewer at a time.")
            raise typer.Exit(1) from error
        except KeyboardInterrupt:
            echo("\ninterrupted", err=True)
            raise typer.Exit(INTERRUPTED) from None

    return run


def show_error(message: str) -> None:
    """Print an error message to standard error."""
    echo(typer.style("error: ", fg="red", bold=True) + message, err=True)
