"""Content and style encoders of MUNIT."""

from __future__ import annotations

from torch import Tensor, nn

from fastmunit.nn.layers.blocks import Conv2dBlock, ResBlocks, chain_of


class ContentEncoder(nn.Module):
    """Encoder of an image (N, C, H, W) to a content code (N, dim * 2^n, H / 2^n, W / 2^n) with n = n_downsample.

    A 7x7 convolution, n_downsample 4x4 convolutions with stride 2 that double the channels, n_res residual blocks.
    Source: MUNIT paper, appendix B.2.
    """

    def __init__(
        self, n_downsample: int, n_res: int, input_dim: int, dim: int, norm: str, activ: str, pad_mode: str
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [Conv2dBlock(input_dim, dim, 7, 1, 3, norm=norm, activation=activ, pad_mode=pad_mode)]
        for _ in range(n_downsample):
            layers.append(Conv2dBlock(dim, 2 * dim, 4, 2, 1, norm=norm, activation=activ, pad_mode=pad_mode))
            dim *= 2
        layers.append(ResBlocks(n_res, dim, norm=norm, activation=activ, pad_mode=pad_mode))
        self.model = nn.Sequential(*layers)
        self.output_dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return chain_of(self.model).run(x)


class StyleEncoder(nn.Module):
    """Encoder of an image (N, C, H, W) to a style code (N, style_dim, 1, 1).

    A 7x7 convolution, two 4x4 convolutions with stride 2 that double the channels, n_downsample - 2 more that keep
    them, global average pooling, and a 1x1 convolution. There is no instance norm, which would remove the mean and
    variance that carry the style. Source: MUNIT paper, appendix B.2.
    """

    def __init__(
        self, n_downsample: int, input_dim: int, dim: int, style_dim: int, norm: str, activ: str, pad_mode: str
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [Conv2dBlock(input_dim, dim, 7, 1, 3, norm=norm, activation=activ, pad_mode=pad_mode)]
        for _ in range(2):
            layers.append(Conv2dBlock(dim, 2 * dim, 4, 2, 1, norm=norm, activation=activ, pad_mode=pad_mode))
            dim *= 2
        for _ in range(n_downsample - 2):
            layers.append(Conv2dBlock(dim, dim, 4, 2, 1, norm=norm, activation=activ, pad_mode=pad_mode))
        layers.append(nn.AdaptiveAvgPool2d(1))
        layers.append(nn.Conv2d(dim, style_dim, 1, 1, 0))
        self.model = nn.Sequential(*layers)
        self.output_dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return chain_of(self.model).run(x)
