"""Conversion of a checkpoint to public files."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fastmunit.config import Config
from fastmunit.conversion import names, states
from fastmunit.conversion.layouts import Generator, Network, PatchGAN, ResNet, UNet
from fastmunit.conversion.recognize import describe_generator
from fastmunit.errors import CheckpointError, FastmunitError
from fastmunit.files import printable, require_writable, staged_tensors
from fastmunit.nn.layers.init import without_values
from fastmunit.nn.networks.discriminators import PatchDiscriminator
from fastmunit.runs.checkpoints.checkpoint import Which
from fastmunit.systems import registry
from fastmunit.systems.parts import public_checkpoint, weights
from fastmunit.translation.translate import ConfigLike, find_checkpoint

_PUBLIC_RESNETS = (6, 9)  # residual blocks of netG resnet_6blocks and resnet_9blocks
_PUBLIC_UNETS = (7, 8)  # levels of netG unet_128 and unet_256
_PUBLIC_NORMS = {"in": "instance", "bn": "batch", "none": "none"}


@dataclass(frozen=True)
class Written:
    """A public file that a conversion has written.

    Attributes:
        path: The file.
        options: Options with which the public programs build its network.
    """

    path: Path
    options: str


def write_public(
    checkpoint: str | os.PathLike[str],
    output: str | os.PathLike[str],
    config: ConfigLike | None = None,
    *,
    which: Which = "newest",
    epoch: str = names.EPOCH,
    generators_only: bool = False,
) -> list[Written]:
    """Convert a checkpoint to files that the public CycleGAN and pix2pix repository loads.

    Generators are those that `fastmunit.translate` uses: averaged ones if there are any. Discriminators are converted
    if their file is next to that of the generators.

    Args:
        checkpoint: A run folder, or a gen_*.pt or ema_*.pt.
        output: Folder to write latest_net_G_A.pth etc. into.
        config: Configuration of a file that has no config.yaml next to it.
        which: Which checkpoint of a run folder: "newest", or "best", which its evaluations have found (best.json).
        epoch: Beginning of the files' names: "latest", or a number of epochs.
        generators_only: Leave the discriminators out.

    Raises:
        CheckpointError: If the checkpoint cannot be used, or one of its networks does not agree with a public one. The
            message names the properties that differ.
        FastmunitError: If one of the files exists already or cannot be written.
    """
    file, settings = find_checkpoint(checkpoint, config, which=which)
    _require_public_system(settings)
    generators = _generators(settings)
    dis_file = None if generators_only else _discriminators_of(file)
    discriminators = {} if dis_file is None else _discriminators(settings)
    loaded = registry.system_of(settings).load_generators(file, settings)
    lone = settings.system != "cyclegan"
    networks: list[tuple[str, Network, Mapping[str, Tensor]]] = [
        (names.LONE_GENERATOR if lone else names.GENERATORS[name], network, loaded[name].state_dict())
        for name, network in generators.items()
    ]
    dis_states = {} if dis_file is None else _dis_states(dis_file, discriminators, settings)
    networks += [
        (names.LONE_DISCRIMINATOR if lone else names.DISCRIMINATORS[name], discriminators[name], state)
        for name, state in dis_states.items()
    ]
    contents: dict[Path, Any] = {}
    written = []
    for name, network, state in sorted(networks, key=lambda item: item[0]):
        content, differences = states.to_public(state, network)
        kind = "discriminators" if isinstance(network, PatchGAN) else "generators"
        _require_none(settings, kind, differences)
        path = names.path_of(output, epoch, name)
        contents[path] = content
        written.append(Written(path, _options(network, settings)))
    existing = [path.name for path in contents if os.path.lexists(path)]
    if existing:
        raise FastmunitError(f"{printable(output)} has {', '.join(existing)} already: give another --output folder.")
    require_writable(*contents)
    with ExitStack() as stack:
        for path, content in contents.items():
            stack.enter_context(staged_tensors(content, path))
    return written


def _require_public_system(config: Config) -> None:
    options = registry.system_of(config).check(config)
    if config.system == "cyclegan":
        return
    if config.system == "bicyclegan" and options.variant == "pix2pix_noise":
        return
    variant = f" with variant {options.variant}" if config.system == "bicyclegan" else ""
    raise CheckpointError(
        f"a {config.system} model{variant} has no counterpart in the public CycleGAN and pix2pix repository: only "
        "cyclegan, and bicyclegan with variant pix2pix_noise, do."
    )


def _generators(config: Config) -> dict[str, Generator]:
    """Return the sizes of the generators by name. Raise CheckpointError if public ones differ."""
    options = registry.system_of(config).check(config)
    a, b, dim = config.input_dim_a, config.input_dim_b, config.gen.dim
    differences = []
    if options.generator == "unet":
        if options.num_downs not in _PUBLIC_UNETS:
            differences.append(
                f"options.num_downs is {options.num_downs}, public U-Nets have 7 (unet_128) or 8 (unet_256)"
            )
        if options.upsample != "transposed":
            differences.append(f"options.upsample is {options.upsample}, public U-Nets have transposed convolutions")
        if options.inject != "input":
            differences.append("options.inject is all, public U-Nets read no latent vector at any level")
    else:
        if config.gen.n_res not in _PUBLIC_RESNETS:
            differences.append(f"gen.n_res is {config.gen.n_res}, public generators have 6 or 9 residual blocks")
        if config.gen.n_downsample != 2:
            differences.append(f"gen.n_downsample is {config.gen.n_downsample}, public generators have 2")
        if config.gen.pad_type != "reflect":
            differences.append(f"gen.pad_type is {config.gen.pad_type}, public generators pad with reflect")
    _require_none(config, "generators", differences)

    def sizes(source: int, target: int) -> Generator:
        if options.generator == "unet":
            return UNet(source, target, dim, options.num_downs)
        return ResNet(source, target, dim, config.gen.n_downsample, config.gen.n_res, options.dropout > 0)

    return {"b": sizes(a, b)} if config.system == "bicyclegan" else {"a": sizes(b, a), "b": sizes(a, b)}


def _discriminators(config: Config) -> dict[str, PatchGAN]:
    """Return the sizes of the discriminators by name. Raise CheckpointError if public ones differ."""
    dis = config.dis
    options = registry.system_of(config).check(config)
    differences = []
    if dis.norm not in _PUBLIC_NORMS:
        differences.append(f"dis.norm is {dis.norm}, public discriminators have in, bn or none")
    if dis.num_scales != 1:
        differences.append(f"dis.num_scales is {dis.num_scales}, public discriminators have 1")
    if dis.activ != "lrelu":
        differences.append(f"dis.activ is {dis.activ}, public discriminators have lrelu")
    if dis.pad_type != "zero":
        differences.append(f"dis.pad_type is {dis.pad_type}, public discriminators pad with zero")
    if config.system == "bicyclegan" and not options.conditional_dis:
        differences.append("options.conditional_dis is false, the public discriminator of pix2pix sees the input too")
    _require_none(config, "discriminators", differences)
    channels = {"a": config.input_dim_a, "b": config.input_dim_b}
    if config.system == "bicyclegan":
        channels = {"random": config.input_dim_a + config.input_dim_b}
    return {name: PatchGAN(count, dis.dim, dis.n_layer, dis.norm) for name, count in channels.items()}  # type: ignore[arg-type]


def _dis_states(path: Path, sizes: Mapping[str, PatchGAN], config: Config) -> dict[str, dict[str, Tensor]]:
    networks: dict[str, nn.Module] = without_values(
        lambda: {name: PatchDiscriminator(network.input_dim, config.dis) for name, network in sizes.items()}
    )
    public_checkpoint.verify_weights(path)
    return weights.read_networks(path, networks, "dis")


def _discriminators_of(generators: Path) -> Path | None:
    """Return the dis_*.pt of the checkpoint of a gen_*.pt or ema_*.pt, if there is one."""
    match = re.fullmatch(rf"(?:gen|ema)_({public_checkpoint.DIGITS})\.pt", generators.name, re.ASCII)
    path = None if match is None else generators.with_name(f"dis_{match[1]}.pt")
    return path if path is not None and path.exists() else None


def _options(network: Network, config: Config) -> str:
    """Return the options with which the public programs build a network."""
    norm = _PUBLIC_NORMS[states.norm_of(network)]
    if isinstance(network, PatchGAN):
        kind = "basic" if network.n_layer == 3 else f"n_layers --n_layers_D {network.n_layer}"
        return f"--netD {kind} --ndf {network.dim} --norm {norm}"
    channels = f"--input_nc {network.input_dim} --output_nc {network.output_dim}"
    dropout = "" if registry.system_of(config).check(config).dropout else " --no_dropout"
    return f"--netG {describe_generator(network)} --ngf {network.dim} --norm {norm}{dropout} {channels}"


def _require_none(config: Config, what: str, differences: list[str]) -> None:
    if differences:
        hint = " --generators-only leaves the discriminators out." if what == "discriminators" else ""
        raise CheckpointError(
            f"the {what} of this {config.system} model do not agree with public ones: {'; '.join(differences)}.{hint}"
        )
