"""The reference of the keys of a configuration as Markdown, from the pydantic models."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

_LARGE = 10**9  # limits that no user meets
_GROUPS = {
    "system": "The system",
    "image_save_iter": "Logs, sample grids and checkpoints",
    "max_iter": "Optimization",
    "gan_w": "Weights of the losses",
    "gen": "Networks",
    "input_dim_a": "Images",
    "value_range_a": "Stored values, slides and volumes",
    "eval_iter": "Evaluations during a training",
    "seed": "Precision, speed and memory",
    "lr_dis": "Small data and short trainings",
}
"""Titles of the groups of keys, each at its first key."""


def keys_text() -> str:
    """Return a section per group of keys and one per system with options: type, default and meaning of each key."""
    from fastmunit.config import Config
    from fastmunit.systems import registry

    return "\n".join([*_sections(Config), *_options(registry)])


def _sections(config: type[BaseModel]) -> Iterator[str]:
    schema = config.model_json_schema()
    for key, field in config.model_fields.items():
        if key in _GROUPS:
            yield f"## {_GROUPS[key]}\n"
        part = field.annotation
        if isinstance(part, type) and issubclass(part, BaseModel):
            for name in part.model_fields:
                yield _key_text(f"{key}.{name}", part.model_json_schema()["properties"][name], part, name)
        else:
            yield _key_text(key, schema["properties"][key], config, key)


def _options(registry: Any) -> Iterator[str]:
    for system in registry.names():
        options = registry.system_named(system).Options
        if options.model_fields:
            yield f"## Options of {system}\n"
            yield f"Keys below `options:`, with `system: {system}`.\n"
            for name in options.model_fields:
                properties = options.model_json_schema()["properties"]
                yield _key_text(f"{system}.options.{name}", properties[name], options, name)


def _key_text(title: str, schema: Mapping[str, Any], model: type[BaseModel], name: str) -> str:
    default = model.model_fields[name].get_default(call_default_factory=True)
    text = schema["description"][:1].upper() + schema["description"][1:].rstrip(".") + "."
    shown = "not set" if default is None else f"`{str(default).lower() if isinstance(default, bool) else default}`"
    return f"````{{confval}} {title}\n:type: {type_text(schema)}\n:default: {shown}\n\n{text}\n````\n"


def type_text(schema: Mapping[str, Any]) -> str:
    """Return a type of JSON Schema in words."""
    if "anyOf" in schema:
        parts = [type_text(part) for part in schema["anyOf"] if part.get("type") != "null"]
        return " or ".join(parts)
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        *names, last = [f"`{value}`" for value in schema["enum"]]
        return f"{', '.join(names)} or {last}" if names else last
    if schema["type"] == "array":
        return f"list of {type_text(schema['items'])}s".replace("ss", "s")
    words = {"integer": "whole number", "object": "mapping", "string": "text", "boolean": "`true` or `false`"}
    limits = [
        f"{word} {schema[limit]}"
        for limit, word in (
            ("minimum", "at least"),
            ("exclusiveMinimum", "more than"),
            ("maximum", "at most"),
            ("exclusiveMaximum", "less than"),
        )
        if limit in schema and schema[limit] < _LARGE
    ]
    return ", ".join([words.get(schema["type"], schema["type"]), *limits])
