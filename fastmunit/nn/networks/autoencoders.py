"""Auto-encoders of one domain: MUNIT's with content and style codes, UNIT's with a noisy latent code."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from fastmunit import functional
from fastmunit.config import GeneratorConfig
from fastmunit.nn.fused.iteration_cache import active_cache
from fastmunit.nn.layers.blocks import AdaINParameters, LinearBlock
from fastmunit.nn.layers.norm import AdaptiveInstanceNorm2d
from fastmunit.nn.networks.decoder import Decoder
from fastmunit.nn.networks.encoders import ContentEncoder, StyleEncoder

STYLE_DOWNSAMPLE = 4
"""Number of stride-2 convolutions in every style encoder, a constant of the public trainer."""


def min_size(config: GeneratorConfig) -> int:
    """Return the minimum height and width of the images of an `AdaINGen`, in pixels.

    Each stride-2 convolution of the style encoder, and the residual blocks of the content encoder, pad a map of at
    least 2 by reflection.
    """
    return max(2**STYLE_DOWNSAMPLE, 2 * 2**config.n_downsample)


class MLP(nn.Module):
    """Multilayer perceptron from a style code, flattened to (N, input_dim), to AdaIN parameters (N, output_dim)."""

    def __init__(self, input_dim: int, output_dim: int, dim: int, n_blk: int, norm: str, activ: str) -> None:
        super().__init__()
        layers: list[nn.Module] = [LinearBlock(input_dim, dim, norm=norm, activation=activ)]
        for _ in range(n_blk - 2):
            layers.append(LinearBlock(dim, dim, norm=norm, activation=activ))
        layers.append(LinearBlock(dim, output_dim, norm="none", activation="none"))
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        cache = active_cache()
        if cache is None or functional.exact_order():
            return self.model(x.flatten(1))
        with cache.opened([weight for block in self.model for weight in cast(LinearBlock, block).weights()]):
            return self.model(x.flatten(1))


class AdaINGen(nn.Module):
    """MUNIT's auto-encoder, with a content code and a style code.

    `encode` takes an image (N, input_dim, H, W) to a content code (N, C, H / 2^n, W / 2^n) and a style code
    (N, style_dim, 1, 1). `decode` takes both to an image in [-1, 1]. The output has the size of the input if H and W
    are multiples of 2^n, with n = n_downsample. Source: MUNIT paper, section 3.2 and figure 3.

    Args:
        input_dim: Channels of the images.
        config: The `gen` section.
    """

    def __init__(self, input_dim: int, config: GeneratorConfig) -> None:
        super().__init__()
        activ, pad_mode = config.activ, config.pad_type
        self.enc_style = StyleEncoder(
            STYLE_DOWNSAMPLE, input_dim, config.dim, config.style_dim, norm="none", activ=activ, pad_mode=pad_mode
        )
        self.enc_content = ContentEncoder(
            config.n_downsample, config.n_res, input_dim, config.dim, norm="in", activ=activ, pad_mode=pad_mode
        )
        self.dec = Decoder(
            config.n_downsample,
            config.n_res,
            self.enc_content.output_dim,
            input_dim,
            res_norm="adain",
            activ=activ,
            pad_mode=pad_mode,
        )
        self.mlp = MLP(config.style_dim, num_adain_params(self.dec), config.mlp_dim, 3, norm="none", activ=activ)

    def forward(self, images: Tensor) -> Tensor:
        """Reconstruct images: decode(*encode(images))."""
        content, style = self.encode(images)
        return self.decode(content, style)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return (content code, style code) of images (N, input_dim, H, W)."""
        style = self.enc_style(images)
        content = self.enc_content(images)
        return content, style

    def decode(self, content: Tensor, style: Tensor) -> Tensor:
        """Return the images (N, input_dim, H, W) in [-1, 1] with these content and style codes.

        A single content code (1, C, H, W) is used for all style codes; everything before the first AdaIN is then
        computed once. A single style code is used for all content codes.

        Raises:
            ValueError: If the numbers of content and style codes differ, and neither is 1.
        """
        contents, styles = content.shape[0], style.shape[0]  # len() would fix them in an exported graph
        if contents != styles and 1 not in (contents, styles):
            raise ValueError(
                f"got {contents} content codes and {styles} style codes: pass equal numbers, or one of either."
            )
        parameters = self.mlp(style)
        if styles < contents:
            styles, parameters = contents, parameters.expand(contents, -1)
        images = self.dec(content, AdaINParameters(parameters))
        return images if images.shape[0] == styles else images.expand(styles, -1, -1, -1)


class VAEGen(nn.Module):
    """UNIT's variational auto-encoder, with one latent code.

    `encode` takes an image (N, input_dim, H, W) to the mean h (N, C, H / 2^n, W / 2^n) of the posterior N(h, I), and to
    noise from N(0, I) in the same shape. `decode` takes a latent code, h or h + noise, to an image in [-1, 1]. The
    output has the size of the input if H and W are multiples of 2^n, with n = n_downsample. The variance of the
    posterior is fixed. Source: Liu, Breuel, Kautz, "Unsupervised Image-to-Image Translation Networks", NIPS 2017,
    section 3.

    Args:
        input_dim: Channels of the images.
        config: The `gen` section. mlp_dim and style_dim are not used.
        noise_on_cpu: Draw noise from torch's global CPU generator, as the public code does, instead of the generator of
            the images' device.
    """

    def __init__(self, input_dim: int, config: GeneratorConfig, *, noise_on_cpu: bool = False) -> None:
        super().__init__()
        self.noise_on_cpu = noise_on_cpu
        self._n_downsample = config.n_downsample
        activ, pad_mode = config.activ, config.pad_type
        self.enc = ContentEncoder(
            config.n_downsample, config.n_res, input_dim, config.dim, norm="in", activ=activ, pad_mode=pad_mode
        )
        self.dec = Decoder(
            config.n_downsample,
            config.n_res,
            self.enc.output_dim,
            input_dim,
            res_norm="in",
            activ=activ,
            pad_mode=pad_mode,
        )

    def forward(self, images: Tensor) -> Tensor:
        """Reconstruct images: decode(h + noise) in training, decode(h) in evaluation."""
        hidden, noise = self.encode(images)
        return self.decode(hidden + noise if self.training else hidden)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return (h, noise) of images (N, input_dim, H, W): two tensors with the same shape and dtype."""
        hidden = self.enc(images)
        return hidden, self.draw_noise(images).to(hidden.dtype)

    def decode(self, latent: Tensor) -> Tensor:
        """Return the images (N, input_dim, H, W) in [-1, 1] of latent codes."""
        return self.dec(latent)

    def draw_noise(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw noise from N(0, I) for the latent codes of images (N, ..., H, W), in float32 for any dtype.

        Args:
            images: The images.
            generator: A generator on the CPU to draw from, instead of the global one.
        """
        height, width = (side >> self._n_downsample for side in images.shape[-2:])
        shape = (len(images), self.enc.output_dim, height, width)
        if self.noise_on_cpu or generator is not None:
            return torch.randn(shape, generator=generator).to(images.device)
        return torch.randn(shape, device=images.device)


def num_adain_params(decoder: nn.Module) -> int:
    """Return the number of AdaIN parameters of a decoder per sample: a bias and a weight per feature and layer."""
    return sum(2 * m.num_features for m in decoder.modules() if isinstance(m, AdaptiveInstanceNorm2d))
