"""Recognition of the networks in public files by the names and shapes of their weights."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from torch import Tensor

from fastmunit.conversion.layouts import Generator, Layer, Norm, PatchGAN, ResNet, UNet, unet_prefix
from fastmunit.errors import CheckpointError
from fastmunit.files import load_tensors, printable
from fastmunit.systems.parts.weights import describe, is_plain, unwrapped

State = Mapping[str, Tensor]

STATISTICS = ("running_mean", "running_var")
COUNTER = "num_batches_tracked"
_BLOCK = re.compile(r"model\.(\d{1,5})\.conv_block\.\d{1,5}\.weight")
_NUMBERED = re.compile(r"model\.(\d{1,5})\.weight")
_MAX_LISTED = 4
_MAX_LEVELS, _MAX_BLOCKS = 16, 1000  # those of a configuration


def read_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the state dict of one network, without the prefixes that DataParallel and the like add to its names.

    Raises:
        CheckpointError: If the file is missing, damaged, or holds anything but named, dense, real tensors.
    """
    content = load_tensors(path)
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        raise CheckpointError(f"{printable(path)} is {describe(content)}, not the state dict of a network.")
    for key, value in content.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(
                f"{printable(path)} is {describe(content)}, not the state dict of a network ({key[:100]} is a "
                f"{type(value).__name__})."
            )
        if not is_plain(value):
            raise CheckpointError(
                f"{printable(path)}: {key[:100]} is a tensor in {value.dtype}, {value.layout}, expected a dense real "
                "tensor."
            )
    return unwrapped(content)


def generator_in(path: str | os.PathLike[str], state: State) -> Generator:
    """Return the generator that a state dict belongs to.

    Raises:
        CheckpointError: If it is not one of our generators. The message names the properties that differ.
    """
    if _blocks(state):
        generator: Generator = _resnet(path, state)
    elif any(key.startswith("model.model.") for key in state):
        generator = _unet(path, state)
    else:
        kind = _other_kind(state) or describe(state)
        raise CheckpointError(
            f"{printable(path)} is {kind}, not a residual generator (resnet_9blocks, resnet_6blocks) or a U-Net "
            "(unet_256, unet_128)."
        )
    differences = _generator_differences(state, generator.layers()) or _mismatches(state, generator.layers(), "in")
    _require_none(path, f"this {describe_generator(generator)}", differences)
    return generator


def discriminator_in(path: str | os.PathLike[str], state: State) -> PatchGAN:
    """Return the PatchGAN that a state dict belongs to.

    Raises:
        CheckpointError: If it is not one of our discriminators. The message names the properties that differ.
    """
    if any(key.endswith(".weight_orig") for key in state):
        raise CheckpointError(
            f"{printable(path)} has spectral norm, which discriminators of this layout do not have: their norm is "
            "instance, batch or none."
        )
    first = state.get("model.0.weight")
    numbers = {int(match[1]) for match in map(_NUMBERED.fullmatch, state) if match and state[match[0]].dim() == 4}
    if first is None or first.dim() != 4 or _blocks(state) or not 3 <= len(numbers) <= _MAX_LEVELS + 2:
        raise CheckpointError(
            f"{printable(path)} is {_other_kind(state) or describe(state)}, not a PatchGAN discriminator (netD basic "
            "or n_layers)."
        )
    differences: list[str] = []
    norm: Norm = "in" if "model.2.bias" in state else "none"
    if "model.3.weight" in state:
        norm = "bn"
        if "model.3.running_mean" not in state:
            differences.append("model.3.weight without running statistics: its instance norm has weights, ours none")
    network = PatchGAN(first.shape[1], first.shape[0], len(numbers) - 2, norm)
    _require_none(path, "this PatchGAN", differences or _mismatches(state, network.layers(), norm))
    return network


def describe_generator(generator: Generator) -> str:
    """Name a generator as the public repository does, as far as it has a name for it."""
    if isinstance(generator, UNet):
        return f"unet_{2**generator.num_downs}"
    return f"resnet_{generator.n_res}blocks"


