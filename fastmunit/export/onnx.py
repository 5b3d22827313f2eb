"""Graphs as ONNX files, and their execution with onnxruntime."""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastmunit.errors import CheckpointError, FastmunitError
from fastmunit.export.description import Precision
from fastmunit.export.graphs import Graph, traced
from fastmunit.export.packages import needed
from fastmunit.files import atomic_write, printable, unicode_path
from fastmunit.memory import first_line
from fastmunit.systems.translators import Translator

SUFFIX = ".onnx"
_OPSET = 18
_OUTPUT_AXIS = {"Conv": 0, "ConvTranspose": 1, "Gemm": 0}
"""Axis of the output channels in the weights of an operator. Those of Gemm are transposed."""
_GPU = "CUDAExecutionProvider"
_MIN_VALUES = 256
"""Smaller weights stay in float32: they take no space worth an error."""


def build(graph: Graph, translator: Translator) -> Any:
    """Return a graph as an `onnx.ModelProto` with float32 weights and dynamic sizes.

    Raises:
        FastmunitError: If the packages are missing, or the model has 2 GiB or more.
    """
    needed("onnx", "onnxscript", "onnxruntime")
    program = traced(graph, translator)
    names = [given.name for given in graph.inputs]
    with _quiet():
        exported = torch.onnx.export(
            program, dynamo=True, opset_version=_OPSET, verbose=False, input_names=names, output_names=[graph.output]
        )
    assert exported is not None
    try:
        model = exported.model_proto
        model.ByteSize()
    except Exception as error:  # protobuf has several classes for it
        raise FastmunitError(f"{graph.name} cannot be one ONNX file: {first_line(error)[:300]}.") from error
    _name_sizes(model, graph)
    _remove_traces(model)
    return model


def pack(model: Any, precision: Precision) -> None:
    """Replace the weights of convolutions and linear layers by smaller ones, which the graph converts to float32.

    Args:
        model: An `onnx.ModelProto`, which is changed.
        precision: "float16", or "int8" with one scale per output channel. "float32" changes nothing.
    """
    if precision == "float32":
        return
    from onnx import helper, numpy_helper

    axes = {
        node.input[1]: _OUTPUT_AXIS[node.op_type]
        for node in model.graph.node
        if node.op_type in _OUTPUT_AXIS and not (node.op_type == "Gemm" and not _is_transposed(node))
    }
    converters = []
    for tensor in list(model.graph.initializer):
        values = numpy_helper.to_array(tensor)
        if tensor.name not in axes or values.size < _MIN_VALUES or values.dtype != np.float32:
            continue
        name, axis = tensor.name, axes[tensor.name]
        stored = f"{name}.{precision}"
        if precision == "float16":
            packed = values.astype(np.float16)
            converters.append(helper.make_node("Cast", [stored], [name], name=f"{name}.cast", to=1))
        else:
            packed, scales = _rounded(values, axis)
            scale = f"{name}.scale"
            model.graph.initializer.append(numpy_helper.from_array(scales, scale))
            converters.append(
                helper.make_node("DequantizeLinear", [stored, scale], [name], name=f"{name}.dequantize", axis=axis)
            )
        model.graph.initializer.remove(tensor)
        model.graph.initializer.append(numpy_helper.from_array(packed, stored))
    nodes = [*converters, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def save(model: Any, path: Path, metadata: Mapping[str, Any]) -> None:
    """Write a model with metadata, whose values are written as JSON unless they are text."""
    del model.metadata_props[:]
    for key, value in metadata.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = f"fastmunit.{key}", value if isinstance(value, str) else json.dumps(value)
    with atomic_write(path) as file:
        file.write(model.SerializeToString())


class OnnxGraph:
    """A graph that onnxruntime executes, on a CPU with torch's number of threads.

    Args:
        path: The file.
        device: "cpu", "cuda", or "auto" for the GPU if the installed package can use it.

    Raises:
        CheckpointError: If onnxruntime cannot load it.
        FastmunitError: If it is not installed, or cannot use the device.
    """

    def __init__(self, path: Path, device: str = "auto") -> None:
        needed("onnxruntime")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors only: they are raised as well
        usable = onnxruntime.get_available_providers()
        if device not in ("auto", "cpu") and (not device.startswith("cuda") or _GPU not in usable):
            raise FastmunitError(
                f"the installed onnxruntime cannot use {device}, only {', '.join(usable)}: install onnxruntime-gpu, or "
                "use --device cpu."
            )
        providers = [name for name in (_GPU, "CPUExecutionProvider") if name in usable]
        if device == "cpu":
            providers = providers[-1:]
        try:
            with unicode_path(path) as readable:
                self._session = onnxruntime.InferenceSession(readable, options, providers)
        except Exception as error:  # its classes have no base class of their own
            raise CheckpointError(
                f"{printable(path)} cannot be loaded by onnxruntime ({first_line(error)[:300]}): export it again."
            ) from error
        self._names = [given.name for given in self._session.get_inputs()]

    def __call__(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return the output for inputs in order.

        Raises:
            FastmunitError: If they do not fit the graph.
        """
        arrays = [tensor.detach().cpu().float().contiguous().numpy() for tensor in tensors]
        try:
            (output,) = self._session.run(None, dict(zip(self._names, arrays, strict=True)))
        except Exception as error:
            shapes = ", ".join(str(array.shape) for array in arrays)
            raise FastmunitError(f"onnxruntime failed on inputs {shapes}: {first_line(error)[:300]}.") from error
        return torch.from_numpy(output)


def _rounded(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Return weights as int8, and a scale for each output channel."""
    others = tuple(other for other in range(values.ndim) if other != axis)
    scales = np.maximum(np.abs(values).max(others), np.finfo(np.float32).tiny) / 127
    shape = [-1 if other == axis else 1 for other in range(values.ndim)]
    return np.rint(values / scales.reshape(shape)).clip(-127, 127).astype(np.int8), scales.astype(np.float32)


def _is_transposed(gemm: Any) -> bool:
    return any(attribute.name == "transB" and attribute.i for attribute in gemm.attribute)


def _name_sizes(model: Any, graph: Graph) -> None:
    """Name the dynamic sizes N, S, h and w in all shapes, instead of the tracer's symbols."""
    names: dict[str, str] = {}
    for value, given in zip(model.graph.input, graph.inputs, strict=True):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            for symbol in re.findall(r"s\d+", dim.dim_param):
                names[symbol] = (given.count, "", "h", "w")[axis]
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r"s\d+", lambda match: names.get(match[0], match[0]), dim.dim_param)


def _remove_traces(model: Any) -> None:
    """Remove what the exporter records about the source code, with paths of files."""
    model.doc_string = ""
    for item in (model.graph, *_parts(model.graph)):
        item.doc_string = ""
        del item.metadata_props[:]


def _parts(graph: Any) -> Iterator[Any]:
    for items in (graph.node, graph.initializer, graph.input, graph.output, graph.value_info):
        yield from items


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's warnings and logs about its own workings."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
