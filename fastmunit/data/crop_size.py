"""The smallest training crop that the networks of MUNIT and UNIT can take."""

from __future__ import annotations

from fastmunit.config import STYLE_DOWNSAMPLE, Config
from fastmunit.errors import ConfigError

_ANY_SIZE = ("munit", "unit")


def takes_any_size(config: Config) -> bool:
    """Whether `minimum_crop` is right for the networks of `config.system`; others check their crops themselves."""
    return config.system in _ANY_SIZE


def minimum_crop(config: Config) -> int:
    """The least height or width of a training crop, in pixels.

    Every 4x4 stride-2 convolution pads by 1 and needs a map of at least 2, which it halves, rounding down: n_layer of
    them need m 2^n_layer pixels, where m is the least size of the last map: 1, or 2 where it is normalised over
    its pixels alone (dis.norm "in", or "bn" with batch_size 1), which has no meaning for a single one. The 3x3 stride-2
    average pool between discriminator scales halves, rounding up, so the first of num_scales scales needs
    2^(num_scales - 1) (m 2^n_layer - 1) + 1. The style encoder needs 2^4, the content encoder's residual blocks a map
    of 2. The result is rounded up to a multiple of 2^n_downsample, without which
    reconstructions are smaller than images: 64 for the public configurations.
    """
    over_pixels_alone = config.dis.norm == "in" or (config.dis.norm == "bn" and config.batch_size == 1)
    # The first convolution of a discriminator is never normalised.
    last_map = 2 if over_pixels_alone and config.dis.n_layer > 1 else 1
    discriminator = 2 ** (config.dis.num_scales - 1) * (last_map * 2**config.dis.n_layer - 1) + 1
    content_encoder = 2 * 2**config.gen.n_downsample
    least = max(discriminator, 2**STYLE_DOWNSAMPLE, content_encoder)
    multiple = 2**config.gen.n_downsample
    return -(-least // multiple) * multiple


def check_crop(config: Config) -> None:
    """Raises ConfigError when crop_image_height or crop_image_width does not fit the networks of MUNIT or UNIT."""
    if not takes_any_size(config):
        return
    least, multiple = minimum_crop(config), 2**config.gen.n_downsample
    for key in ("crop_image_height", "crop_image_width"):
        crop: int = getattr(config, key)
        if crop < least:
            raise ConfigError(
                f"{key} is {crop}, but dis.num_scales {config.dis.num_scales} with dis.n_layer {config.dis.n_layer}, "
                f"dis.norm {config.dis.norm} at batch_size {config.batch_size} and gen.n_downsample "
                f"{config.gen.n_downsample} need at least {least}: raise {key} (and new_size), or lower dis.num_scales "
                "or dis.n_layer."
            )
        if crop % multiple:
            below = crop // multiple * multiple
            raise ConfigError(
                f"{key} is {crop}, not a multiple of {multiple} (2 to the power of gen.n_downsample), so "
                f"reconstructions would be smaller than images: use {below} or {below + multiple}."
            )
