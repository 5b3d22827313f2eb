"""Links to files of the repository that are not part of the site.

A link to Python code leads to the reference if its text is a name that has an entry there, otherwise to its line on a
page with the source. Other links become the paths of the files.
"""

import os
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.roles import XRefRole

from tools import link_code

_LINK = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+[^)#\s]+)(?:#[^)\s]*)?\)")
_VERSION = 1
"""Raise it when the links of pages change: the next build reads all pages again."""
_FOLDER = "code"
"""The folder of the site with the pages of sources."""


def setup(app: Sphinx) -> dict[str, int]:
    """Replace the links when a page is read, and write the pages that they need."""
    app.add_role("source", XRefRole(innernodeclass=nodes.literal))
    app.connect("source-read", _replace)
    app.connect("missing-reference", _resolve)
    app.connect("html-collect-pages", _pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True, "env_version": _VERSION}


def _replace(app: Sphinx, name: str, source: list[str]) -> None:
    folder = (Path(app.srcdir) / name).parent
    root = Path(app.srcdir).parent

    def to_code(match: re.Match[str]) -> str:
        path = Path(os.path.normpath(folder / match[2]))
        if path.is_relative_to(app.srcdir):
            return match[0]
        app.env.note_dependency(path)  # the page is read again when lines move
        return f"{{source}}`{match[1]} <{path.relative_to(root).as_posix()}#L{_line(match[1], path)}>`"

    def to_path(match: re.Match[str]) -> str:
        path = Path(os.path.normpath(folder / match[2]))
        return match[0] if path.is_relative_to(app.srcdir) else f"`{path.relative_to(root).as_posix()}`"

    source[0] = _LINK.sub(to_path, link_code.LINK.sub(to_code, source[0]))


def _line(text: str, path: Path) -> int:
    code = path.read_text(encoding="utf-8")
    return link_code.definition(text, code) if link_code.is_name(text) else link_code.lines_of(text, code)[0]


def _resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element) -> nodes.Node | None:
    if node["reftype"] != "source":
        return None
    path, _, line = node["reftarget"].partition("#")
    module = path.removesuffix(".py")
    if link_code.is_name(content.astext()):
        name = f"{module.replace('/', '.')}.{content.astext()}"
        entry = env.get_domain("py").resolve_xref(env, node["refdoc"], app.builder, "obj", name, node, content)
        if entry is not None:
            return entry
    uri = app.builder.get_relative_uri(node["refdoc"], f"{_FOLDER}/{module}")
    return nodes.reference("", "", content, internal=True, refuri=f"{uri}#{line}", reftitle=path)


def _pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield a page per Python file that a document links to."""
    srcdir = Path(app.srcdir)
    documents = [Path(app.env.doc2path(name)) for name in app.env.found_docs]
    linked = {
        Path(os.path.normpath(document.parent / path))
        for document in documents
        for _, path, _ in link_code.LINK.findall(document.read_text(encoding="utf-8"))
    }
    for path in sorted(path for path in linked if not path.is_relative_to(srcdir)):
        name = path.relative_to(srcdir.parent).as_posix()
        context = {"parents": [], "title": name, "body": _body(name, path.read_text(encoding="utf-8"))}
        yield f"{_FOLDER}/{name.removesuffix('.py')}", context, "page.html"


def _body(name: str, source: str) -> str:
    """Return a source text as HTML with a number and an anchor per line."""
    lines = highlight(source, PythonLexer(stripnl=False), HtmlFormatter(nowrap=True)).splitlines()
    width = len(str(len(lines)))
    numbered = (
        f'<span id="L{number}"><span class="linenos">{number:{width}}</span>{line}\n</span>'
        for number, line in enumerate(lines, start=1)
    )
    block = f'<div class="highlight"><pre>{"".join(numbered)}</pre></div>'
    return f'<h1><code>{escape(name)}</code></h1><div class="highlight-python notranslate">{block}</div>'
