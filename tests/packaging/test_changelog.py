"""CHANGELOG.md has the form that keepachangelog.com describes, and CITATION.cff is about its latest release."""

import re
import shutil
from pathlib import Path

import pytest
import yaml

from tools.release.cut import main, releases

ROOT = Path(__file__).parents[2]
CHANGELOG = """# Changelog

Introduction. There has been no release yet.

## [Unreleased]

### Added

- One.

### Fixed

- Two.
"""


def check_citation(root: Path) -> None:
    citation = yaml.safe_load((root / "CITATION.cff").read_text("utf-8"))
    published = releases((root / "CHANGELOG.md").read_text("utf-8"))
    expected = published[0] if published else (None, None)
    assert (citation.get("version"), citation.get("date-released")) == tuple(expected)


def test_changelog_and_citation_agree() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert bool(releases(text)) != ("There has been no release yet." in text)
    check_citation(ROOT)


def test_citation_and_project_agree() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    assert citation["cff-version"] == "1.2.0"
    assert f'license = "{citation["license"]}"' in project
    assert citation["title"].startswith("fastmunit: ")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "CITATION.cff", tmp_path)
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    return tmp_path


def test_releases_are_cut_one_after_the_other(root: Path) -> None:
    main(["0.1.0"], root)
    first = (root / "CHANGELOG.md").read_text()
    assert re.search(r"no release yet", first) is None
    assert re.search(r"## \[Unreleased\]\n\n## \[0.1.0\] - \d{4}-\d\d-\d\d\n\n### Added\n\n- One.\n", first)
    check_citation(root)
    with pytest.raises(SystemExit, match="nothing is listed under"):
        main(["0.2.0"], root)
    links = "\n[Unreleased]: https://example.org/f/compare/v0.1.0...HEAD\n[0.1.0]: https://example.org/f/releases/tag/v0.1.0\n"
    later = first.replace("## [Unreleased]\n", "## [Unreleased]\n\n### Changed\n\n- Three.\n") + links
    (root / "CHANGELOG.md").write_text(later)
    with pytest.raises(SystemExit, match=r"expected a version after 0\.1\.0, got 0\.0\.9"):
        main(["0.0.9"], root)
    main(["0.2.0"], root)
    second = (root / "CHANGELOG.md").read_text()
    assert "[Unreleased]: https://example.org/f/compare/v0.2.0...HEAD\n" in second
    assert "[0.2.0]: https://example.org/f/compare/v0.1.0...v0.2.0\n" in second
    assert [release.version for release in releases(second)] == ["0.2.0", "0.1.0"]
    check_citation(root)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("## [Unreleased]\n", "", "expected the headings"),
        ("### Added", "### New", "at most once, in this order"),
        ("### Added", "### Security", "at most once, in this order"),
        ("### Fixed", "### Added", "at most once, in this order"),
        ("- Two.\n", "\n", "nothing is listed under Fixed"),
        ("- Two.\n", "- Two.\n\n## 0.1.0\n", "expected a heading such as"),
        ("- Two.\n", "- Two.\n\n## [0.1] - 2026-01-01\n", "expected a version such as"),
        ("- Two.\n", "- Two.\n\n## [0.1.0] - 2026-01-02\n\n## [0.2.0] - 2026-01-01\n", "is above 0.2.0, but not newer"),
        ("- Two.\n", "- Two.\n\n## [0.2.0] - 2026-01-01\n\n## [0.1.0] - 2026-01-02\n", "is above 0.1.0, but not newer"),
        ("- Two.\n", "- Two.\n\n## [0.1.0] - 2026-01-02\n\n[0.1.0]: https://example.org\n", "expected a link for each"),
    ],
)
def test_faults_are_named(old: str, new: str, message: str) -> None:
    assert releases(CHANGELOG) == []
    with pytest.raises(SystemExit, match=message):
        releases(CHANGELOG.replace(old, new))
