"""The minimum training crop for the networks of MUNIT and UNIT."""

from __future__ import annotations

from fastmunit.config import STYLE_DOWNSAMPLE, Config
from fastmunit.errors import ConfigError

_ANY_SIZE = ("munit", "unit")


def takes_any_size(config: Config) -> bool:
    """Return whether `minimum_crop` applies to the networks of `config.system`. Others check their crops themselves."""
    return config.system in _ANY_SIZE


def minimum_crop(config: Config) -> int:
    """Return the minimum height and width of a training crop, in pixels.

    A 4x4 stride-2 convolution with padding 1 needs a map of at least 2 pixels and halves it, rounding down. A chain of
    n_layer of them needs m 2^n_layer pixels, where m is the minimum size of the last map: 1, or 2 if that map is
    normalized over its pixels only (dis.norm "in", or "bn" with batch_size 1), which is undefined for a single pixel.
    The 3x3 stride-2 average pool between discriminator scales halves, rounding up, so the first of num_scales scales
    needs 2^(num_scales - 1) (m 2^n_layer - 1) + 1 pixels. The style encoder needs 2^4, and the residual blocks of the
    content encoder a map of 2. The result is rounded up to a multiple of 2^n_downsample, since reconstructions would
    otherwise be smaller than images. It is 64 for the public configurations.
    """
    only_over_pixels = config.dis.norm == "in" or (config.dis.norm == "bn" and config.batch_size == 1)
    # The first convolution of a discriminator has no norm.
    last_map = 2 if only_over_pixels and config.dis.n_layer > 1 else 1
    discriminator = 2 ** (config.dis.num_scales - 1) * (last_map * 2**config.dis.n_layer - 1) + 1
    content_encoder = 2 * 2**config.gen.n_downsample
    minimum = max(discriminator, 2**STYLE_DOWNSAMPLE, content_encoder)
    multiple = 2**config.gen.n_downsample
    return -(-minimum // multiple) * multiple


def check_crop(config: Config) -> None:
    """Raise ConfigError if crop_image_height or crop_image_width does not fit the networks of MUNIT or UNIT."""
    if not takes_any_size(config):
        return
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
