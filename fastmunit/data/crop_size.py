"""The smallest training crop that the networks of a configuration can take."""

from __future__ import annotations

from fastmunit.config import Config
from fastmunit.errors import ConfigError

# The style encoder halves its input this often, whatever the configuration says.
_STYLE_ENCODER_HALVINGS = 4


def minimum_crop(config: Config) -> int:
    """The least height or width of a training crop, in pixels.

    Every 4x4 stride-2 convolution pads by 1 and needs a map of at least 2, which it halves, rounding down: n_layer of
    them need 2^n_layer pixels. The 3x3 stride-2 average pool between discriminator scales halves, rounding up, so the
    first of num_scales scales needs 2^(num_scales - 1) (2^n_layer - 1) + 1. The style encoder needs 2^4, the content
    encoder's residual blocks a map of 2. The result is rounded up to a multiple of 2^n_downsample, without which
    reconstructions are smaller than images: 64 for the public configurations.
    """
    discriminator = 2 ** (config.dis.num_scales - 1) * (2**config.dis.n_layer - 1) + 1
    content_encoder = 2 * 2**config.gen.n_downsample
    least = max(discriminator, 2**_STYLE_ENCODER_HALVINGS, content_encoder)
    multiple = 2**config.gen.n_downsample
    return -(-least // multiple) * multiple


def check_crop(config: Config) -> None:
    """Raises ConfigError when crop_image_height or crop_image_width does not fit the networks."""
    least, multiple = minimum_crop(config), 2**config.gen.n_downsample
    for key in ("crop_image_height", "crop_image_width"):
        crop: int = getattr(config, key)
        if crop < least:
            raise ConfigError(
                f"{key} is {crop}, but dis.num_scales {config.dis.num_scales} with dis.n_layer {config.dis.n_layer} "
                f"and gen.n_downsample {config.gen.n_downsample} need at least {least}: raise {key} (and new_size), "
                "or lower dis.num_scales or dis.n_layer."
            )
        if crop % multiple:
            below = crop // multiple * multiple
            raise ConfigError(
                f"{key} is {crop}, not a multiple of {multiple} (2 to the power of gen.n_downsample), so "
                f"reconstructions would be smaller than images: use {below} or {below + multiple}."
            )
