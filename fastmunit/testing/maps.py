"""The feature maps of a MUNIT step, and the fused op that follows each convolution."""

from dataclasses import dataclass
from typing import Literal

BATCHES = (1, 4)


@dataclass(frozen=True)
class Map:
    """One feature map and the op on it.

    Attributes:
        network: Network of the map: content encoder, style encoder, decoder or discriminator.
        channels: Number of channels C.
        height: Height H.
        width: Width W.
        statistics: "instance" (per channel), "layer" (per sample) or "none" (no norm, only bias and activation).
        weight: Source of weight and bias: "none", "channel" (parameters) or "style" (AdaIN, per sample and channel).
        activation: "none", "relu" or "leaky_relu".
        residual: True if a residual is added after the activation.
        pad: Padding of the next convolution in pixels; 0 if none follows.
        count: Number of such maps in one pass through the network.
    """

    network: Literal["content encoder", "style encoder", "decoder", "discriminator"]
    channels: int
    height: int
    width: int
    statistics: Literal["instance", "layer", "none"]
    weight: Literal["none", "channel", "style"]
    activation: Literal["none", "relu", "leaky_relu"]
    residual: bool
    pad: int
    count: int


def munit_maps(size: int = 256) -> list[Map]:
    """Return the maps of the public MUNIT configurations for square images.

    gen: dim 64, n_downsample 2, n_res 4; dis: dim 64, n_layer 4, norm none, 3 scales.

    Args:
        size: Height and width of the images in pixels.
    """
    full, half, quarter = size, size // 2, size // 4
    maps = [
        Map("content encoder", 64, full, full, "instance", "none", "relu", False, 1, 1),
        Map("content encoder", 128, half, half, "instance", "none", "relu", False, 1, 1),
        Map("content encoder", 256, quarter, quarter, "instance", "none", "relu", False, 1, 5),
        Map("content encoder", 256, quarter, quarter, "instance", "none", "none", True, 1, 4),
        Map("decoder", 256, quarter, quarter, "instance", "style", "relu", False, 1, 4),
        Map("decoder", 256, quarter, quarter, "instance", "style", "none", True, 1, 3),
        Map("decoder", 256, quarter, quarter, "instance", "style", "none", True, 0, 1),
        Map("decoder", 128, half, half, "layer", "channel", "relu", False, 0, 1),
        Map("decoder", 64, full, full, "layer", "channel", "relu", False, 3, 1),
        Map("style encoder", 64, full, full, "none", "none", "relu", False, 1, 1),
        Map("style encoder", 128, half, half, "none", "none", "relu", False, 1, 1),
        Map("style encoder", 256, quarter, quarter, "none", "none", "relu", False, 1, 1),
        Map("style encoder", 256, quarter // 2, quarter // 2, "none", "none", "relu", False, 1, 1),
        Map("style encoder", 256, quarter // 4, quarter // 4, "none", "none", "relu", False, 0, 1),
    ]
    for scale in range(3):
        for layer in range(4):
            side = size >> (scale + layer + 1)
            pad = 1 if layer < 3 else 0
            channels = 64 << layer
            maps.append(Map("discriminator", channels, side, side, "none", "none", "leaky_relu", False, pad, 1))
    return maps
