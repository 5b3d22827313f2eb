"""Who may import whom, and what importing does not do."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fastmunit"

# The layers that each layer may import, besides itself. Some are single files.
LEAVES = {
    "errors",
    "files",
    "memory",
    "region",
    "distributed",
    "config",
    "section",
    "yaml_file",
    "info",
    "fused_norm_options",
}
LAYERS = {
    "__main__": {"cli"},
    "cli": {
        "translation",
        "styles",
        "conversion",
        "export",
        "page",
        "serving",
        "runs",
        "planning",
        "metrics",
        "data",
        "systems",
        "nn",
        "functional",
    }
    | LEAVES,
    "conversion": {"translation", "runs", "systems", "nn"} | LEAVES,
    "out_of_core": {"systems", "nn", "functional"} | LEAVES,
    "page": {"export", "translation", "data", "systems"} | LEAVES,
    "planning": {"data", "systems", "ops"} | LEAVES,
    "serving": {"page", "translation", "runs", "data", "systems"} | LEAVES,
    "translation": {"export", "out_of_core", "runs", "planning", "data", "systems", "model_folder", "image_files"}
    | LEAVES,
    "export": {"data", "systems", "model_folder", "nn", "functional"} | LEAVES,
    "runs": {"data", "systems", "nn", "functional", "metrics", "model_folder"} | LEAVES,
    "model_folder": LEAVES,
    "metrics": {"data", "systems", "nn", "functional"} | LEAVES,
    "data": {"image_files"} | LEAVES,
    # Arrays of numpy and no torch, so that it serves scripts that only convert files.
    "image_files": {"errors", "files", "region"},
    "styles": {"translation", "runs", "metrics", "data", "image_files", "systems"} | LEAVES,
    "systems": {"nn", "functional", "model_folder"} | LEAVES,
    "acceleration": {"nn", "functional"} | LEAVES,
    "nn": {"functional"} | LEAVES,
    "functional": {"ops", "reference"} | LEAVES,
    "ops": {"kernels", "_C"} | LEAVES,
    # The options of an op are one type for its public function, its kernels and its reference, so it is below them
    # all.
    "kernels": {"fused_norm_options"},
    "reference": {"errors", "fused_norm_options"},
    "testing": {"systems", "nn", "reference", "functional"} | LEAVES,
    "config": {"errors", "files", "section", "yaml_file", "configs"},
    "section": {"errors", "files", "yaml_file"},
    "yaml_file": {"errors", "files"},
    "errors": set(),
    "region": set(),
    "fused_norm_options": set(),
    "files": {"errors"},
    "memory": {"errors"},
    "distributed": {"errors", "memory"},
    "info": {"ops", "model_folder", "runs", "errors"},
}


def layer_of(path):
    if path.is_relative_to(ROOT / "kernels"):
        return "kernels"
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree):
    """Yield the line and the layer of each import of a fastmunit module, anywhere in a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "fastmunit" and len(parts) > 1:
                yield node.lineno, parts[1]


SOURCES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "kernels").rglob("*.py")])


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if p != PACKAGE / "__init__.py"], ids=lambda p: str(p.relative_to(ROOT))
)
def test_layers(path):
    layer = layer_of(path)
    assert layer in LAYERS, f"{layer} is not a layer"
    for line, target in imported(ast.parse(path.read_text())):
        allowed = target == layer or target in LAYERS[layer] or target == "__version__"
        assert allowed, f"{path.relative_to(ROOT)}:{line}: {layer} must not import {target}"


def fresh(code, **environment):
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin", **environment},
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_import_is_light():
    loaded = fresh("import sys, fastmunit; print(*sys.modules)").split()
    assert "fastmunit" in loaded
    assert not {"torch", "numpy", "triton", "fastmunit._C", "fastmunit.ops"} & set(loaded)


def test_functional_needs_torch_alone():
    """No Triton, no torchvision, no configuration packages, and CUDA is left alone."""
    code = """
import sys
for name in ("triton", "torchvision", "pydantic", "yaml", "typer", "tqdm", "PIL", "numpy"):
    sys.modules[name] = None
import torch
def touched(*args, **kwargs): raise AssertionError("CUDA was touched")
torch.cuda._lazy_init = torch.cuda.is_available = torch.cuda.device_count = touched
from fastmunit import functional
assert not torch.cuda.is_initialized()
print(*functional.instance_norm_stats(torch.ones(1, 1, 2, 2), 0.25))
"""
    assert fresh(code) == "tensor([[1.]]) tensor([[2.]])\n"


def test_runs_without_the_extension():
    code = """
import sys
sys.modules["fastmunit._C"] = None
import torch
from fastmunit import functional
from fastmunit.ops.availability import automatic, unavailable
assert automatic("cpu") == "reference"
assert "not built" in unavailable("native", "cpu")
print(*functional.instance_norm_stats(torch.ones(1, 1, 2, 2), 0.25))
try:
    functional.instance_norm_stats(torch.ones(1, 1, 2, 2), implementation="native")
except functional.ImplementationError as error:
    print(error)
"""
    first, second = fresh(code).splitlines()
    assert first == "tensor([[1.]]) tensor([[2.]])"
    assert second.startswith(
        "instance_norm_stats: implementation 'native' cannot run: the native extension is not built"
    )


def test_triton_is_imported_by_its_kernels_alone():
    code = "import sys; from fastmunit import functional; print('fastmunit.kernels' in sys.modules)"
    assert fresh(code) == "False\n"


def test_public_names_exist():
    import fastmunit

    for name in fastmunit.__all__:
        assert getattr(fastmunit, name) is not None
    assert set(fastmunit.__all__) <= set(dir(fastmunit))
    with pytest.raises(AttributeError, match="has no attribute 'absent'"):
        _ = fastmunit.absent
