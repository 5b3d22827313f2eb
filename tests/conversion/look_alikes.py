"""Independent networks whose weights have the public names, for comparisons of outputs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn

Norm = Callable[[int], nn.Module]
instance: Norm = nn.InstanceNorm2d
batch: Norm = nn.BatchNorm2d
instance_with_weights: Norm = partial(nn.InstanceNorm2d, affine=True)


def no_norm(_channels: int) -> nn.Module:
    return nn.Identity()


class Residual(nn.Module):
    def __init__(self, width: int, norm: Norm, dropout: bool, reflect: bool) -> None:
        super().__init__()
        bias = norm is instance
        parts: list[nn.Module] = []
        for half in range(2):
            parts += [nn.ReflectionPad2d(1)] if reflect else []
            parts += [nn.Conv2d(width, width, 3, padding=0 if reflect else 1, bias=bias), norm(width)]
            if half == 0:
                parts += [nn.ReLU(), *([nn.Dropout(0.5)] if dropout else [])]
        self.conv_block = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


def resnet(
    source: int = 3,
    target: int = 3,
    width: int = 4,
    blocks: int = 9,
    norm: Norm = instance,
    dropout: bool = False,
    levels: int = 2,
    reflect: bool = True,
    upsample_convolve: bool = False,
) -> nn.Module:
    bias = norm is instance
    parts: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(source, width, 7, bias=bias), norm(width), nn.ReLU()]
    for level in range(levels):
        inner = width << level
        parts += [nn.Conv2d(inner, 2 * inner, 3, stride=2, padding=1, bias=bias), norm(2 * inner), nn.ReLU()]
    parts += [Residual(width << levels, norm, dropout, reflect) for _ in range(blocks)]
    for level in reversed(range(levels)):
        outer = width << level
        if upsample_convolve:
            up: nn.Module = nn.Conv2d(2 * outer, outer, 3, padding=1, bias=bias)
        else:
            up = nn.ConvTranspose2d(2 * outer, outer, 3, stride=2, padding=1, output_padding=1, bias=bias)
        parts += [up, norm(outer), nn.ReLU()]
    parts += [nn.ReflectionPad2d(3), nn.Conv2d(width, target, 7), nn.Tanh()]
    return Named(nn.Sequential(*parts))


class Named(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class Level(nn.Module):
    """A level of a U-Net with the levels inside it. What enters it is concatenated to what comes out."""

    def __init__(self, parts: Iterable[nn.Module], outermost: bool) -> None:
        super().__init__()
        self.model = nn.Sequential(*parts)
        self.outermost = outermost

    def forward(self, x: Tensor) -> Tensor:
        y = self.model(x)
        return y if self.outermost else torch.cat([x, y], 1)


def unet(
    source: int = 3, target: int = 3, width: int = 2, downs: int = 8, norm: Norm = instance, dropout: bool = False
) -> nn.Module:
    bias = norm is instance
    widths = [width * min(2**level, 8) for level in range(downs)]
    level: nn.Module | None = None
    for index in reversed(range(downs)):
        outside = widths[index - 1] if index else target
        inside = widths[index] * (1 if level is None else 2)
        down = nn.Conv2d(outside if index else source, widths[index], 4, stride=2, padding=1, bias=bias)
        up = nn.ConvTranspose2d(inside, outside, 4, stride=2, padding=1, bias=bias if index else True)
        if index == 0:
            parts = [down, level, nn.ReLU(), up, nn.Tanh()]
        elif level is None:
            parts = [nn.LeakyReLU(0.2), down, nn.ReLU(), up, norm(outside)]
        else:
            parts = [nn.LeakyReLU(0.2), down, norm(widths[index]), level, nn.ReLU(), up, norm(outside)]
            parts += [nn.Dropout(0.5)] if dropout and outside == widths[index] else []
        level = Level(parts, index == 0)
    return Named(level)


def patch_gan(channels: int = 3, width: int = 4, layers: int = 3, norm: Norm = instance) -> nn.Module:
    bias = norm is instance
    parts: list[nn.Module] = [nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
    widths = [width * min(2**level, 8) for level in range(layers + 1)]
    for level in range(1, layers + 1):
        stride = 1 if level == layers else 2
        convolution = nn.Conv2d(widths[level - 1], widths[level], 4, stride=stride, padding=1, bias=bias)
        parts += [convolution, norm(widths[level]), nn.LeakyReLU(0.2)]
    return Named(nn.Sequential(*parts, nn.Conv2d(widths[-1], 1, 4, padding=1)))


def trained(network: nn.Module, seed: int) -> nn.Module:
    """Give all parameters and running statistics random values, as after training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            elif name.endswith("num_batches_tracked"):
                tensor.fill_(7)
            else:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
    return network.eval()


def with_prefix(state: OrderedDict[str, Tensor], prefix: str) -> OrderedDict[str, Tensor]:
    return OrderedDict((f"{prefix}{name}", value) for name, value in state.items())
