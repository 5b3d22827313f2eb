"""Write the lines into links to code. The text of such a link is code, and its lines are those where that code is.

    [`L1(x_a_recon, x_a)`](../../fastmunit/systems/munit.py#L12)

The text must be in the file exactly once; spaces and line breaks do not count. A link whose text is a name, such as
`ContentEncoder`, has no lines. A test and the documentation site use the same functions, so no line can go stale.

Usage: python -m tools.link_code; it rewrites the documents in docs/.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\[`([^`\n]+)`\]\(((?:\.\./)+[^)#\s]+\.py)(#[^)\s]*)?\)")
"""A link to a Python file of the repository: its text, the path, and the part that names lines."""
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_TOKEN = re.compile(r"\w+|[^\w\s]")


def lines_of(text: str, source: str) -> tuple[int, int]:
    """Return the first and the last line of a statement or expression in a source text.

    Raises:
        ValueError: If it is not there, or more than once.
    """
    tokens = _TOKEN.findall(text)
    pattern = r"\s*".join(map(re.escape, tokens))
    pattern = (r"\b" if re.match(r"\w", tokens[0]) else "") + pattern + (r"\b" if re.match(r"\w", tokens[-1]) else "")
    places = [*re.finditer(pattern, source)]
    if len(places) != 1:
        raise ValueError(f"`{text}` is there {len(places)} times: give the link a text that is there once.")
    start, end = places[0].span()
    return source.count("\n", 0, start) + 1, source.count("\n", 0, end) + 1


def definition(name: str, source: str) -> int:
    """Return the line where a source text defines a class, a function or a method such as `MUNIT.draw`.

    Raises:
        ValueError: If it does not.
    """
    node: ast.AST = ast.parse(source)
    for part in name.split("."):
        body = getattr(node, "body", [])
        found = [child for child in body if getattr(child, "name", None) == part]
        if not found:
            raise ValueError(f"`{name}` is not defined there.")
        node = found[-1]
    return int(getattr(node, "lineno", 1))


def is_name(text: str) -> bool:
    """Return True if the text of a link is the name of an object, and False if it is a piece of code."""
    return _NAME.fullmatch(text) is not None


def fragment(text: str, path: Path) -> str:
    """Return what follows the path in a link with this text: nothing for a name, otherwise the lines.

    Raises:
        ValueError: If the file does not have the code exactly once.
    """
    if is_name(text):
        return ""
    try:
        first, last = lines_of(text, path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return f"#L{first}" if first == last else f"#L{first}-L{last}"


def with_lines(text: str, folder: Path) -> str:
    """Return the text of a document in a folder with the right lines in its links to code."""
    return LINK.sub(lambda link: f"[`{link[1]}`]({link[2]}{fragment(link[1], folder / link[2])})", text)


def documents() -> list[Path]:
    """Return the documents that may have such links."""
    return sorted((ROOT / "docs").rglob("*.md"))


def main() -> None:
    """Rewrite the documents."""
    for path in documents():
        text = path.read_text(encoding="utf-8")
        changed = with_lines(text, path.parent)
        if changed != text:
            path.write_text(changed, encoding="utf-8")
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
