"""One image in ten styles at 256² with the public configuration, against decoding one style after another."""

import pytest
import torch
from harness import StepTimes

from fastmunit import functional, translate
from fastmunit.config import Config
from fastmunit.models.munit import MUNIT

STYLES = 10


@torch.inference_mode()
def one_by_one(trainer, image, styles):
    """As the public test.py does: encode once, then decode each style."""
    with functional.use_implementation("reference"):
        content, _ = trainer.gen_a.encode(image[None])
        return torch.cat([trainer.gen_b.decode(content, style[None]) for style in styles])


@pytest.mark.slow
def bench_translate(step_times):
    torch.manual_seed(0)
    trainer = MUNIT(Config.load("edges2shoes"))
    fast = MUNIT(Config.load("edges2shoes", ["precision=bfloat16"]))
    fast.load_state_dict(trainer.state_dict())
    image, styles = torch.rand(3, 256, 256) * 2 - 1, torch.randn(STYLES, 8, 1, 1)
    expected = one_by_one(trainer, image, styles)
    for precision, tolerance in (("float32", 1e-4), ("bfloat16", 0.1)):  # a wrong result gets no figure
        assert (translate(fast, image, styles, precision=precision) - expected).abs().max() <= tolerance
    calls = {
        "one by one, float32": lambda: one_by_one(trainer, image, styles),
        "translate, float32": lambda: translate(trainer, image, styles),
        "translate, bfloat16": lambda: translate(fast, image, styles, precision="bfloat16"),
    }
    step_times(StepTimes(f"1 image in {STYLES} styles, 256²", calls, "one by one, float32"))
