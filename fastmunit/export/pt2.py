"""Graphs as .pt2 packages, compiled by AOTInductor for the machine that exports them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fastmunit.errors import CheckpointError, FastmunitError
from fastmunit.export.graphs import Graph, traced
from fastmunit.files import is_unicode, printable, unicode_path
from fastmunit.memory import first_line
from fastmunit.systems.translators import Translator

SUFFIX = ".pt2"


def compile_to(graph: Graph, translator: Translator, path: Path) -> None:
    """Compile a graph into a file. The machine needs a C++ compiler.

    Raises:
        FastmunitError: If compilation fails, or the path is not UTF-8.
    """
    if not is_unicode(str(path)):
        raise FastmunitError(
            f"AOTInductor cannot write {printable(path)}, because its path is not UTF-8: choose another output."
        )
    from torch._inductor import aoti_compile_and_package

    program = traced(graph, translator)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            aoti_compile_and_package(program, package_path=str(path))
    except Exception as error:  # of the compiler, of inductor or of the linker
        raise FastmunitError(
            f"AOTInductor cannot compile {graph.name} ({first_line(error)[:300]}): install a C++ compiler, or export "
            "to onnx."
        ) from error


class Pt2Graph:
    """A compiled graph. It runs machine code, so load files from a trusted source only.

    Args:
        path: The file.
        device: "auto" or "cpu".

    Raises:
        CheckpointError: If it cannot be loaded here.
        FastmunitError: If the device is another one.
    """

    def __init__(self, path: Path, device: str = "auto") -> None:
        from torch._inductor import aoti_load_package

        if device not in ("auto", "cpu"):
            raise FastmunitError(f"{printable(path)} is compiled for a CPU, not for {device}: leave the device out.")
        try:
            with unicode_path(path) as readable:
                self._run = aoti_load_package(readable)
        except Exception as error:
            raise CheckpointError(
                f"{printable(path)} cannot be loaded ({first_line(error)[:300]}): export the model on this machine."
            ) from error

    def __call__(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return the output for inputs in order."""
        with torch.no_grad():
            output: Tensor = self._run(*(tensor.detach().cpu().float().contiguous() for tensor in tensors))
        return output
