"""Print the table of docs/how_to/export.md: how far exported models are from PyTorch, by system and size.

    python tools/export_errors.py demo demo_unit runs/demo --sizes 64 128 256 512

Each cell has the largest difference of onnxruntime from PyTorch, both in float32, and in parentheses those of PyTorch
and of onnxruntime from PyTorch in float64. Images are random; "blank" is the largest difference of onnxruntime from
PyTorch over sizes and images of one value, -1, 0 or 1. A name of a shipped configuration stands for random weights
(kaiming), which are worse than trained ones.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from fastmunit import load_translator
from fastmunit.config import Config
from fastmunit.export.check import BLANK, Run, difference, largest_error
from fastmunit.export.graphs import Graph, graphs_of
from fastmunit.export.onnx import OnnxGraph
from fastmunit.export.write import export
from fastmunit.model_folder.load import packaged
from fastmunit.nn.layers.init import weights_init
from fastmunit.systems import registry
from fastmunit.systems.translators import Translator

_STYLES = 2


def loaded(model: str, overrides: list[str]) -> Translator:
    """Return a translator of a run folder or packaged model, or one with random weights of a shipped configuration."""
    if Path(model).is_dir() or model in packaged():
        return load_translator(model, device="cpu")
    config = Config.load(model, overrides)
    system = registry.system_of(config)
    torch.manual_seed(0)
    generators = {name: network.eval() for name, network in system.build_generators(config).items()}
    for network in generators.values():
        network.apply(weights_init("kaiming"))
    return system.directed_translator(generators, config, "a2b")


@torch.no_grad()
def errors(graph: Graph, run: Run, size: int) -> tuple[float, float, float]:
    """Return how far the file is from PyTorch, and how far PyTorch and the file are from float64."""
    case = graph.case(size, size, _STYLES, None)
    output = run(case.inputs)
    exact = graph.module.double()(*(tensor.double() for tensor in case.inputs))
    graph.module.float()
    return difference(output, case.output), difference(case.output, exact), difference(output, exact)


def row(model: str, sizes: list[int], precision: str) -> str:
    """Export a model and return its row: the largest errors of its graphs at each size."""
    name, *overrides = model.split(",")
    translator = loaded(name, overrides)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        export(translator, path, precision=precision, limit=1.0)  # type: ignore[arg-type]
        runs = [(graph, OnnxGraph(path / f"{graph.name}.onnx")) for graph in graphs_of(translator)]
        size_kb = sum(file.stat().st_size for file in path.iterdir()) / 1000
        found = [
            [max(of_kind) for of_kind in zip(*(errors(*graph, size) for graph in runs), strict=True)] for size in sizes
        ]
        cases = [(size, size, _STYLES) for size in sizes]
        blank = max(largest_error(*graph, cases, BLANK) for graph in runs)
    cells = [" ".join([name, *overrides]), precision, f"{size_kb:,.0f} kB"]
    cells += [f"{error:.1e} ({torch_error:.1e}, {file_error:.1e})" for error, torch_error, file_error in found]
    return f"| {' | '.join([*cells, f'{blank:.1e}'])} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="shipped configuration[,key=value...], run folder, or packaged model")
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 128, 256, 512])
    parser.add_argument("--precision", nargs="+", default=["float32"])
    arguments = parser.parse_args()
    print("| model | weights | size |", " | ".join(map(str, arguments.sizes)), "| blank |")
    print("|---|---|---|" + "---|" * (len(arguments.sizes) + 1))
    for model in arguments.models:
        for precision in arguments.precision:
            print(row(model, arguments.sizes, precision), flush=True)


if __name__ == "__main__":
    main()
