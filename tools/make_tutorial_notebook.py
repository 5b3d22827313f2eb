"""Write the notebook of the first tutorial, for Colab and Jupyter: docs/tutorials/first_translation.ipynb.

Usage: python tools/make_tutorial_notebook.py

The script of the tutorial is the source. The notebook has the same cells without outputs, and one more that installs
the package. Links to other pages become their paths in the repository, because Colab opens a notebook without the other
files of its folder. `tests/test_tutorials.py` compares the notebook with the script, and runs it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import jupytext
import nbformat
from nbformat.v4 import new_code_cell, new_notebook

ROOT = Path(__file__).resolve().parents[1]
TUTORIALS = ROOT / "docs" / "tutorials"
SCRIPT = TUTORIALS / "first_translation.py"
NOTEBOOK = SCRIPT.with_suffix(".ipynb")

CHECKOUT = "../.."
INSTALL = f"""\
# The package is installed from this folder, a checkout of its repository. In Colab, upload one and write its path here.
checkout = "{CHECKOUT}"
# Without this line, the kernels for CPU and GPU are compiled. That takes minutes and pays off for trainings.
%env FASTMUNIT_BUILD=0
%pip install --quiet {{checkout}}"""

_RELATIVE_LINK = re.compile(r"\[([^\]]+)\]\((?!https?:)([^)#\s]+)(?:#[^)\s]*)?\)")


def notebook(script: str) -> str:
    """Convert a script in the percent format to the JSON of a notebook that first installs the package."""
    title, *cells = jupytext.reads(script, fmt="py:percent").cells
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    result = new_notebook(
        cells=[title, new_code_cell(INSTALL), *cells],
        metadata={"kernelspec": kernel, "language_info": {"name": "python"}},
    )
    for number, cell in enumerate(result.cells):
        if cell.cell_type == "markdown":
            cell.source = with_paths(cell.source)
        cell.id = f"cell-{number}"  # nbformat makes random ones, which would change the file every time
        cell.metadata.clear()
    return nbformat.writes(result) + "\n"


def with_paths(markdown: str) -> str:
    """Replace relative links by their text and the path of the page in the repository."""

    def text_and_path(match: re.Match[str]) -> str:
        path = Path(os.path.normpath(TUTORIALS / match[2])).relative_to(ROOT)
        return f"{match[1]} (`{path.as_posix()}`)"

    return _RELATIVE_LINK.sub(text_and_path, markdown)


def main() -> None:
    """Run the command line."""
    NOTEBOOK.write_text(notebook(SCRIPT.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"Wrote {NOTEBOOK.name}.")


if __name__ == "__main__":
    main()
