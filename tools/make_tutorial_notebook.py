"""Write the notebook of the first tutorial, for Colab and Jupyter: docs/tutorials/first_translation.ipynb.

Usage: python tools/make_tutorial_notebook.py

The script of the tutorial is the source. The notebook has the same cells without outputs, and one more that installs
the package. `tests/test_tutorials.py` compares the notebook with the script.
"""

from __future__ import annotations

from pathlib import Path

import jupytext
import nbformat
from nbformat.v4 import new_code_cell, new_notebook

TUTORIALS = Path(__file__).resolve().parents[1] / "docs" / "tutorials"
SCRIPT = TUTORIALS / "first_translation.py"
NOTEBOOK = SCRIPT.with_suffix(".ipynb")

INSTALL = """\
# Without this line, the kernels for CPU and GPU are compiled. That takes minutes and pays off for trainings.
%env FASTMUNIT_BUILD=0
%pip install --quiet fastmunit"""


def notebook(script: str) -> str:
    """Convert a script in the percent format to the JSON of a notebook that first installs the package."""
    title, *cells = jupytext.reads(script, fmt="py:percent").cells
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    result = new_notebook(
        cells=[title, new_code_cell(INSTALL), *cells],
        metadata={"kernelspec": kernel, "language_info": {"name": "python"}},
    )
    for number, cell in enumerate(result.cells):
        cell.id = f"cell-{number}"  # nbformat makes random ones, which would change the file every time
        cell.metadata.clear()
    return nbformat.writes(result) + "\n"


def main() -> None:
    """Run the command line."""
    NOTEBOOK.write_text(notebook(SCRIPT.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"Wrote {NOTEBOOK.name}.")


if __name__ == "__main__":
    main()
