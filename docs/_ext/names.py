"""Links for names in docstrings: `Config` in backticks becomes a link, and types of other packages link to their sites.

The addresses follow from the names, so a build needs no inventory from the network.
"""

import builtins
import re
import sys
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxRole

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(\(\))?")
_MARKUP = re.compile(r"(\*\*[^*\s][^*]*\*\*)|[|*]|(?<=\w)_(?!\w)")
_ATTRIBUTES = ("attribute", "data", "property")
_DOCUMENT = re.compile(r"(?<!`)\bdocs/([\w/]+)\.md\b")
_VERSION = 1
"""Raise it when the links of pages change: the next build reads all pages again."""
_PYTHON = "https://docs.python.org/3/library/"
_TORCH = "https://docs.pytorch.org/docs/stable/"
_TORCH_PAGES = {
    "Tensor": "tensors.html",
    "dtype": "tensor_attributes.html",
    "device": "tensor_attributes.html",
    "layout": "tensor_attributes.html",
    "memory_format": "tensor_attributes.html",
    "channels_last": "tensor_attributes.html#torch.memory_format",
    "contiguous_format": "tensor_attributes.html#torch.memory_format",
    "random.fork_rng": "random.html",
    "utils.data.Dataset": "data.html",
}
"""Pages of objects that have no page of their own, with an anchor if it is not their name."""
_PYTHON_PAGES = {
    "abc.ABC": "abc.html",
    "enum.Enum": "enum.html",
    "os.PathLike": "os.html",
    "pathlib.Path": "pathlib.html",
}


class Name(SphinxRole):
    """Text in single backticks: code, and a link if it names an object that the site documents."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Return a literal, inside a reference that may stay unresolved if the text can be a name."""
        literal = nodes.literal(self.rawtext, self.text, classes=["name"])
        if not _NAME.fullmatch(self.text) or not self._may_be_documented():
            return [literal], []
        reference = pending_xref("", literal, refdomain="py", reftype="obj", reftarget=self.text.removesuffix("()"))
        reference.attributes.update(refexplicit=False, refwarn=False, optional=True, refdoc=self.env.docname)
        reference.attributes.update({key: self.env.ref_context.get(key) for key in ("py:module", "py:class")})
        return [reference], []

    def _may_be_documented(self) -> bool:
        """Leave words such as `data` alone, which are arguments more often than modules."""
        module = sys.modules.get(self.env.ref_context.get("py:module") or "")
        return not isinstance(getattr(module, self.text, None), type(sys)) if "." not in self.text else True


def address(name: str) -> str | None:
    """Return where the object of another package is documented, or None."""
    name = {"Tensor": "torch.Tensor", "nn.Module": "torch.nn.Module", "Module": "torch.nn.Module"}.get(name, name)
    package, _, rest = name.partition(".")
    if not rest and hasattr(builtins, name):
        value = getattr(builtins, name)
        is_error = isinstance(value, type) and issubclass(value, BaseException)
        page = "exceptions" if is_error else "stdtypes" if isinstance(value, type) else "functions"
        return f"{_PYTHON}{'constants' if name == 'None' else page}.html#{name}"
    name = _public_name(name) if package == "torch" else name
    if "._" in name:  # a private object has no page
        return None
    if package == "torch":
        page = _TORCH_PAGES.get(name.removeprefix("torch."), f"generated/{name}.html")
        return _TORCH + (page if "#" in page else f"{page}#{name}")
    if package in ("numpy", "np"):
        return f"https://numpy.org/doc/stable/reference/generated/numpy.{rest}.html"
    if package == "torchvision":
        return "https://docs.pytorch.org/vision/stable/transforms.html"
    if package == "PIL":
        return "https://pillow.readthedocs.io/en/stable/reference/Image.html"
    if package in sys.stdlib_module_names and rest:
        return f"{_PYTHON}{_PYTHON_PAGES.get(name, name.rpartition('.')[0] + '.html')}#{name}"
    return None


def _public_name(name: str) -> str:
    """Return the shortest name of a class, such as torch.Generator for torch._C.Generator, which has no page."""
    module, _, last = name.rpartition(".")
    value = getattr(sys.modules.get(module), last, None)
    if not isinstance(value, type):
        return name
    parts = module.split(".")
    packages = [".".join(parts[: length + 1]) for length in range(len(parts))]
    return next(f"{package}.{last}" for package in packages if getattr(sys.modules[package], last, None) is value)


def _resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Node) -> nodes.Node | None:
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    uri = address(target)
    if uri:
        return nodes.reference("", "", content, internal=False, refuri=uri)
    return content if node.get("optional") else None


def _as_rest(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Escape what reStructuredText would take as markup in plain text, such as |x| and gen_, and link documents."""
    if what in _ATTRIBUTES:
        lines[:] = [line.replace(": ", "\1") for line in lines]
    is_code = False
    for index, line in enumerate(lines):
        is_code = line.lstrip().startswith(">>>") or (is_code and bool(line.strip()))
        if not is_code:
            cells = line.split("|") if line.startswith("|") else [line]
            lines[index] = "|".join(map(_escaped, cells))
    lines[:] = _with_tables(lines)


def _escaped(text: str) -> str:
    """Return a line without markup except for **bold text** and `names`."""
    parts = text.split("`")
    parts[::2] = [
        _MARKUP.sub(lambda match: match[1] or f"\\{match[0]}", _DOCUMENT.sub("\0\\1\0", part)) for part in parts[::2]
    ]
    return re.sub("\0(.*?)\0", r":doc:`/\1`", "`".join(parts))


def _restore_colons(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Put back the colons that napoleon would take as the end of a type."""
    lines[:] = [line.replace("\1", ": ") for line in lines]


def _with_tables(lines: list[str]) -> Iterator[str]:
    """Yield the lines of a docstring with its Markdown tables as lists that reStructuredText draws as tables."""
    for is_table, rows in groupby(lines, lambda line: line.startswith("|")):
        if is_table:
            yield from (".. list-table::", "   :header-rows: 1", "")
        for row in rows:
            if not is_table:
                yield row
            elif not row.startswith("|--"):
                first, *others = [cell.strip() for cell in row.strip("|").split("|")]
                yield f"   * - {first}"
                yield from (f"     - {cell}" for cell in others)
        if is_table:
            yield ""


def _is_left_out(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out the fields of named tuples without text: the Attributes of the class describe them."""
    return True if str(getattr(obj, "__doc__", "")).startswith("Alias for field number") else None


def setup(app: Sphinx) -> dict[str, int]:
    """Register the role, the addresses and the links to documents."""
    app.add_role("name", Name())
    app.connect("autodoc-skip-member", _is_left_out)
    app.connect("missing-reference", _resolve)
    app.connect("autodoc-process-docstring", _as_rest, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", _restore_colons, priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True, "env_version": _VERSION}
