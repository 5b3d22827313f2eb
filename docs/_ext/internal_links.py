"""Check of the built pages: links and pictures of the site lead to a file of it, and anchors exist.

Links to other sites are not followed. But they must not name an internal module, such as torch._C.Generator, which no
site documents.
"""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sphinx.application import Sphinx
from sphinx.util import logging

_INTERNAL = re.compile(r"\._[A-Za-z]|/torch\.nn\.modules\.|\.dataset\.")
_log = logging.getLogger(__name__)


class Page(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a tag refers to and what it is called."""
        values = {name: value for name, value in attrs if value}
        self.anchors.update(values[name] for name in ("id", "name") if name in values)
        self.links.update(values[name] for name in ("href", "src") if name in values)


def broken_links(folder: Path) -> list[tuple[Path, str]]:
    """Return each page of a built site with its links that lead nowhere."""
    pages = {path.resolve(): Page(path) for path in folder.rglob("*.html") if "_static" not in path.parts}
    broken = []
    for path, page in sorted(pages.items()):
        if "_modules" in path.parts:  # viewcode takes all names of a module to be documented under one other module
            continue
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if _INTERNAL.search(link):
                    broken.append((path, link))
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            known = pages[target].anchors if target in pages else None
            missing_anchor = parts.fragment and known is not None and unquote(parts.fragment) not in known
            if not target.exists() or missing_anchor:
                broken.append((path, link))
    return broken


def _check(app: Sphinx, exception: Exception | None) -> None:
    if exception is None and app.builder.format == "html":
        for page, link in broken_links(Path(app.outdir)):
            _log.warning("%s has a broken link: %s", page.relative_to(Path(app.outdir).resolve()), link)


def setup(app: Sphinx) -> dict[str, bool]:
    """Check links at the end of a build."""
    app.connect("build-finished", _check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
