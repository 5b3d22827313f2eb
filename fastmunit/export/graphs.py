"""The graphs that an export consists of, made from a translator."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastmunit import functional
from fastmunit.errors import FastmunitError
from fastmunit.export.description import Input
from fastmunit.memory import first_line
from fastmunit.nn.layers.spectral_norm import SpectralNorm
from fastmunit.systems.translators import Translator

_SEED = 0
_Pair = tuple[Translator, Translator]
_OfImages = Callable[[Translator, Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """Inputs of a graph, and the output that the translator computes from them."""

    inputs: tuple[Tensor, ...]
    output: Tensor


@dataclass(frozen=True)
class Graph:
    """A function of a translator as a module.

    Attributes:
        name: Name of the graph and, with a suffix, of its file.
        module: Module that takes tensors in the order of `inputs`. It draws no random numbers.
        inputs: Inputs, in order.
        output: Name of the output.
        multiple: Height and width of the first input are multiples of this.
        case: Function of height and width of an image, the number of images or styles, and the value of all pixels, or
            None for random images.
    """

    name: str
    module: nn.Module
    inputs: tuple[Input, ...]
    output: str
    multiple: int
    case: Callable[[int, int, int, float | None], Case]


@torch.no_grad()
def graphs_of(translator: Translator) -> list[Graph]:
    """Return the graphs of a translator on the CPU.

    Raises:
        FastmunitError: If height and width of its content codes are no fixed fraction of those of images.
    """
    pair = (translator, exportable(translator))
    channels, target_channels = translator.channels, translator.target_channels
    separate = translator.encodes and translator.style_dim > 0
    graphs = []
    if separate:
        graphs.append(_of_images("encode_content", "content", pair, channels, _encode))
    if translator.takes_references:
        graphs.append(_of_images("encode_style", "styles", pair, target_channels, _encode_style))
    if translator.style_dim:
        graphs.append(_of_draws("decode" if separate else "translate", pair))
    else:
        graphs.append(_of_images("translate", "output", pair, channels, _translate))
    return graphs


def _encode(translator: Translator, images: Tensor) -> Tensor:
    return translator.encode(images)


def _encode_style(translator: Translator, images: Tensor) -> Tensor:
    return translator.encode_style(images)


def _translate(translator: Translator, images: Tensor) -> Tensor:
    return translator.render(translator.encode(images), {})


def _of_images(name: str, output: str, pair: _Pair, channels: int, function: _OfImages) -> Graph:
    """Return a graph from images (N, channels, H, W)."""
    translator, exported = pair

    def case(height: int, width: int, count: int, value: float | None) -> Case:
        images = example_images(count, channels, height, width, value)
        return Case((images,), function(translator, images))

    inputs = (Input(name="images", count="N", channels=channels, divisor=1),)
    module = _Module(partial(function, exported), exported)
    return Graph(name, module, inputs, output, translator.multiple, case)


def _of_draws(name: str, pair: _Pair) -> Graph:
    """Return a graph from one content code, or one image, and what is drawn for S styles."""
    translator, exported = pair

    def drawn(height: int, width: int, count: int, value: float | None) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        content = translator.encode(example_images(1, translator.channels, height, width, value))
        styles = translator.random_styles(count, torch.Generator().manual_seed(_SEED))
        return content, styles, translator.draws(content, styles)

    def case(height: int, width: int, count: int, value: float | None) -> Case:
        content, styles, draws = drawn(height, width, count, value)
        return Case((content, *draws.values()), translator.decode(content, styles))

    height, width = example_size(translator)
    content, _, draws = drawn(height, width, 1, None)
    divisor = _divisor("content codes", (height, width), content)
    if translator.multiple % divisor:
        raise FastmunitError(f"content codes are 1/{divisor} of an image of a multiple of {translator.multiple}.")
    first = "images" if name == "translate" else "content"
    inputs = [Input(name=first, count="1", channels=content.shape[1], divisor=1)]
    for key, tensor in draws.items():
        sized = 0 if key == "styles" else _divisor(key, content.shape[2:], tensor)
        inputs.append(Input(name=key, count="S", channels=tensor.shape[1], divisor=sized))

    def function(content: Tensor, *drawn: Tensor) -> Tensor:
        return exported.render(content, dict(zip(draws, drawn, strict=True)))

    multiple = translator.multiple // divisor
    return Graph(name, _Module(function, exported), tuple(inputs), "output", multiple, case)


class _Module(nn.Module):
    """A function of a translator, with the translator's networks as submodules."""

    def __init__(self, function: Callable[..., Tensor], translator: Translator) -> None:
        super().__init__()
        self.function = function
        self.networks = nn.ModuleList(translator.networks().values())

    def forward(self, *tensors: Tensor) -> Tensor:
        with functional.use_implementation("reference"):
            return self.function(*tensors)


