"""Links and paths in the documents lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path for pattern in ("*.md", "docs/**/*.md", "docs/tutorials/*.py", "tests/**/*.md") for path in ROOT.glob(pattern)
)
SOURCES = [
    path
    for folder in ("bench", "csrc", "docs", "examples", "fastmunit", "kernels", "tests", "tools")
    for path in (ROOT / folder).rglob("*.*")
]


def text_of(path: Path) -> str:
    """Return a document without its code blocks."""
    return re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings, as hosting platforms make them."""
    headings = re.findall(r"^#+ (.+)$", text_of(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_resolve(document: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(document)):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), link
        if target.suffix == ".py" and anchor:  # tests/test_link_code.py checks the lines
            assert re.fullmatch(r"L\d+(-L\d+)?", anchor), link
        else:
            assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_paths_of_sources_exist(document: Path) -> None:
    """The changelog and the guides also name files of earlier versions, and files that a reader will add."""
    if document.name == "CHANGELOG.md" or document.name.startswith("adding_"):
        pytest.skip("it names files that need not exist")
    files = {path.as_posix() for path in SOURCES}
    for path in re.findall(r"`((?:\w+/)+\w+\.(?:cpp|cuh?|h|md|py|yaml))`", text_of(document)):
        assert "brightness" in path or any(file.endswith(f"/{path}") for file in files), path
