"""Speed up a third-party network with `fastmunit.accelerate`, and measure a training step before and after.

python examples/accelerate.py
"""

import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

import fastmunit


def block(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    """Build pad, convolution, instance norm and ReLU, as many image-to-image networks do."""
    convolution = nn.Conv2d(in_channels, out_channels, 3, stride)
    return nn.Sequential(nn.ReflectionPad2d(1), convolution, nn.InstanceNorm2d(out_channels), nn.ReLU())


network = nn.Sequential(block(3, 32), block(32, 64, 2), block(64, 64), block(64, 64), block(64, 64))
image = torch.randn(1, 3, 128, 128)
if torch.cuda.is_available():
    network, image = network.cuda(), image.cuda()


def step() -> Tensor:
    """Run forward and backward."""
    network.zero_grad()
    loss = network(image).square().mean()
    loss.backward()
    return loss


def seconds() -> float:
    """Return the median time of a step."""
    return Timer("step()", globals={"step": step}, num_threads=torch.get_num_threads()).adaptive_autorange().median


before = seconds()
report = fastmunit.accelerate(network)
after = seconds()
print(report)
print(
    f"{1000 * before:.1f} ms before, {1000 * after:.1f} ms after: {before / after:.2f} times as fast on {image.device}."
)
