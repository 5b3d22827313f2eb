"""Copies of the checkout, in which packaging is tested."""

import shutil
from pathlib import Path

ROOT = Path(__file__).parents[2]
IGNORED = shutil.ignore_patterns(
    ".git", "build", "_C.*", "__pycache__", "*.egg-info", ".*cache", ".hypothesis", ".venv*"
)
NOT_OF_THE_PACKAGE = {"dist", "runs"}


def copy_of_checkout(folder: Path) -> Path:
    """Return a copy without what git ignores and without git."""

    def ignore(path: str, names: list[str]) -> set[str]:
        return IGNORED(path, names) | (NOT_OF_THE_PACKAGE if Path(path) == ROOT else set())

    return Path(shutil.copytree(ROOT, folder / "checkout", ignore=ignore))
