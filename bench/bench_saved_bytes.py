"""Bytes that one layer of convolution, norm, relu and padding saves for backward. A count, not a time."""

import pytest
import torch

from bench.harness import Count
from bench.problems import name_of
from fastmunit import functional
from fastmunit.nn.layers.blocks import AdaINParameters, Conv2dBlock, chain_of
from fastmunit.testing import make_map, saved_bytes

SHAPE = (1, 256, 64, 64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=name_of)
@pytest.mark.parametrize("norm", ["in", "adain", "ln", "none"])
def bench_layer(count, norm, dtype):
    """Count the bytes that a third layer adds to two. The input of the chain does not count."""
    channels = SHAPE[1]
    blocks = [Conv2dBlock(channels, channels, 3, 1, 1, norm=norm, activation="relu", pad_mode="reflect").to(dtype)]
    blocks *= 3
    x = make_map(SHAPE, dtype).requires_grad_()
    style = make_map((1, 2 * channels * len(blocks), 1, 1), dtype).flatten(1).requires_grad_()
    left_out = [x, style, *blocks[0].parameters()]

    def bytes_of(implementation, layers):
        with functional.use_implementation(implementation):
            return saved_bytes(lambda: chain_of(blocks[:layers], AdaINParameters(style)).run(x), left_out)

    eager, ours = (bytes_of(name, 3) - bytes_of(name, 2) for name in ("reference", "auto"))
    assert ours >= x.numel() * x.element_size()
    count(Count(f"bytes saved by conv + {norm} + relu + pad, {name_of(dtype)}", ours, eager))
