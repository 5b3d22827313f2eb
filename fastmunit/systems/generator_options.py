"""Options of the generators of CycleGAN and BicycleGAN, and the networks that they describe."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import nn

from fastmunit.config import Config
from fastmunit.errors import ConfigError
from fastmunit.nn.networks.discriminators import PatchDiscriminator
from fastmunit.nn.networks.resnet import ResNetGenerator
from fastmunit.nn.networks.unet import MIN_DOWNS_WITH_DROPOUT, Injection, UNet, Upsampling
from fastmunit.systems.definition import SystemOptions

FREE_GENERATOR_OPTIONS = frozenset({"dropout", "dropout_at_test", "init_gain"})
"""The keys of `GeneratorOptions` that may change when a run is resumed."""


class GeneratorOptions(SystemOptions):
    """Options of the generators; `gen.dim` of the configuration is the channel count of their first layer."""

    generator: Literal["resnet", "unet"] = Field("resnet", description="architecture of the generators")
    num_downs: int = Field(
        default=8, ge=2, le=16, description="U-Net: stride-2 convolutions; crops are multiples of 2^this"
    )
    inject: Injection = Field(
        "input", description="U-Net: input of noise or style: the first layer, or all downsampling layers"
    )
    upsample: Upsampling = Field("transposed", description="U-Net: transposed convolutions, or bilinear upsampling")
    dropout: float = Field(0, ge=0, lt=1, description="rate of dropout in the generators")
    dropout_at_test: bool = Field(False, description="keep dropout on when translating")
    init_gain: float = Field(0.02, gt=0, description="gain of init xavier and orthogonal")

    def multiple(self, config: Config) -> int:
        """Return the number that height and width of the generators' input must be multiples of."""
        return 2 ** (self.num_downs if self.generator == "unet" else config.gen.n_downsample)

    def min_size(self, config: Config) -> int:
        """Return the minimum height and width of the input of generators and encoder."""
        multiple = self.multiple(config)
        return multiple if self.generator == "unet" else max(4, 2 * multiple)


def make_generator(
    options: GeneratorOptions, config: Config, input_dim: int, output_dim: int, latent_dim: int
) -> nn.Module:
    """Return a network from images (N, input_dim, H, W) and vectors (N, latent_dim) to images (N, output_dim, H, W)."""
    if options.generator == "unet":
        return UNet(
            input_dim,
            output_dim,
            config.gen.dim,
            options.num_downs,
            latent_dim,
            options.inject,
            options.upsample,
            options.dropout,
            options.dropout_at_test,
        )
    return ResNetGenerator(
        input_dim,
        output_dim,
        config.gen.dim,
        config.gen.n_downsample,
        config.gen.n_res,
        latent_dim,
        config.gen.pad_type,
        options.dropout,
        options.dropout_at_test,
    )


def check_generators(config: Config, options: GeneratorOptions) -> None:
    """Check that the training crop and other keys fit the networks.

    Raises:
        ConfigError: If they do not. The message names the key and the fix.
    """
    minimum = max(options.min_size(config), PatchDiscriminator.min_size(config.dis))
    multiple = options.multiple(config)
    why = f"gen.n_downsample {config.gen.n_downsample}"
    if options.generator == "unet":
        why = f"options.num_downs {options.num_downs}"
    for key in ("crop_image_height", "crop_image_width"):
        crop: int = getattr(config, key)
        if crop < minimum:
            raise ConfigError(
                f"{key} is {crop}, but the networks need at least {minimum} (generator {options.generator} with {why}, "
                f"dis.n_layer {config.dis.n_layer}, dis.num_scales {config.dis.num_scales}): raise {key} (and "
                "new_size), or lower those."
            )
        if crop % multiple:
            below = crop // multiple * multiple
            nearest = f"{below} or {below + multiple}" if below >= minimum else f"{below + multiple}"
            raise ConfigError(f"{key} is {crop}, not a multiple of {multiple}, as {why} requires: use {nearest}.")
    if options.generator == "resnet" and options.inject == "all":
        raise ConfigError("options.inject all needs options.generator unet: a resnet takes noise at its first layer.")
    if options.dropout and options.generator == "unet" and options.num_downs < MIN_DOWNS_WITH_DROPOUT:
        raise ConfigError(
            f"options.dropout is {options.dropout:g}, but a U-Net of options.num_downs {options.num_downs} has no "
            f"layer for it: use num_downs {MIN_DOWNS_WITH_DROPOUT} or more, or dropout 0."
        )
    if options.dropout and options.generator == "resnet" and config.gen.n_res == 0:
        raise ConfigError(
            f"options.dropout is {options.dropout:g}, but without residual blocks (gen.n_res 0) there is no layer for "
            "it: use dropout 0."
        )
    if options.dropout and config.checkpointing:
        raise ConfigError(
            "checkpointing would draw other dropout masks in backward: set checkpointing to false or options.dropout "
            "to 0."
        )
    if config.share_fakes:
        raise ConfigError(
            f"in system {config.system!r} both halves of an iteration see the same images anyway: set share_fakes to "
            "false."
        )
    if config.vgg_w > 0:
        raise ConfigError(f"system {config.system!r} has no perceptual loss: set vgg_w to 0.")
