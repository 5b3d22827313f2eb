"""The minimum training crop for MUNIT and UNIT."""

from __future__ import annotations

from fastmunit.config import Config
from fastmunit.errors import ConfigError
from fastmunit.nn.networks import autoencoders
from fastmunit.nn.networks.discriminators import MsImageDis


def minimum_crop(config: Config) -> int:
    """Return the minimum height and width of a training crop for the networks of MUNIT and UNIT, in pixels.

    It is rounded up to a multiple of 2^n_downsample, since reconstructions would otherwise be smaller than images: 64
    for the public configurations.
    """
    multiple = 2**config.gen.n_downsample
    minimum = max(MsImageDis.min_size(config.dis, config.batch_size), autoencoders.min_size(config.gen))
    return -(-minimum // multiple) * multiple


def check_crop(config: Config) -> None:
    """Raise ConfigError if crop_image_height or crop_image_width does not fit the networks of MUNIT or UNIT."""
    minimum, multiple = minimum_crop(config), 2**config.gen.n_downsample
    for key in ("crop_image_height", "crop_image_width"):
        crop: int = getattr(config, key)
        if crop < minimum:
            raise ConfigError(
                f"{key} is {crop}, but dis.num_scales {config.dis.num_scales} with dis.n_layer {config.dis.n_layer}, "
                f"dis.norm {config.dis.norm} at batch_size {config.batch_size} and gen.n_downsample "
                f"{config.gen.n_downsample} need at least {minimum}: raise {key} (and new_size), or lower "
                "dis.num_scales or dis.n_layer."
            )
        if crop % multiple:
            below = crop // multiple * multiple
            raise ConfigError(
                f"{key} is {crop}, not a multiple of {multiple} (2 to the power of gen.n_downsample), so "
                f"reconstructions would be smaller than images: use {below} or {below + multiple}."
            )
