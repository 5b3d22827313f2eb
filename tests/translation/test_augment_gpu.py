"""`fastmunit.Augment` of a batch on a GPU, against the same batch on the CPU."""

import pytest
import torch

import fastmunit


@pytest.mark.gpu
def test_a_batch_on_a_gpu_is_that_of_the_cpu() -> None:
    images = torch.randint(256, (8, 3, 33, 47), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    augment = fastmunit.Augment("fruit", p=0.5, seed=1).at(range(8), epoch=3)
    on_cpu, on_gpu = augment(images), augment(images.cuda())
    assert on_gpu.device.type == "cuda" and on_gpu.dtype == torch.uint8
    unchanged = [torch.equal(output, image) for output, image in zip(on_cpu, images, strict=True)]
    assert 0 < sum(unchanged) < 8
    assert [torch.equal(output, image) for output, image in zip(on_gpu.cpu(), images, strict=True)] == unchanged
    assert (on_gpu.cpu().int() - on_cpu.int()).abs().max() <= 2
