"""Checks of option values that all commands share."""

import functools
import inspect
from collections import Counter
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import typer
from typer.core import TyperCommand

from fastmunit.files import expand

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class Command(TyperCommand):
    """A command that refuses empty option values, and options that are given twice but are not lists.

    Click would silently keep the last value, and an empty path would mean the working folder.
    """

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Parse the command line into `ctx`. Raises BadParameter (exit status 2), which names the option."""
        values, _, order = self.make_parser(ctx).parse_args(args=list(args))
        given: Counter[Any] = Counter(order)
        if not ctx.resilient_parsing and not any(parameter.is_eager for parameter in given):  # --help has precedence
            for parameter, times in given.items():
                if times > 1 and not parameter.multiple:
                    raise typer.BadParameter(f"given {times} times: give it once.", ctx=ctx, param=parameter)
                _check_value(values[parameter.name], parameter, ctx)
        return super().parse_args(ctx, args)

    def format_help(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        """Write the help page. Texts of options are plain: a default in brackets such as [random styles] is no tag."""
        from rich.markup import escape

        shown = copy(self)
        shown.params = [copy(parameter) for parameter in self.params]
        for parameter in shown.params:
            if text := getattr(parameter, "help", None):
                parameter.help = escape(text)  # type: ignore[attr-defined]
        super(Command, shown).format_help(ctx, formatter)


def _check_value(value: Any, parameter: Any, ctx: typer.Context) -> None:
    for text in value if isinstance(value, list | tuple) else [value]:
        if text == "":
            raise typer.BadParameter("the value is empty: is a variable not set?", ctx=ctx, param=parameter)
        if isinstance(text, str) and "\0" in text:
            raise typer.BadParameter("the value has a null character.", ctx=ctx, param=parameter)


def with_usable_values(command: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Wrap a command to expand "~" and "$VARIABLE" in its paths: shells leave them in `--data=~/photos`.

    Paths that no file can have, and integers that torch cannot take (more than 64 bits), are wrong usage: BadParameter
    (exit status 2) names the option.
    """
    signature = inspect.signature(command)

    @functools.wraps(command)
    def run(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        bound = signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            if isinstance(value, list):
                bound.arguments[name] = [_expanded(name, item) for item in value]
            else:
                bound.arguments[name] = _expanded(name, value)
        return command(*bound.args, **bound.kwargs)

    return run


def _expanded(name: str, value: Any) -> Any:
    hint = f"'--{name.replace('_', '-')}'"
    if isinstance(value, int) and abs(value) >= 2**63:
        raise typer.BadParameter("the number is too large.", param_hint=hint)
    if not isinstance(value, Path):
        return value
    try:
        return Path(expand(str(value)))
    except ValueError as error:
        raise typer.BadParameter(f"{error}.", param_hint=hint) from error
