"""A YAML reader for untrusted text: it returns plain values or raises ConfigError, in bounded time and memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple, cast

import yaml

from fastmunit.errors import ConfigError
from fastmunit.files import printable, require_regular_file

MAX_BYTES = 250_000
"""Maximum size of a YAML file. A configuration has about 3,000 bytes."""
MAX_NODES = 10_000
"""Maximum number of keys and values. Each alias counts as much as its anchor."""
MAX_DEPTH = 20
"""Maximum number of nested levels, including those of aliases. PyYAML and pydantic recurse for each level."""
MAX_NUMBER_LENGTH = 400
"""Maximum number of characters of a number. Python refuses to parse or print more than 4,300 digits."""

_MAX_MESSAGE = 400
_TAG = "tag:yaml.org,2002:"
_MERGE, _TEXT = f"{_TAG}merge", f"{_TAG}str"
_TAGS = frozenset(_TAG + name for name in ("null", "bool", "int", "float", "str", "seq", "map"))
_NUMBERS = frozenset(_TAG + name for name in ("bool", "int", "float"))


def read_yaml(path: str | os.PathLike[str], what: str) -> Any:
    """Return the plain values of a YAML file.

    Args:
        path: File to read. FIFOs and devices are refused without opening them.
        what: Kind of file, for error messages ("configuration").

    Raises:
        ConfigError: If the file is missing, not a regular file, too large or not UTF-8, or if `parse_yaml` raises.
    """
    require_regular_file(path, what, ConfigError)
    name = printable(path)
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        text = data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name} cannot be read as a text file: {error}.") from error
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{name} is larger than {MAX_BYTES:,} bytes, the limit of a YAML file: check the path.")
    return parse_yaml(text, name)


def parse_yaml(text: str, source: str) -> Any:
    """Return the plain values of a YAML document: None, bool, int, float, str, lists, and dicts with text keys.

    Anchors, aliases and merge keys are allowed. Each alias gives its own copy. Dates are text, since no key takes a
    date.

    Args:
        text: YAML of at most `MAX_BYTES` characters.
        source: Name of the file or option, for error messages.

    Raises:
        ConfigError: If the text is not YAML, or contains another type, a duplicate key, a key that is not text, an
            alias inside its own anchor, more than `MAX_NODES` nodes or more than `MAX_DEPTH` levels.
    """
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{source} is longer than {MAX_BYTES:,} characters, the limit of YAML.")
    try:
        return _own(yaml.load(text, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        raise ConfigError(f"{source} is not valid YAML{_place(error)}: {_one_line(_problem(error))}.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not valid YAML: {_one_line(error)}.") from error
    except (ValueError, OverflowError) as error:  # an escape such as "\UFFFFFFFF", which is not a character
        raise ConfigError(f"{source} is not valid YAML: {_one_line(error)}.") from error


class _Extent(NamedTuple):
    """The number of nodes and levels below an anchor."""

    nodes: int
    depth: int


class _Loader(yaml.SafeLoader):
    """A SafeLoader that accepts only `_TAGS` and checks sizes while it composes, before it expands aliases."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nodes = 0
        self._depth = 0
        self._extents: dict[int, _Extent] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            node = cast(yaml.Node, super().compose_node(parent, index))
            extent = self._extents.get(id(node))
            if extent is None:
                raise _error(event, f"the alias *{event.anchor} is inside its own anchor")
            self._count(event, extent)
            return node
        before = self._nodes
        self._count(event, _Extent(1, 1))
        self._depth += 1
        node = cast(yaml.Node, super().compose_node(parent, index))
        self._depth -= 1
        depth = 1 + max((self._extents[id(child)].depth for child in _children(node)), default=0)
        self._extents[id(node)] = _Extent(self._nodes - before, depth)
        return node

    def _count(self, event: yaml.Event, extent: _Extent) -> None:
        self._nodes += extent.nodes
        if self._nodes > MAX_NODES:
            raise _error(event, f"more than {MAX_NODES:,} values, aliases expanded")
        if self._depth + extent.depth > MAX_DEPTH:
            raise _error(event, f"more than {MAX_DEPTH} levels of nesting")

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag == _MERGE:
                continue
            if key.tag != _TEXT or not isinstance(key, yaml.ScalarNode):
                raise _error(key, f"the key {_start(key)} is not text: put it in quotes")
            if key.value in seen:
                raise _error(key, f"the key {_start(key)} is given twice: remove one")
            seen.add(key.value)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if node.tag not in _TAGS:
            raise _error(node, f"the type {node.tag[:60]!r} is not allowed")
        if node.tag not in _NUMBERS:
            return super().construct_object(node, deep)
        if len(node.value) > MAX_NUMBER_LENGTH:
            raise _error(node, f"the number {_start(node)} has more than {MAX_NUMBER_LENGTH} characters")
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, OverflowError) as error:  # raised by int(), float() and the tables of PyYAML
            kind = node.tag.removeprefix(_TAG)
            raise _error(node, f"expected a value of type {kind}, got {_start(node)}") from error


# Text that looks like a date stays text, so that an invalid date is not an error.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_TAG}timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _error(place: yaml.Event | yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=cast(yaml.Mark, place.start_mark))


def _start(node: yaml.Node) -> str:
    """Return the first characters of a scalar, or the kind of another node."""
    if not isinstance(node, yaml.ScalarNode):
        return f"({'mapping' if isinstance(node, yaml.MappingNode) else 'list'})"
    return repr(node.value if len(node.value) <= 40 else node.value[:40] + "…")


def _own(value: Any) -> Any:
    """Return a copy without shared parts, so that `--set gen.dim=8` does not change `dis` if both are one anchor."""
    if isinstance(value, dict):
        return {_checked(key): _own(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_own(inner) for inner in value]
    return _checked(value) if isinstance(value, str) else value


def _checked(text: str) -> str:
    text.encode()  # UnicodeEncodeError, a ValueError, for a lone surrogate (the escape "\uD800")
    return text


def _place(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    return f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""


def _problem(error: yaml.MarkedYAMLError) -> str:
    return ": ".join(part for part in (error.context, error.problem) if part)


def _one_line(message: object) -> str:
    text = " ".join(str(message).split())
    return text if len(text) <= _MAX_MESSAGE else text[:_MAX_MESSAGE] + " …"
