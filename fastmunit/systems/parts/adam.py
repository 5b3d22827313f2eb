"""Adam for parameters in any memory format."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastmunit.systems.parts import optimizer_state


class Adam(torch.optim.Adam):
    """`torch.optim.Adam` with a fused path that is safe for mixed memory formats.

    torch's fused kernels walk through the memory of a parameter, its gradient and its averages in parallel. If their
    memory formats differ, as after loading the state of an NCHW model into a channels_last one, parameters receive each
    other's updates. Here gradients and averages are converted to the parameter's memory format first. On the CPU, torch
    also copies each gradient that is not contiguous and then ignores the copy; here the kernel gets contiguous views.
    If all memory formats are equal, results are torch's to the last bit.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a copy of a state, cast to the parameters' dtype and device.

        Raises:
            ValueError: If a part is missing, has the wrong type, or does not fit its parameter. The fused kernels would
                read and write beyond the memory of a tensor of another shape.
        """
        super().load_state_dict(optimizer_state.checked(self, state_dict))

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take a step, and count it as a write to the parameters, which torch's fused kernels do not.

        Copies of weights and kept forward passes recognize by that count that they are out of date.
        """
        loss = super().step(closure)
        for group in self.param_groups:
            if group["fused"]:
                torch.autograd.graph.increment_version([p for p in group["params"] if p.grad is not None])
        return loss

    def _init_group(self, group: dict[str, Any], *lists: Any) -> bool:
        has_complex: bool = super()._init_group(group, *lists)
        if group["fused"]:
            parameters, gradients, *averages, _ = lists
            for i, parameter in enumerate(parameters):
                gradients[i] = _ordered_as(parameter, gradients[i])
                for name, values in zip(("exp_avg", "exp_avg_sq", "max_exp_avg_sq"), averages, strict=True):
                    if values:  # the last one exists only with amsgrad
                        values[i] = self.state[parameter][name] = _ordered_as(parameter, values[i])
                for values in (parameters, gradients, *averages):
                    if values:
                        values[i] = _contiguous_view(values[i])
        return has_complex


def _ordered_as(parameter: Tensor, values: Tensor) -> Tensor:
    """Return `values` in the memory format of `parameter`, copied if necessary."""
    same = values.stride() == parameter.stride() or (values.is_contiguous() and parameter.is_contiguous())
    return values if same else torch.empty_like(parameter).copy_(values)


def _contiguous_view(tensor: Tensor) -> Tensor:
    """Return a contiguous view of a channels_last tensor, and any other tensor unchanged."""
    if tensor.dim() != 4 or tensor.is_contiguous() or not tensor.is_contiguous(memory_format=torch.channels_last):
        return tensor
    return tensor.permute(0, 2, 3, 1)
