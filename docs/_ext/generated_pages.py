"""Pages whose text is made from the program: the commands by typer, the keys of a configuration by pydantic.

A page asks for a text by a line such as `% generated: commands`, which the text replaces.
"""

import re

from command_texts import commands_text
from key_texts import keys_text
from sphinx.application import Sphinx

_TEXTS = {"commands": commands_text, "keys": keys_text}


def setup(app: Sphinx) -> dict[str, bool]:
    """Replace the lines when a page is read."""
    app.connect("source-read", _replace)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _replace(app: Sphinx, name: str, source: list[str]) -> None:
    source[0] = re.sub(r"^% generated: (\w+)$", lambda match: _TEXTS[match[1]](), source[0], flags=re.MULTILINE)