def exportable(translator: Translator) -> Translator:
    """Return a copy of a translator in eval mode whose networks write to no weight: spectral norm is applied once."""
    copied = copy.deepcopy(translator)
    for network in copied.networks().values():
        network.eval().requires_grad_(False)
        for module in list(network.modules()):
            for name, child in module.named_children():
                if isinstance(child, SpectralNorm):
                    setattr(module, name, _without_spectral_norm(child))
    return copied


def _without_spectral_norm(layer: SpectralNorm) -> nn.Module:
    """Return the layer that a spectral norm wraps, with the weight of the next forward pass."""
    plain, weight = layer.module, layer.compute_weight().detach()
    for name in ("weight_u", "weight_v", "weight_bar"):
        delattr(plain, name)
    plain.register_parameter("weight", nn.Parameter(weight, requires_grad=False))
    return plain


def example_images(count: int, channels: int, height: int, width: int, value: float | None) -> Tensor:
    """Return images (count, channels, height, width) of one value, or of smooth colors and noise, always the same."""
    if value is not None:
        return torch.full((count, channels, height, width), value)
    generator = torch.Generator().manual_seed(_SEED)
    colors = torch.rand(count, channels, 4, 4, generator=generator)
    smooth = nn.functional.interpolate(colors, (height, width), mode="bilinear")
    return (1.6 * smooth + 0.4 * torch.rand(smooth.shape, generator=generator) - 1).contiguous()


def example_size(translator: Translator) -> tuple[int, int]:
    """Return height and width of images with which graphs are traced: no size of a map in them is 1."""
    least = min_multiples(translator)
    return (least + 1) * translator.multiple, (least + 2) * translator.multiple


def min_multiples(translator: Translator) -> int:
    """Return the minimum height and width of images, in multiples of `translator.multiple`."""
    return -(-translator.min_size // translator.multiple)


def dynamic_shapes(graph: Graph, least: int) -> tuple[dict[int, Any], ...]:
    """Return the sizes of each input that may change, as `torch.export.export` takes them.

    Args:
        graph: The graph.
        least: `min_multiples` of the translator.
    """
    numbers = {name: torch.export.Dim(name, min=1) for name in ("N", "S")}
    sides = {axis: torch.export.Dim(name, min=least) for axis, name in ((2, "h"), (3, "w"))}
    shapes = []
    for given in graph.inputs:
        shape: dict[int, Any] = {} if given.count == "1" else {0: numbers[given.count]}
        if given.divisor:
            factor = graph.multiple // given.divisor
            shape |= {axis: side if factor == 1 else factor * side for axis, side in sides.items()}
        shapes.append(shape)
    return tuple(shapes)


def traced(graph: Graph, translator: Translator) -> torch.export.ExportedProgram:
    """Return a graph as an exported program with dynamic sizes.

    Raises:
        FastmunitError: If the networks do something that torch cannot trace.
    """
    with torch.no_grad():
        inputs = graph.case(*example_size(translator), 3, None).inputs
        shapes = (dynamic_shapes(graph, min_multiples(translator)),)
        try:
            return torch.export.export(graph.module.eval(), inputs, dynamic_shapes=shapes, strict=False)
        except Exception as error:  # whatever the networks and the tracer raise
            raise FastmunitError(
                f"{graph.name} cannot be traced with sizes that may change ({first_line(error)[:300]}). A network of "
                "your own must read sizes as x.shape[0], not len(x), and draw no random numbers."
            ) from error


def _divisor(what: str, size: Sequence[int], tensor: Tensor) -> int:
    """Return the factor by which height and width of a tensor are smaller than `size`."""
    height, width = size
    sizes = tensor.shape[2:]
    if len(sizes) != 2 or height % sizes[0] or height // sizes[0] * sizes[1] != width:
        raise FastmunitError(
            f"{what} of shape {tuple(tensor.shape)} for {height} × {width} pixels cannot be exported: height and width "
            "must be the same fraction of those before."
        )
    return height // sizes[0]