def tensors_of(layer: Layer, norm: Norm) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of a layer in a public file: convolution first, then norm."""
    filters = layer.shape[1 if layer.transposed else 0]
    shapes: dict[str, tuple[int, ...]] = {f"{layer.public}.weight": layer.shape}
    if layer.public_norm is None or norm == "in":
        shapes[f"{layer.public}.bias"] = (filters,)
    if layer.public_norm is not None and norm == "bn":
        shapes |= {f"{layer.public_norm}.{name}": (filters,) for name in ("weight", "bias", *STATISTICS)}
        shapes[f"{layer.public_norm}.{COUNTER}"] = ()
    return shapes


def _blocks(state: State) -> list[int]:
    """Return the indices of residual blocks in ascending order."""
    return sorted({int(match[1]) for match in map(_BLOCK.fullmatch, state) if match})


def _resnet(path: str | os.PathLike[str], state: State) -> ResNet:
    blocks = _blocks(state)
    prefix = f"model.{blocks[0]}.conv_block"
    differences = []
    if "model.0.weight" in state:
        differences.append("model.0.weight: its first layer pads with zeros, ours by reflection (a layer of its own)")
    if f"{prefix}.0.weight" in state:
        differences.append(f"{prefix}.0.weight: its residual blocks pad with zeros, ours by reflection")
    if (blocks[0] - 4) % 3 or blocks[0] < 4:
        differences.append(f"its residual blocks begin at layer {blocks[0]}, which no number of downsamplings gives")
    levels, count = (blocks[0] - 4) // 3, blocks[-1] - blocks[0] + 1
    if levels > _MAX_LEVELS or count > _MAX_BLOCKS:
        differences.append(f"it has {levels} downsamplings and {count} blocks, more than ours can have")
    _require_none(path, "this residual generator", differences)
    first, last = state.get("model.1.weight"), state.get(f"model.{5 + 6 * levels + count}.weight")
    dropout = f"{prefix}.6.weight" in state
    dim, input_dim = _leading(first, (1, 1))
    return ResNet(input_dim, _leading(last, (1, 1))[0], dim, levels, count, dropout)


def _unet(path: str | os.PathLike[str], state: State) -> UNet:
    levels = 1
    while levels <= _MAX_LEVELS and any(f"{unet_prefix(levels)}{index}.weight" in state for index in (0, 1)):
        levels += 1
    if not 2 <= levels <= _MAX_LEVELS:
        raise CheckpointError(f"{printable(path)} has a U-Net of {levels} levels; ours have 2 to {_MAX_LEVELS}.")
    dim, input_dim = _leading(state.get("model.model.0.weight"), (1, 1))
    outermost = state.get("model.model.3.weight")
    return UNet(input_dim, _leading(outermost, (1, 1))[1], dim, levels)


def _leading(weight: Tensor | None, default: tuple[int, int]) -> tuple[int, int]:
    """Return the first two sizes of a convolution's weight; `_mismatches` reports one that is missing or wrong."""
    return default if weight is None or weight.dim() != 4 else (weight.shape[0], weight.shape[1])


def _generator_differences(state: State, layers: list[Layer]) -> list[str]:
    """Name the properties that a generator has and ours do not."""
    differences = []
    norms = [layer.public_norm for layer in layers if layer.public_norm is not None]
    weighted = next((norm for norm in norms if f"{norm}.weight" in state), None)
    normalized = [layer.public for layer in layers if layer.public_norm is not None]
    biases = any(f"{name}.bias" in state for name in normalized)
    if weighted is not None:
        has_statistics = f"{weighted}.running_mean" in state
        kind = "batch norm" if has_statistics else "instance norm with weights"
        differences.append(f"its norm is {kind} ({weighted}.weight), ours is instance norm without weights")
    elif not biases:
        differences.append(
            f"its convolutions have no biases ({normalized[0]}.bias is missing) and no norms with weights, which is "
            "norm none; ours have biases and instance norm"
        )
    for layer in layers:
        weight = state.get(f"{layer.public}.weight")
        if layer.transposed and weight is not None and weight.dim() == 4:
            filters, channels = layer.shape[1], layer.shape[0]
            if filters != channels and tuple(weight.shape[:2]) == (filters, channels):
                differences.append(
                    f"{layer.public}.weight {tuple(weight.shape)} is a convolution after an upsampling, ours is a "
                    f"transposed convolution {layer.shape}"
                )
                break
    return differences


def _mismatches(state: State, layers: list[Layer], norm: Norm) -> list[str]:
    """Name what is missing, of another shape or type, or unknown in a state dict."""
    expected = {name: shape for layer in layers for name, shape in tensors_of(layer, norm).items()}
    required = [name for name in expected if not name.endswith(COUNTER)]  # PyTorch before 0.4.1 did not count batches
    # A convolution before batch norm may have a bias. PyTorch 0.3 stored unused statistics of instance norms.
    expected |= {name: shape for layer in layers for name, shape in tensors_of(layer, "in").items() if name in state}
    unused = {f"{layer.public_norm}.{name}" for layer in layers for name in (*STATISTICS, COUNTER)}
    differences = [f"{name} is missing" for name in required if name not in state]
    for name, value in state.items():
        if name not in expected:
            if name not in unused:
                differences.append(f"{name[:100]} is not known")
        elif tuple(value.shape) != expected[name]:
            differences.append(f"{name} is {tuple(value.shape)}, expected {expected[name]}")
        elif value.is_floating_point() == name.endswith(COUNTER):
            differences.append(f"{name} is {value.dtype}")
    return differences


def _other_kind(state: State) -> str:
    """Describe another known kind of network, or return ""."""
    if "net.0.weight" in state:
        return "a pixel discriminator (netD pixel)"
    if _blocks(state):
        return "a residual generator"
    if any(key.startswith("model.model.") for key in state):
        return "a U-Net generator"
    if "model.0.weight" in state:
        return "a PatchGAN discriminator, or a generator without residual blocks"
    return ""


def _require_none(path: str | os.PathLike[str], what: str, differences: list[str]) -> None:
    if differences:
        more = f"; and {len(differences) - _MAX_LISTED} more" if len(differences) > _MAX_LISTED else ""
        listed = "; ".join(differences[:_MAX_LISTED])
        raise CheckpointError(f"{printable(path)}: {what} does not agree with ours: {listed}{more}.")
