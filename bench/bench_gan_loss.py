"""gan_loss over the maps of the discriminators' half of a step at 256²: fake and real images of both domains."""

import pytest
import torch

from bench.problems import GAN_SIDES, gan_loss_problem, name_of
from fastmunit.ops.gan_loss import GAN_TYPES


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=name_of)
@pytest.mark.parametrize("gan_type", GAN_TYPES)
@pytest.mark.parametrize("system", GAN_SIDES)
def bench_forward_backward(compare, system, gan_type, dtype):
    compare(gan_loss_problem(system, 1, dtype, gan_type).comparison())
    torch.compiler.reset()
