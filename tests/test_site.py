"""The documentation site leaves out no page, no public name, no command and no key. `make docs` builds it."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.utils.data
import typer

import fastmunit
from fastmunit.cli.app import app
from fastmunit.config import Config

DOCS = Path(__file__).parents[1] / "docs"
PAGES = {path.relative_to(DOCS).with_suffix("").as_posix(): path for path in DOCS.rglob("*.md")}
TUTORIALS = {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.glob("tutorials/*.py")}
API = "\n".join(path.read_text(encoding="utf-8") for path in (DOCS / "reference/api").glob("*.md"))
MODULES = ["data", "distributed", "functional", "info", "runs", "styles", "testing"]


@pytest.fixture
def extensions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(DOCS / "_ext"), *sys.path])


def entries(page: str) -> list[str]:
    """Return the pages that the tables of contents of a page name."""
    blocks = re.findall(r"```\{toctree\}\n(.*?)```", PAGES[page].read_text(encoding="utf-8"), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [(Path(page).parent / line).as_posix() for line in lines if line and not line.startswith(":")]


def test_every_page_can_be_reached() -> None:
    reached, ahead = set[str](), ["index"]
    while ahead:
        page = ahead.pop()
        reached.add(page)
        ahead += [entry for entry in entries(page) if entry not in reached] if page in PAGES else []
    assert reached == {*PAGES, *TUTORIALS}


def test_every_public_name_is_on_a_page_of_the_api() -> None:
    for name in set(fastmunit.__all__) - {"__version__"}:
        assert re.search(rf"::? fastmunit\.{name}\b", API), f"no page of docs/reference/api has fastmunit.{name}"
    for name in MODULES:
        assert f".. automodule:: fastmunit.{name}\n" in API
        for public in importlib.import_module(f"fastmunit.{name}").__all__:
            assert hasattr(importlib.import_module(f"fastmunit.{name}"), public)


def test_names_on_pages_of_the_api_exist() -> None:
    for kind, name in re.findall(r"\.\. auto(module|class|function):: ([\w.]+)", API):
        if kind == "module":
            importlib.import_module(name)
        else:
            module, _, attribute = name.rpartition(".")
            assert callable(getattr(importlib.import_module(module), attribute)), name


def test_every_command_and_option_is_described(extensions: None) -> None:
    from command_texts import commands_text

    text = commands_text()
    for name, command in typer.main.get_command(app).commands.items():
        section = text.split(f"\n## fastmunit {name}\n", 1)[1].split("\n## ")[0]
        for parameter in command.params:
            is_argument = parameter.param_type_name == "argument"
            shown = parameter.metavar if is_argument and parameter.metavar else max(parameter.opts, key=len)
            assert re.search(rf"\{{option\}}.*{re.escape(shown)}\b", section, re.IGNORECASE), (name, shown)
        for part in getattr(command, "commands", ()):
            assert f"\n### fastmunit {name} {part}\n" in section


def test_every_key_is_described(extensions: None) -> None:
    from key_texts import keys_text

    text = keys_text()
    assert text.startswith("## ")
    for key in set(Config.model_fields) - {"gen", "dis"}:
        assert f"{{confval}} {key}\n" in text
    for key in ("gen.dim", "dis.num_scales", "cyclegan.options.pool_size", "bicyclegan.options.dropout"):
        assert f"{{confval}} {key}\n" in text
    assert "{confval} batch_size\n:type: whole number, more than 0, at most 65536\n:default: `1`\n" in text
    assert "{confval} lr_policy\n:type: `constant`, `step` or `linear`\n" in text


@pytest.mark.parametrize(
    ("name", "page"),
    [
        ("torch._C.Generator", "generated/torch.Generator.html#torch.Generator"),
        ("torch.nn.modules.module.Module", "generated/torch.nn.Module.html#torch.nn.Module"),
        ("torch.utils.data.dataset.Dataset", "data.html#torch.utils.data.Dataset"),
        ("torch.channels_last", "tensor_attributes.html#torch.memory_format"),
        ("torch.contiguous_format", "tensor_attributes.html#torch.memory_format"),
        ("torch.nn.functional.pixel_shuffle", "generated/torch.nn.functional.pixel_shuffle.html#{name}"),
        ("Tensor", "tensors.html#torch.Tensor"),
    ],
)
def test_addresses_of_torch_have_public_names(extensions: None, name: str, page: str) -> None:
    pytest.importorskip("sphinx", reason="the site needs Sphinx")
    from names import address

    assert address(name) == "https://docs.pytorch.org/docs/stable/" + page.format(name=name)


def test_no_address_of_torch_has_an_internal_module(extensions: None) -> None:
    """Hints of types name classes by the modules that define them."""
    pytest.importorskip("sphinx", reason="the site needs Sphinx")
    from internal_links import _INTERNAL
    from names import address

    for module in (torch, torch.nn, torch.utils.data):
        for cls in {value for value in vars(module).values() if isinstance(value, type)}:
            name = f"{cls.__module__}.{cls.__qualname__}"
            if cls.__module__.startswith("torch.") and getattr(module, cls.__name__, None) is cls:
                assert not _INTERNAL.search(address(name) or ""), name
    assert address("numpy._typing._dtype_like._DTypeDict") is None


def built(folder: Path) -> str:
    """Build a site in a process of its own, which has not imported the package, and return its page."""
    command = [sys.executable, "-m", "sphinx", "-W", "--quiet", "-b", "html", "docs", "build"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return (folder / "build/concepts/page.html").read_text(encoding="utf-8")


def test_links_to_code_lead_to_its_line_also_when_a_site_is_built_again(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason="the site needs Sphinx")
    pytest.importorskip("myst_parser", reason="the site needs MyST")
    pages = tmp_path / "docs" / "concepts"
    pages.mkdir(parents=True)
    paths = [str(DOCS / "_ext"), str(DOCS.parent)]
    (tmp_path / "docs/conf.py").write_text(
        f"import sys\nsys.path[:0] = {paths}\nextensions = ['myst_parser', 'repository_links']\nhtml_theme = 'basic'\n",
        encoding="utf-8",
    )
    (tmp_path / "docs/index.md").write_text("# Start\n\n```{toctree}\nconcepts/page\n```\n", encoding="utf-8")
    code = tmp_path / "fastmunit/systems/system.py"
    code.parent.mkdir(parents=True)
    code.write_text("class System:\n    def terms(self):\n        return L1(x, y)\n", encoding="utf-8")
    link = "(../../fastmunit/systems/system.py)"
    page = pages / "page.md"
    page.write_text(f"# Page\n\n[`System.terms`]{link} and [`L1(x, y)`]{link}\n", encoding="utf-8")

    first = built(tmp_path)
    assert 'href="../code/fastmunit/systems/system.html#L2"' in first
    assert 'href="../code/fastmunit/systems/system.html#L3"' in first
    source = (tmp_path / "build/code/fastmunit/systems/system.html").read_text(encoding="utf-8")
    assert re.search(r'<span id="L3"><span class="linenos">3</span>.*<span class="k">return</span>', source)

    page.write_text(page.read_text(encoding="utf-8") + "\nMore text.\n", encoding="utf-8")
    assert re.findall(r"system.html#L\d", built(tmp_path)) == ["system.html#L2", "system.html#L3"]

    code.write_text('"""A docstring."""\n' + code.read_text(encoding="utf-8"), encoding="utf-8")
    assert re.findall(r"system.html#L\d", built(tmp_path)) == ["system.html#L3", "system.html#L4"]
