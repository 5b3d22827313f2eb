"""The decoder shared by MUNIT (AdaIN residual blocks) and UNIT (instance norm)."""

from __future__ import annotations

from torch import Tensor, nn

from fastmunit.nn.layers.blocks import AdaINParameters, Conv2dBlock, ResBlocks, chain_of


class Decoder(nn.Module):
    """Decoder of a content code (N, dim, H, W) to an image (N, output_dim, H * 2^n_upsample, W * 2^n_upsample).

    n_res residual blocks with norm `res_norm`, then n_upsample times { nearest-neighbor upsampling by 2, 5x5
    convolution that halves the channels, layer norm }, then a 7x7 convolution and tanh. Instance norm instead of layer
    norm would undo the statistics that AdaIN has set. Values of the image are in [-1, 1]. Source: MUNIT paper,
    appendix B.2.
    """

    def __init__(
        self, n_upsample: int, n_res: int, dim: int, output_dim: int, res_norm: str, activ: str, pad_mode: str
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [ResBlocks(n_res, dim, norm=res_norm, activation=activ, pad_mode=pad_mode)]
        for _ in range(n_upsample):
            layers.append(nn.Upsample(scale_factor=2))
            layers.append(Conv2dBlock(dim, dim // 2, 5, 1, 2, norm="ln", activation=activ, pad_mode=pad_mode))
            dim //= 2
        layers.append(Conv2dBlock(dim, output_dim, 7, 1, 3, norm="none", activation="tanh", pad_mode=pad_mode))
        self.model = nn.ModuleList(layers)

    def forward(self, content: Tensor, adain: AdaINParameters | None = None) -> Tensor:
        return chain_of(self.model, adain).run(content)
