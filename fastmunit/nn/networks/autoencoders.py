"""Auto-encoders of one domain: MUNIT's with a content and a style code, UNIT's with a noisy latent code."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastmunit.config import STYLE_DOWNSAMPLE, GeneratorConfig
from fastmunit.nn.layers.blocks import AdaINParameters, LinearBlock
from fastmunit.nn.layers.norm import AdaptiveInstanceNorm2d
from fastmunit.nn.networks.decoder import Decoder
from fastmunit.nn.networks.encoders import ContentEncoder, StyleEncoder


class MLP(nn.Module):
    """Style code (N, ...) flattened to (N, input_dim), to AdaIN parameters (N, output_dim)."""

    def __init__(self, input_dim: int, output_dim: int, dim: int, n_blk: int, norm: str, activ: str) -> None:
        super().__init__()
        layers: list[nn.Module] = [LinearBlock(input_dim, dim, norm=norm, activation=activ)]
        for _ in range(n_blk - 2):
            layers.append(LinearBlock(dim, dim, norm=norm, activation=activ))
        layers.append(LinearBlock(dim, output_dim, norm="none", activation="none"))
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.flatten(1))


class AdaINGen(nn.Module):
    """Auto-encoder with a content code and a style code.

    encode: image (N, input_dim, H, W) to content (N, C, H / 2^n, W / 2^n) and style (N, style_dim, 1, 1);
    decode: (content, style) to an image in [-1, 1]. H and W must be multiples of 2^n_downsample for the output to have
    the input's size. Source: MUNIT paper, section 3.2 and figure 3.
    """

    def __init__(self, input_dim: int, config: GeneratorConfig) -> None:
        super().__init__()
        activ, pad_type = config.activ, config.pad_type
        self.enc_style = StyleEncoder(
            STYLE_DOWNSAMPLE, input_dim, config.dim, config.style_dim, norm="none", activ=activ, pad_type=pad_type
        )
        self.enc_content = ContentEncoder(
            config.n_downsample, config.n_res, input_dim, config.dim, norm="in", activ=activ, pad_type=pad_type
        )
        self.dec = Decoder(
            config.n_downsample,
            config.n_res,
            self.enc_content.output_dim,
            input_dim,
            res_norm="adain",
            activ=activ,
            pad_type=pad_type,
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
        """Return the images (N, input_dim, H, W) in [-1, 1] with this content code and this style code.

        One content code (1, C, H, W) goes with any number of style codes: what comes before the first AdaIN is then
        computed once. One style code goes with any number of content codes.

        Raises:
            ValueError: The numbers of content and style codes differ, and neither is 1.
        """
        if len(content) != len(style) and 1 not in (len(content), len(style)):
            raise ValueError(
                f"content has {len(content)} codes, style {len(style)}: give equal numbers, or one of either."
            )
        parameters = self.mlp(style)
        if len(style) < len(content):
            style, parameters = (codes.expand(len(content), *codes.shape[1:]) for codes in (style, parameters))
        images = self.dec(content, AdaINParameters(parameters))
        return images if len(images) == len(style) else images.expand(len(style), -1, -1, -1)


class VAEGen(nn.Module):
    """Variational auto-encoder with one latent code.

    encode: image (N, input_dim, H, W) to the mean h (N, C, H / 2^n, W / 2^n) of the posterior N(h, I), and noise from
    N(0, I) of its shape; decode: a latent code, h or h + noise, to an image in [-1, 1]. H and W must be multiples of
    2^n_downsample for the output to have the input's size. Source: Liu, Breuel, Kautz, "Unsupervised Image-to-Image
    Translation Networks", NIPS 2017, section 3; the posterior's variance is fixed.

    Args:
        input_dim: channels of the images.
        config: the `gen` section; its mlp_dim and style_dim are not used.
        noise_on_cpu: draw noise from torch's global CPU generator, as the public code does, instead of the generator of
            the device that the images are on.
    """

    def __init__(self, input_dim: int, config: GeneratorConfig, *, noise_on_cpu: bool = False) -> None:
        super().__init__()
        self.noise_on_cpu = noise_on_cpu
        self._n_downsample = config.n_downsample
        activ, pad_type = config.activ, config.pad_type
        self.enc = ContentEncoder(
            config.n_downsample, config.n_res, input_dim, config.dim, norm="in", activ=activ, pad_type=pad_type
        )
        self.dec = Decoder(
            config.n_downsample,
            config.n_res,
            self.enc.output_dim,
            input_dim,
            res_norm="in",
            activ=activ,
            pad_type=pad_type,
        )

    def forward(self, images: Tensor) -> Tensor:
        """Reconstruct images: decode(h + noise) in training, decode(h) in evaluation."""
        hidden, noise = self.encode(images)
        return self.decode(hidden + noise if self.training else hidden)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return (h, noise) of images (N, input_dim, H, W): two tensors of one shape and dtype."""
        hidden = self.enc(images)
        return hidden, self.draw_noise(images).to(hidden.dtype)

    def decode(self, latent: Tensor) -> Tensor:
        """Return the images (N, input_dim, H, W) in [-1, 1] of latent codes."""
        return self.dec(latent)

    def draw_noise(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Noise from N(0, I) for the latent codes of images (N, ..., H, W), in float32 whatever their dtype.

        With a `generator` it is drawn from that, on the CPU.
        """
        height, width = (side >> self._n_downsample for side in images.shape[-2:])
        shape = (len(images), self.enc.output_dim, height, width)
        if self.noise_on_cpu or generator is not None:
            return torch.randn(shape, generator=generator).to(images.device)
        return torch.randn(shape, device=images.device)


def num_adain_params(decoder: nn.Module) -> int:
    """How many AdaIN parameters a decoder needs per sample: a bias and a weight for each feature of each layer."""
    return sum(2 * m.num_features for m in decoder.modules() if isinstance(m, AdaptiveInstanceNorm2d))
