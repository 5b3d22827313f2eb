"""The base class of typed configuration sections: conversion of values, and messages about wrong ones."""

from __future__ import annotations

import difflib
import numbers
import os
import re
import reprlib
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from fastmunit.errors import ConfigError
from fastmunit.files import expand, is_unicode
from fastmunit.yaml_file import MAX_NODES

_MAX_LISTED = 10
_EXPONENT = re.compile(r"[+-]?(\d{1,40}\.?\d{0,40}|\.\d{1,40})[eE][+-]?\d{1,2}")
_MAX_DEPTH = 8  # less than yaml_file.MAX_DEPTH, so that what is saved can be loaded


class Section(BaseModel):
    """A group of keys with types and limits. Unknown keys are refused. Assigning a wrong value raises ConfigError.

    An integer key accepts any integral number: an integer, a float, or text with an exponent, since YAML 1.1 reads 1e6
    as text. A key for numbers refuses booleans.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    def __setattr__(self, name: str, value: Any) -> None:
        try:
            super().__setattr__(name, value)
        except ValidationError as error:
            raise ConfigError(explain(error, type(self), "configuration")) from None

    @field_validator("*", mode="before")
    @classmethod
    def _usual_types(cls, value: Any, info: ValidationInfo) -> Any:
        types = _types(cls.model_fields[str(info.field_name)].annotation)
        if isinstance(value, str) and int in types and _EXPONENT.fullmatch(value.strip()):
            number = Decimal(value.strip())
            return int(number) if number == number.to_integral_value() else float(number)
        if isinstance(value, bool) and bool not in types and types & {int, float}:
            raise ValueError("expected a number, got a boolean; YAML reads yes, no, on and off as booleans too")
        if isinstance(value, str) and not is_unicode(value):
            raise ValueError("the text is not UTF-8: rename that file or folder, or give a link to it")
        if isinstance(value, numbers.Integral) and not isinstance(value, int):
            return int(value)  # such as a NumPy integer
        if isinstance(value, numbers.Real) and not isinstance(value, int | float):
            return float(value)
        if isinstance(value, Mapping) and not isinstance(value, dict):
            return dict(value)
        if isinstance(value, int) and value.bit_length() > 1000:
            raise ValueError("the number is too large")  # to convert to a float
        return value


def _types(annotation: Any) -> set[Any]:
    """Return the types of a union, or the only type, without the limits that `Annotated` adds."""
    parts = get_args(annotation) or (annotation,)
    return {get_args(part)[0] if hasattr(part, "__metadata__") else part for part in parts}


PathText = Annotated[str, AfterValidator(expand)]
"""A path as text, with "~" and "$VARIABLE" expanded (see `fastmunit.files.expand`)."""


def plain(value: Any) -> Any:
    """Return a copy of nested mappings and sequences of plain values. NumPy numbers become Python numbers.

    Raises:
        ValueError: If there is another type or a key that is not text, or if there are too many levels or values (a
            value may contain itself).
    """
    remaining = MAX_NODES

    def copy(value: Any, depth: int) -> Any:
        nonlocal remaining
        remaining -= 1
        if depth > _MAX_DEPTH:
            raise ValueError(f"values are nested more than {_MAX_DEPTH} levels deep")
        if remaining < 0:
            raise ValueError(f"there are more than {MAX_NODES:,} values")
        if isinstance(value, Mapping):
            if not all(isinstance(key, str) for key in value):
                raise ValueError("keys should be text")
            return {key: copy(inner, depth + 1) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [copy(inner, depth + 1) for inner in value]
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, numbers.Integral):
            return int(value)
        if isinstance(value, numbers.Real):
            return float(value)
        raise ValueError(f"expected numbers, text, lists and mappings, got {type(value).__name__}")

    return copy(value, 0)


def brief(value: object) -> str:
    """Return a representation of at most 80 characters for messages. It never raises."""
    text = _Brief().repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


class _Brief(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 2
        self.maxstring = self.maxother = 60

    def repr_int(self, x: int, level: int) -> str:
        if x.bit_length() > 200:  # Python refuses to print very large integers
            return f"an integer of {x.bit_length()} bits"
        return repr(x)

    def repr1(self, x: Any, level: int) -> str:
        if isinstance(x, os.PathLike) or type(x).__module__ != "builtins":
            return self.repr_instance(x, level)  # reprlib dispatches on the class name, which need not be the builtin's
        return super().repr1(x, level)


def nearest(key: object, section: type[BaseModel], prefix: str = "") -> str:
    """Return `prefix` and the key of `section` that is most similar to `key`, or "" if none is."""
    if not isinstance(key, str):
        return ""
    match = difflib.get_close_matches(key[:200], section.model_fields, n=1, cutoff=0.5)
    return prefix + match[0] if match else ""


def explain(error: ValidationError, root: type[BaseModel], source: str) -> str:
    """Return a message of one line about the errors that pydantic found in `source`.

    Raise ConfigError with this message `from None`: the text of a ValidationError contains the whole value, which takes
    hours to print if its parts are shared many times.
    """
    items = error.errors(include_url=False, include_context=False)
    lines = [_explained(item["type"], item["loc"], item["msg"], item["input"], root) for item in items[:_MAX_LISTED]]
    if len(items) > _MAX_LISTED:
        lines.append(f"and {len(items) - _MAX_LISTED} more")
    return f"{source}: " + "; ".join(lines) + "."


def _explained(kind: str, location: tuple[int | str, ...], message: str, value: object, root: type[BaseModel]) -> str:
    parts = [str(part) if len(str(part)) <= 60 else f"{str(part)[:60]}…" for part in location]
    name = ".".join(parts)
    message = message.removeprefix("Value error, ")
    if kind == "extra_forbidden":
        section = root
        for part in location[:-1]:
            section = _inner(section, part)
        similar = nearest(location[-1], section, "".join(f"{part}." for part in parts[:-1]))
        return f"unknown key {name!r}" + (f"; did you mean {similar!r}?" if similar else "")
    if not location:
        return message
    return f"{name} = {brief(value)}: {message[0].lower()}{message[1:]}"


def _inner(section: type[BaseModel], key: object) -> type[BaseModel]:
    field = section.model_fields.get(str(key))
    annotation = None if field is None else field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else section
