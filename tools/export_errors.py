"""Print the table of docs/export.md: how far exported models are from PyTorch, by system and size.

    python tools/export_errors.py demo demo_unit runs/demo --sizes 64 128 256 512

A name of a shipped configuration stands for random weights (kaiming), which are worse than trained ones.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from fastmunit import load_translator
from fastmunit.config import Config
from fastmunit.export.check import largest_error
from fastmunit.export.graphs import graphs_of
from fastmunit.export.onnx import OnnxGraph
from fastmunit.export.write import export
from fastmunit.nn.layers.init import weights_init
from fastmunit.systems import registry
from fastmunit.systems.translators import Translator
from fastmunit.translation.translate import find_checkpoint

_STYLES = 2


def loaded(model: str, overrides: list[str]) -> tuple[Translator, Config]:
    """Return a translator of a run folder, or one with random weights of a shipped configuration."""
    if Path(model).exists():
        config = find_checkpoint(model)[1]
        return load_translator(model, device="cpu"), config
    config = Config.load(model, overrides)
    system = registry.system_of(config)
    torch.manual_seed(0)
    generators = {name: network.eval() for name, network in system.build_generators(config).items()}
    for network in generators.values():
        network.apply(weights_init("kaiming"))
    return system.directed_translator(generators, config, "a2b"), config


def row(model: str, sizes: list[int], precision: str) -> str:
    """Export a model and return its row: the largest error of its graphs at each size."""
    name, *overrides = model.split(",")
    translator, config = loaded(name, overrides)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        export(translator, config, path, precision=precision, limit=1.0)  # type: ignore[arg-type]
        runs = [(graph, OnnxGraph(path / f"{graph.name}.onnx")) for graph in graphs_of(translator)]
        size_kb = sum(file.stat().st_size for file in path.iterdir()) / 1000
        errors = [max(largest_error(graph, run, [(size, size, _STYLES)]) for graph, run in runs) for size in sizes]
    cells = [" ".join([name, *overrides]), precision, f"{size_kb:,.0f} kB", *(f"{error:.1e}" for error in errors)]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="shipped configuration[,key=value...], or run folder")
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 128, 256, 512])
    parser.add_argument("--precision", nargs="+", default=["float32"])
    arguments = parser.parse_args()
    print("| model | weights | size |", " | ".join(map(str, arguments.sizes)), "|")
    print("|---|---|---|" + "---|" * len(arguments.sizes))
    for model in arguments.models:
        for precision in arguments.precision:
            print(row(model, arguments.sizes, precision), flush=True)


if __name__ == "__main__":
    main()
