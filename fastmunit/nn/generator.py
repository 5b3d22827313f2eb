"""MUNIT's auto-encoder of one domain."""

from __future__ import annotations

from torch import Tensor, nn

from fastmunit.config import STYLE_DOWNSAMPLE, GeneratorConfig
from fastmunit.nn.blocks import AdaINParameters, LinearBlock
from fastmunit.nn.decoder import Decoder
from fastmunit.nn.encoders import ContentEncoder, StyleEncoder
from fastmunit.nn.norm import AdaptiveInstanceNorm2d


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
        """Return the images (N, input_dim, H, W) in [-1, 1] with this content code and this style code."""
        return self.dec(content, AdaINParameters(self.mlp(style)))


def num_adain_params(decoder: nn.Module) -> int:
    """How many AdaIN parameters a decoder needs per sample: a bias and a weight for each feature of each layer."""
    return sum(2 * m.num_features for m in decoder.modules() if isinstance(m, AdaptiveInstanceNorm2d))
