"""The options of `fused_norm`, which the public function, the op, the reference and the Triton kernels share."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

Statistics = Literal["instance", "layer", "none"]
Activation = Literal["none", "relu", "leaky_relu"]
PadMode = Literal["reflect", "replicate", "zero"]

STATISTICS: tuple[Statistics, ...] = get_args(Statistics)
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)
PAD_MODES: tuple[PadMode, ...] = get_args(PadMode)
PADS = (0, 1, 2, 3)


class FusedNormOptions(NamedTuple):
    """Options of `fused_norm`, in the order of the op's schema.

    Attributes:
        statistics: Set of values that share a mean and a standard deviation: each (sample, channel) plane ("instance"),
            each sample ("layer"), or no normalization ("none").
        activation: Function applied after the affine map: "relu", "leaky_relu" or "none".
        negative_slope: Slope of LeakyReLU for negative inputs.
        pad: Number of pixels added on each side, 0 to 3.
        pad_mode: Values of the added pixels: "reflect", "replicate" or "zero".
        eps: Number added to the variance ("instance") or to the standard deviation ("layer").
        pixel_shuffle: True if x is pixel-unshuffled, with channels (C, 2, 2), and must be shuffled on the way.
    """

    statistics: Statistics
    activation: Activation = "none"
    negative_slope: float = 0.2
    pad: int = 0
    pad_mode: PadMode = "reflect"
    eps: float = 1e-5
    pixel_shuffle: bool = False

    def check(self) -> None:
        """Raise ValueError, which names the option, if a value is not allowed."""
        check_choice("fused_norm", "statistics", self.statistics, STATISTICS)
        check_choice("fused_norm", "activation", self.activation, ACTIVATIONS)
        check_choice("fused_norm", "pad_mode", self.pad_mode, PAD_MODES)
        check_choice("fused_norm", "pad", self.pad, PADS)

    def result_shape(self, x_shape: Sequence[int]) -> tuple[int, int, int, int]:
        """Return (N, C, H, W) of the result without its pad."""
        n, c, h, w = x_shape
        return (n, c // 4, 2 * h, 2 * w) if self.pixel_shuffle else (n, c, h, w)


def check_choice(function: str, option: str, value: object, choices: Sequence[object]) -> None:
    """Raise ValueError if an option of a public function does not have one of its values."""
    if value not in choices:
        raise ValueError(f"{function}: expected {option} to be one of {', '.join(map(repr, choices))}, got {value!r}")
