"""weighted_l1 over the six pairs of a MUNIT step at 256²: images, content codes and style codes of both domains."""

import pytest
import torch
from harness import DEVICE, Comparison

from fastmunit import functional, reference
from fastmunit.testing import BATCHES, make_map

SHAPES = ((3, 256, 256), (3, 256, 256), (256, 64, 64), (256, 64, 64), (8, 1, 1), (8, 1, 1))
WEIGHTS = [10.0, 10.0, 1.0, 1.0, 1.0, 1.0]
# Reconstructed against encoded content: both sides learn. Images and drawn styles do not.
TARGETS_LEARN = (False, False, True, True, False, False)


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=name_of)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("batch", BATCHES)
def bench_forward_backward(compare, batch, layout, dtype):
    inputs = [
        make_map((batch, *shape), dtype, layout, seed=k, device=DEVICE).requires_grad_()
        for k, shape in enumerate(SHAPES)
    ]
    targets = [
        make_map((batch, *shape), dtype, layout, seed=10 + k, device=DEVICE).requires_grad_(learns)
        for k, (shape, learns) in enumerate(zip(SHAPES, TARGETS_LEARN, strict=True))
    ]
    wide = [[x.detach().double().requires_grad_(x.requires_grad) for x in tensors] for tensors in (inputs, targets)]

    def run(function, inputs, targets):
        values, total = function(inputs, targets, WEIGHTS)
        learning = [x for x in (*inputs, *targets) if x.requires_grad]
        return values.detach(), total.detach(), *torch.autograd.grad(total, learning)

    compiled = torch.compile(reference.weighted_l1, dynamic=False)
    numbers = sum(x.numel() * x.element_size() for x in (*inputs, *targets))
    gradients = sum(x.numel() * x.element_size() for x in (*inputs, *targets) if x.requires_grad)
    compare(
        Comparison(
            op="weighted_l1 forward+backward",
            case=f"batch {batch} {layout} {name_of(dtype)}",
            group=name_of(dtype),
            ours=lambda: run(functional.weighted_l1, inputs, targets),
            reference=lambda: run(reference.weighted_l1, inputs, targets),
            exact=lambda: run(reference.weighted_l1, *wide),
            compiled=lambda: run(compiled, inputs, targets),
            bytes_moved=numbers + gradients,
        )
    )
    torch.compiler.reset()
