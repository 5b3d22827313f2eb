"""Checks of torch.compile that the tests of several ops share."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def assert_compiles_once(
    loss: Callable[..., Tensor], inputs_of: Callable[[int, int], list[Tensor]], tolerance: float = 0
) -> None:
    """Assert that one dynamic graph serves inputs of all sizes, and that its gradients equal those of eager mode.

    Args:
        loss: Function of `inputs_of` that returns a scalar.
        inputs_of: Function of height and width that returns the inputs. Their gradients are compared, too.
        tolerance: Largest absolute and relative difference of the gradients.
    """
    graphs = []

    def count(graph: Any, inputs: Any) -> Callable[..., Any]:
        compiled_graph = torch._dynamo.lookup_backend("aot_eager")(graph, inputs)
        graphs.append(graph)  # not before: if the compiler makes Dynamo start again, this function is called again
        return compiled_graph

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend=count)
    for height, width in ((8, 9), (12, 6), (31, 64), (8, 9)):
        inputs = [tensor.detach().requires_grad_() for tensor in inputs_of(height, width)]
        ours = torch.autograd.grad(compiled(*inputs), inputs)
        plain = torch.autograd.grad(loss(*inputs), inputs)
        torch.testing.assert_close(ours, plain, rtol=tolerance, atol=tolerance)
    assert len(graphs) == 1
