"""Start a release: move what CHANGELOG.md has under "Unreleased" to a section of its own, and date CITATION.cff.

Usage: python tools/release/cut.py X.Y.Z

Both files are only changed if the changelog has the form that keepachangelog.com describes. docs/project/releasing.md
has the other steps of a release.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
FIRST = " There has been no release yet."
"""Part of the changelog's introduction before the first release."""


class Release(NamedTuple):
    """A section of the changelog that has a version."""

    version: str
    date: datetime.date


def _number(version: str) -> tuple[int, ...]:
    if not re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}", version):
        raise SystemExit(f"expected a version such as 0.1.0, got {version!r}")
    return tuple(map(int, version.split(".")))


def _check_kinds(name: str, body: str) -> None:
    before, *parts = re.split(r"^### (.*)$", body, flags=re.MULTILINE)
    kinds, texts = parts[::2], parts[1::2]
    if before.strip():
        raise SystemExit(f"CHANGELOG.md: {name}: text before the first ### heading")
    if kinds != [kind for kind in KINDS if kind in kinds]:
        raise SystemExit(
            f"CHANGELOG.md: {name}: expected each of {', '.join(KINDS)} at most once, in this order, got {kinds}"
        )
    for kind, text in zip(kinds, texts, strict=True):
        if not re.search(r"^- \S", text, re.MULTILINE):
            raise SystemExit(f"CHANGELOG.md: {name}: nothing is listed under {kind}")


def releases(changelog: str) -> list[Release]:
    """Return the releases of a changelog, the newest first, after a check of its form."""
    definitions = re.findall(r"^\[([^\]]+)\]: https://\S+$", changelog, re.MULTILINE)
    body = re.sub(r"^\[[^\]]+\]: https://\S+$", "", changelog, flags=re.MULTILINE)
    head, *parts = re.split(r"^## (.*)$", body, flags=re.MULTILINE)
    headings, texts = parts[::2], parts[1::2]
    if not head.startswith("# Changelog\n") or headings[:1] != ["[Unreleased]"]:
        raise SystemExit("CHANGELOG.md: expected the headings '# Changelog' and '## [Unreleased]' at the top")
    found = []
    for heading in headings[1:]:
        match = re.fullmatch(r"\[(\S+)\] - (\d{4}-\d\d-\d\d)", heading)
        if match is None:
            raise SystemExit(f"CHANGELOG.md: expected a heading such as '## [0.1.0] - 2026-12-01', got '## {heading}'")
        _number(match[1])
        found.append(Release(match[1], datetime.date.fromisoformat(match[2])))
    for newer, older in itertools.pairwise(found):
        if _number(newer.version) <= _number(older.version) or newer.date < older.date:
            raise SystemExit(f"CHANGELOG.md: {newer.version} is above {older.version}, but not newer")
    for heading, text in zip(headings, texts, strict=True):
        _check_kinds(heading, text)
    if definitions and definitions != ["Unreleased", *(release.version for release in found)]:
        raise SystemExit(
            f"CHANGELOG.md: expected a link for each version in the order of the sections, got {definitions}"
        )
    return found


def cut(changelog: str, version: str, date: datetime.date) -> str:
    """Return the changelog with a section `version` of all that was unreleased."""
    earlier = releases(changelog)
    if earlier and _number(version) <= _number(earlier[0].version):
        raise SystemExit(f"expected a version after {earlier[0].version}, got {version}")
    _number(version)
    _, _, rest = changelog.partition("## [Unreleased]\n")
    if not rest.lstrip().startswith("### "):
        raise SystemExit("CHANGELOG.md: nothing is listed under [Unreleased]")
    result = changelog.replace("## [Unreleased]\n", f"## [Unreleased]\n\n## [{version}] - {date}\n", 1).replace(
        FIRST, "", 1
    )
    if address := re.search(r"^\[Unreleased\]: (https://\S+)/compare/\S+$", result, re.MULTILINE):
        tags = f"v{earlier[0].version}...v{version}" if earlier else None
        link = f"{address[1]}/compare/{tags}" if tags else f"{address[1]}/releases/tag/v{version}"
        result = result.replace(
            address[0], f"[Unreleased]: {address[1]}/compare/v{version}...HEAD\n[{version}]: {link}", 1
        )
    releases(result)
    return result


def cite(citation: str, version: str, date: datetime.date) -> str:
    """Return CITATION.cff with a version and its date."""
    kept = re.sub(r"^(version|date-released): .*\n", "", citation, flags=re.MULTILINE)
    return re.sub(
        r"^license: ", f"version: {version}\ndate-released: {date}\nlicense: ", kept, count=1, flags=re.MULTILINE
    )


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version", help="X.Y.Z")
    version = parser.parse_args(arguments).version
    date = datetime.datetime.now(datetime.timezone.utc).date()
    changelog, citation = root / "CHANGELOG.md", root / "CITATION.cff"
    texts = cut(changelog.read_text("utf-8"), version, date), cite(citation.read_text("utf-8"), version, date)
    for path, text in zip((changelog, citation), texts, strict=True):
        path.write_text(text, encoding="utf-8")
    print(
        f"CHANGELOG.md and CITATION.cff are those of {version}. Review and commit them, then tag the commit v{version}."
    )


if __name__ == "__main__":
    main()
