"""The documentation of the server's requests as one HTML page, which loads nothing from other hosts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

_HEAD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
  :root {{ color-scheme: light dark; }}
  body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem; }}
  table {{ border-collapse: collapse; width: 100%; }}
  th, td {{ text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; border-top: 1px solid #8884; }}
</style>
<h1>{title}</h1>
<p>{description} The machine-readable description is <a href="openapi.json">openapi.json</a>.</p>
"""


def docs_page(schema: Mapping[str, Any]) -> str:
    """Return the page for an OpenAPI description."""
    info = {key: escape(str(schema["info"][key])) for key in ("title", "description")}
    return _HEAD.format(**info) + "".join(
        _operation(schema, method, path, operation)
        for path, operations in schema["paths"].items()
        for method, operation in operations.items()
    )


def _operation(schema: Mapping[str, Any], method: str, path: str, operation: Mapping[str, Any]) -> str:
    fields = "".join(_row(*field) for field in _fields(schema, operation))
    answers = "".join(_row(status, answer["description"]) for status, answer in operation["responses"].items())
    return (
        f"<h2>{method.upper()} {escape(path)}</h2><p>{escape(operation.get('description', ''))}</p>"
        + (f"<table><tr><th>Field<th>Values<th>Description</tr>{fields}</table>" if fields else "")
        + f"<table><tr><th>Status<th>Answer</tr>{answers}</table>\n"
    )


def _fields(schema: Mapping[str, Any], operation: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield name, values and description of each parameter and each field of the form."""
    for parameter in operation.get("parameters", ()):
        yield parameter["name"], _values(parameter["schema"]), parameter.get("description", "")
    for content in operation.get("requestBody", {}).get("content", {}).values():
        form = schema["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
        for name, field in form["properties"].items():
            required = "Required. " if name in form.get("required", ()) else ""
            yield name, _values(field), required + field.get("description", "")


def _values(field: Mapping[str, Any]) -> str:
    for option in field.get("anyOf", ()):
        return _values(option)  # the others are null
    if "enum" in field:
        return " or ".join(field["enum"])
    return "file" if "contentMediaType" in field else str(field.get("type", ""))


def _row(*cells: str) -> str:
    return f"<tr>{''.join(f'<td>{escape(cell)}' for cell in cells)}</tr>"
