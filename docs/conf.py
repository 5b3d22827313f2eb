"""Settings of the documentation site: `make docs` builds it into build/docs, without the network."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent / "_ext"), str(Path(__file__).parents[1])]

import fastmunit
import fastmunit.serving.app  # autodoc imports with TYPE_CHECKING set, which FastAPI does not stand

project = "fastmunit"
copyright = "the fastmunit contributors"
release = version = fastmunit.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.doctest",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "generated_pages",
    "internal_links",
    "math_as_mathml",
    "names",
    "repository_links",
]
exclude_patterns = ["_ext", "conf.py", "tutorials/*.ipynb"]
smartquotes = False

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath", "fieldlist", "html_image"]
myst_heading_anchors = 4

nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "force"
nb_execution_timeout = 120
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_merge_streams = True

autoclass_content = "class"
autodoc_default_options = {"members": True, "show-inheritance": True, "member-order": "bysource"}
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_inherit_docstrings = False
autosummary_generate = False
napoleon_numpy_docstring = False
napoleon_use_ivar = True
default_role = "name"
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

doctest_global_setup = "import torch\n\nimport fastmunit"

html_theme = "furo"
html_title = "fastmunit " + release.partition("+")[0]  # without the commit, which has no place to break
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
copybutton_exclude = ".linenos, .gp, .go"
