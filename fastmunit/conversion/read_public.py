"""Conversion of public files to a run folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from fastmunit.config import Config
from fastmunit.conversion import names, states
from fastmunit.conversion.layouts import Generator, PatchGAN, ResNet, UNet
from fastmunit.conversion.recognize import describe_generator, discriminator_in, generator_in, read_state
from fastmunit.errors import CheckpointError, FastmunitError
from fastmunit.files import printable, staged_tensors
from fastmunit.nn.networks.discriminators import PatchDiscriminator
from fastmunit.runs import RunFolder
from fastmunit.systems import registry
from fastmunit.systems.generator_options import GeneratorOptions
from fastmunit.systems.parts.public_checkpoint import checkpoint_path

_DROPOUT = 0.5  # rate of every dropout layer of the public networks
_CROP, _NEW_SIZE = 256, 286
_LABELS = {
    "input_dim": "input channels",
    "output_dim": "output channels",
    "dim": "channels of the first layer",
    "n_downsample": "downsampling layers",
    "n_res": "residual blocks",
    "num_downs": "levels",
    "n_layer": "layers",
    "norm": "norm",
    "dropout": "dropout",
}


@dataclass(frozen=True)
class Converted:
    """The run folder that a conversion of public files has written.

    Attributes:
        generators: The gen_*.pt.
        discriminators: The dis_*.pt; None without discriminators.
        config: The configuration.
        notes: Sentences for the user.
    """

    generators: Path
    discriminators: Path | None
    config: Config
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Source:
    """A public file that has been read."""

    path: Path
    state: Mapping[str, Tensor]
    network: Any


def read_public(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    epoch: str = names.EPOCH,
    dropout: float | None = None,
    generators_only: bool = False,
) -> Converted:
    """Convert files of the public CycleGAN and pix2pix repository to a run folder.

    latest_net_G_A.pth and latest_net_G_B.pth become a CycleGAN. A single generator, latest_net_G.pth or a file of any
    name, becomes a pix2pix with noise whose weights for the noise are 0, so that its outputs are those of the public
    network. Discriminators in the same folder are converted too.

    Args:
        source: A folder with public files, or the file of a single generator.
        output: Run folder to create. Its checkpoint has the number 0.
        epoch: Beginning of the files' names: "latest", or a number of epochs.
        dropout: Rate of dropout in training. None is 0.5 if the names in a file show such layers, which they do for
            residual generators only, and otherwise 0.
        generators_only: Leave the discriminators out.

    Raises:
        CheckpointError: If a file is missing or damaged, or its network does not agree with one of ours. The message
            names the properties that differ.
        ConfigError: If the networks are too large, or the rate of dropout is not valid.
        FastmunitError: If `output` is not empty or cannot be written.
    """
    folder = RunFolder(output)
    if folder.contents():
        raise FastmunitError(f"output {printable(folder.root)} is not empty: give another --output folder.")
    generators, discriminators = _read(Path(source), epoch, generators_only)
    generator: Generator = next(iter(generators.values())).network
    config = _configuration(generators, discriminators, dropout)
    registry.system_of(config).check(config)  # before anything of the size that a file claims is allocated
    latent_dim = 0 if config.system == "cyclegan" else config.gen.style_dim
    gen_states = {
        name: states.from_public(item.path, item.state, item.network, latent_dim) for name, item in generators.items()
    }
    dis_states = {
        name: states.from_public(item.path, item.state, item.network) for name, item in discriminators.items()
    }
    gen_file, dis_file = (checkpoint_path(folder.checkpoints, kind, 0) for kind in ("gen", "dis"))
    folder.create()
    with ExitStack() as stack:
        stack.enter_context(staged_tensors(gen_states, gen_file))
        if dis_states:
            stack.enter_context(staged_tensors(dis_states, dis_file))
        config.save(folder.config)
    notes = []
    if isinstance(generator, UNet) and dropout is None:
        notes.append(
            "The file of a U-Net does not show whether it was trained with dropout, as pix2pix is by default: add "
            "--dropout 0.5 to train on with it."
        )
    if not dis_states:
        notes.append("There are no discriminators: a training from these generators starts with new ones.")
    return Converted(gen_file, dis_file if dis_states else None, config, tuple(notes))


def _read(source: Path, epoch: str, generators_only: bool) -> tuple[dict[str, _Source], dict[str, _Source]]:
    """Read all networks, by the names that they have in our files."""
    if not source.is_dir():
        return {"b": _generator(source)}, {}
    cycle = {name: names.path_of(source, epoch, public) for name, public in names.GENERATORS.items()}
    lone = names.path_of(source, epoch, names.LONE_GENERATOR)
    in_cycle = [path for path in cycle.values() if path.exists()]
    if in_cycle and lone.exists():
        raise CheckpointError(
            f"{printable(source)} has both {in_cycle[0].name} and {lone.name}: give the file of the single generator, "
            "or move it to another folder."
        )
    if not in_cycle and not lone.exists():
        listed = ", ".join(path.name for path in [*cycle.values(), lone])
        raise CheckpointError(f"{printable(source)} has none of {listed}: check the folder, or give --epoch.")
    if not in_cycle:
        generators = {"b": _generator(lone)}
        dis_paths = {"random": names.path_of(source, epoch, names.LONE_DISCRIMINATOR)}
    else:
        for path in cycle.values():
            if not path.exists():
                raise CheckpointError(
                    f"{printable(path)} is missing, and a CycleGAN has two generators: put it back, or give "
                    f"{in_cycle[0].name} itself, to convert it as a single generator."
                )
        generators = {name: _generator(path) for name, path in cycle.items()}
        dis_paths = {name: names.path_of(source, epoch, public) for name, public in names.DISCRIMINATORS.items()}
    _require_equal([generators[name] for name in generators], mirrored=True)
    present = [path for path in dis_paths.values() if path.exists()]
    if generators_only or not present:
        return generators, {}
    for path in dis_paths.values():
        if not path.exists():
            raise CheckpointError(f"{printable(path)} is missing: put it back, or add --generators-only.")
    discriminators = {name: _discriminator(path) for name, path in dis_paths.items()}
    _require_equal([*discriminators.values()], mirrored=False)
    _require_channels(generators, discriminators)
    return generators, discriminators


def _generator(path: Path) -> _Source:
    state = read_state(path)
    return _Source(path, state, generator_in(path, state))


def _discriminator(path: Path) -> _Source:
    state = read_state(path)
    try:
        return _Source(path, state, discriminator_in(path, state))
    except CheckpointError as error:
        raise CheckpointError(f"{error} --generators-only leaves the discriminators out.") from error


def _require_equal(sources: list[_Source], *, mirrored: bool) -> None:
    """Raise CheckpointError if two networks differ in a size other than image channels, or if those do not fit."""
    if len(sources) < 2:
        return
    first, second = (source.network for source in sources)
    files = f"{printable(sources[0].path)} and {sources[1].path.name}"
    if type(first) is not type(second):
        raise CheckpointError(
            f"{files} are {describe_generator(first)} and {describe_generator(second)}, but a CycleGAN has two of a "
            "kind."
        )
    differences = [
        f"{_LABELS[field.name]} {getattr(first, field.name)} and {getattr(second, field.name)}"
        for field in fields(first)
        if field.name not in ("input_dim", "output_dim") and getattr(first, field.name) != getattr(second, field.name)
    ]
    if mirrored and (first.input_dim, first.output_dim) != (second.output_dim, second.input_dim):
        differences.append(
            f"image channels {first.input_dim} to {first.output_dim} and {second.input_dim} to {second.output_dim}"
        )
    if differences:
        raise CheckpointError(f"{files} do not fit together: {'; '.join(differences)}.")


def _require_channels(generators: Mapping[str, _Source], discriminators: Mapping[str, _Source]) -> None:
    """Raise CheckpointError if a discriminator does not take the images of its generator."""
    for name, item in discriminators.items():
        generator: Generator = generators["b" if name == "random" else name].network
        allowed = {generator.output_dim}
        if name == "random":
            allowed.add(generator.input_dim + generator.output_dim)
        if item.network.input_dim not in allowed:
            raise CheckpointError(
                f"{printable(item.path)} takes {item.network.input_dim} channels, and its generator's images need "
                f"{' or '.join(map(str, sorted(allowed)))}: is it of another run?"
            )


def _configuration(
    generators: Mapping[str, _Source], discriminators: Mapping[str, _Source], dropout: float | None
) -> Config:
    generator: Generator = generators["b"].network
    cycle = "a" in generators
    values = Config.load("cyclegan" if cycle else "pix2pix_noise").to_dict()
    values |= {"input_dim_a": generator.input_dim, "input_dim_b": generator.output_dim, "data_root": None}
    options: dict[str, Any] = values["options"]
    if cycle:
        options["identity"] = 0.5 if generator.input_dim == generator.output_dim else 0.0
    else:
        # Those of pix2pix: the weight of its L1 loss, and a discriminator that sees the input.
        values |= {"recon_x_w": 100.0, "init": "gaussian"}
        values["gen"]["style_dim"] = 1
        values["dis"] |= {"gan_type": "nsgan", "num_scales": 1}
        options |= {"inject": "input", "conditional_dis": True}
    values["gen"]["dim"] = generator.dim
    has_dropout = isinstance(generator, ResNet) and generator.dropout
    options["dropout"] = (_DROPOUT if has_dropout else 0.0) if dropout is None else dropout
    if isinstance(generator, UNet):
        options |= {"generator": "unet", "num_downs": generator.num_downs}
    else:
        options["generator"] = "resnet"
        values["gen"] |= {"n_downsample": generator.n_downsample, "n_res": generator.n_res}
    for item in discriminators.values():
        network: PatchGAN = item.network
        values["dis"] |= {"dim": network.dim, "n_layer": network.n_layer, "norm": network.norm}
        if not cycle:
            options["conditional_dis"] = network.input_dim != generator.output_dim
    return _with_crop(Config.from_dict(values, source="the converted configuration"))


def _with_crop(config: Config) -> Config:
    """Return a configuration whose training crops fit the networks: 256 pixels if possible."""
    options = GeneratorOptions.model_validate(
        {key: value for key, value in config.options.items() if key in GeneratorOptions.model_fields}
    )
    multiple = options.multiple(config)
    least = max(_CROP, options.min_size(config), PatchDiscriminator.min_size(config.dis))
    crop = -(-least // multiple) * multiple
    sizes = {"crop_image_height": crop, "crop_image_width": crop, "new_size": max(crop, crop * _NEW_SIZE // _CROP)}
    return Config.from_dict({**config.to_dict(), **sizes}, source="the converted configuration")
