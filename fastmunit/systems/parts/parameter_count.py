"""Estimates of parameter counts, for refusing networks that would not fit into memory before they are built."""

from __future__ import annotations

from collections.abc import Mapping

from fastmunit.config import Config, GeneratorConfig
from fastmunit.errors import ConfigError

MAX_PARAMETERS = 2**31
"""Limit for all networks together. Those of the public configurations have about 5e7."""

Estimate = Mapping[str, int]
"""Number of parameters by the configuration keys that decide it, as text for messages."""

_MAX_WIDTH = 8  # maximum channels in the networks of CycleGAN and BicycleGAN, in multiples of dim


def require_parameters(estimate: Estimate) -> None:
    """Raise ConfigError if the networks would be too large. The message names the keys of the largest part."""
    total = sum(estimate.values())
    if total > MAX_PARAMETERS:
        keys = max(estimate, key=lambda part: estimate[part])
        raise ConfigError(
            f"the networks would have about {total:.1e} parameters, more than the limit of {MAX_PARAMETERS:.1e}: "
            f"lower some of {keys}."
        )


def public_networks(config: Config) -> Estimate:
    """Estimate the networks of MUNIT and UNIT: two auto-encoders and two multi-scale discriminators."""
    gen, dis = config.gen, config.dis
    widest = gen.dim << gen.n_downsample
    mlp = gen.mlp_dim * (gen.style_dim + gen.mlp_dim + 8 * gen.n_res * widest)
    per_scale = sum(_convolution(4, dis.dim << layer, dis.dim << (layer + 1)) for layer in range(dis.n_layer - 1))
    channels = 50 * (config.input_dim_a + config.input_dim_b)
    return {
        _generator_keys(gen): 2 * (_scaling(gen) + 2 * _residual_blocks(gen) + mlp) + channels * gen.dim,
        _discriminator_keys(config): 2 * dis.num_scales * per_scale + channels * dis.dim,
    }


def translation_networks(
    config: Config, generator: str, num_downs: int, encoder_dim: int = 0, encoder_blocks: int = 0
) -> Estimate:
    """Estimate the networks of CycleGAN and BicycleGAN: two generators, two discriminators, an encoder."""
    gen, dis = config.gen, config.dis
    channels = 50 * (config.input_dim_a + config.input_dim_b)
    if generator == "unet":
        keys = f"gen.dim ({gen.dim}), options.num_downs ({num_downs})"
        one = 3 * sum(_convolution(4, *_capped(gen.dim, level)) for level in range(num_downs - 1))
    else:
        keys = _generator_keys(gen)
        one = _scaling(gen) + _residual_blocks(gen)
    per_scale = sum(_convolution(4, *_capped(dis.dim, layer)) for layer in range(dis.n_layer))
    encoder = encoder_blocks * 2 * _convolution(3, 4 * encoder_dim, 4 * encoder_dim)
    return {
        keys: 2 * one + channels * gen.dim,
        _discriminator_keys(config): 2 * dis.num_scales * per_scale + channels * dis.dim,
        f"options.encoder_dim ({encoder_dim}), options.encoder_blocks ({encoder_blocks})": encoder,
    }


def _convolution(side: int, channels: int, filters: int) -> int:
    return side * side * channels * filters


def _scaling(gen: GeneratorConfig) -> int:
    """Estimate the downsampling layers, with kernels of 4, and the upsampling layers, with kernels of 5."""
    return sum(
        _convolution(4, gen.dim << level, gen.dim << (level + 1))
        + _convolution(5, gen.dim << (level + 1), gen.dim << level)
        for level in range(gen.n_downsample)
    )


def _residual_blocks(gen: GeneratorConfig) -> int:
    widest = gen.dim << gen.n_downsample
    return gen.n_res * 2 * _convolution(3, widest, widest)


def _capped(dim: int, level: int) -> tuple[int, int]:
    return dim * min(2**level, _MAX_WIDTH), dim * min(2 ** (level + 1), _MAX_WIDTH)


def _generator_keys(gen: GeneratorConfig) -> str:
    return (
        f"gen.dim ({gen.dim}), gen.n_downsample ({gen.n_downsample}), gen.n_res ({gen.n_res}), "
        f"gen.mlp_dim ({gen.mlp_dim})"
    )


def _discriminator_keys(config: Config) -> str:
    dis = config.dis
    return f"dis.dim ({dis.dim}), dis.n_layer ({dis.n_layer}), dis.num_scales ({dis.num_scales})"
