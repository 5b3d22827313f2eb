"""HTML pages from the templates in `templates/`."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import datetime

from jinja2 import Environment, PackageLoader, StrictUndefined

_ENVIRONMENT = Environment(
    loader=PackageLoader("fastmunit.runs.reports"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_ENVIRONMENT.policies["json.dumps_kwargs"] = {"separators": (",", ":")}


@dataclass(frozen=True)
class Picture:
    """A picture in a page: its caption and its PNG or JPEG bytes."""

    caption: str
    data: bytes

    @property
    def url(self) -> str:
        """The picture as a data URL."""
        kind = "png" if self.data.startswith(b"\x89PNG") else "jpeg"
        return f"data:image/{kind};base64,{base64.b64encode(self.data).decode()}"


def render(template: str, **values: object) -> str:
    """Render a page that needs no other file and no network.

    Args:
        template: Name of a file in `templates/`. A page of its own extends base.html.j2, which takes `title`.
        values: Variables of the template. Text is escaped.
    """
    written = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
    return _ENVIRONMENT.get_template(template).render(written=written, **values)
