"""MUNIT's auto-encoder: one content code with many style codes."""

from __future__ import annotations

import pytest
import torch

from fastmunit import functional
from fastmunit.config import GeneratorConfig
from fastmunit.nn.networks.autoencoders import AdaINGen


@pytest.mark.parametrize("implementation", ["reference", "auto"])
@pytest.mark.parametrize("n_res", [0, 2])
def test_one_content_code_is_used_for_many_styles(implementation: functional.Implementation, n_res: int) -> None:
    torch.manual_seed(0)
    generator = AdaINGen(3, GeneratorConfig(dim=4, mlp_dim=8, n_res=n_res)).double()
    content = torch.randn(1, 16, 6, 8, dtype=torch.float64, requires_grad=True)
    styles = torch.randn(3, 8, 1, 1, dtype=torch.float64)
    with functional.use_implementation(implementation):
        together = generator.decode(content, styles)
        apart = torch.cat([generator.decode(content, style[None]) for style in styles])
    torch.testing.assert_close(together, apart, rtol=1e-9, atol=1e-10)
    gradients = [torch.autograd.grad(images.square().sum(), content)[0] for images in (together, apart)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("implementation", ["reference", "auto"])
@pytest.mark.parametrize("inner", ["", ".model.0", ".model.0.model.1", ".model.1"])
def test_hooks_of_blocks_are_called(implementation: functional.Implementation, inner: str) -> None:
    """The decoder's first module gives its features, and AdaIN layers keep their parameters."""
    torch.manual_seed(0)
    generator = AdaINGen(3, GeneratorConfig(dim=4, mlp_dim=8, n_res=2)).double()
    content, styles = torch.randn(1, 16, 6, 8, dtype=torch.float64), torch.randn(3, 8, 1, 1, dtype=torch.float64)
    seen: list[tuple[int, ...]] = []
    with functional.use_implementation(implementation):
        expected = generator.decode(content, styles)
        block = generator.get_submodule(f"dec.model.0{inner}")
        handle = block.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape)))
        hooked = generator.decode(content, styles)
        handle.remove()
        generator.decode(content, styles)
    assert seen == [(3, 16, 6, 8)]
    torch.testing.assert_close(hooked, expected, rtol=1e-9, atol=1e-10)
