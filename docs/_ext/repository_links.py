"""Links to files of the repository that are not part of the site.

They become links to the reference if they name a class or function, otherwise the paths of these files.
"""

import os
import re
from pathlib import Path

from sphinx.application import Sphinx

_LINK = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+[^)#\s]+)(?:#[^)\s]*)?\)")
_NAME = re.compile(r"`[A-Za-z_]\w*(\.\w+)*`")


def setup(app: Sphinx) -> dict[str, bool]:
    """Replace the links when a page is read."""
    app.connect("source-read", _replace)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _replace(app: Sphinx, name: str, source: list[str]) -> None:
    folder = (Path(app.srcdir) / name).parent
    root = Path(app.srcdir).parent

    def path_or_link(match: re.Match[str]) -> str:
        target = Path(os.path.normpath(folder / match[2]))
        if target.is_relative_to(app.srcdir):
            return match[0]
        path = target.relative_to(root)
        if path.suffix == ".py" and _NAME.fullmatch(match[1]):
            return f"{{py:obj}}`{match[1].strip('`')} <{'.'.join(path.with_suffix('').parts)}.{match[1].strip('`')}>`"
        return f"`{path}`"

    source[0] = _LINK.sub(path_or_link, source[0])
