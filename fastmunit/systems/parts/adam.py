"""Adam on parameters that do not lie in the order of their dimensions (channels_last)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastmunit.systems.parts import optimizer_state


class Adam(torch.optim.Adam):
    """`torch.optim.Adam` whose fused form knows of memory layouts.

    torch's fused kernels go through the memory of a parameter, of its gradient and of its averages at once: where these
    lie in different orders, as after loading the state of an NCHW model into a channels_last one, values get what
    belongs to others. Here gradients and averages are brought to the parameter's order first. On a processor torch also
    copies each gradient that is not contiguous, and then does not use the copy: here the kernel gets views in which all
    are contiguous. Where all have one layout, results are torch's to the last bit.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a copy of a state, cast to the parameters' dtype and device.

        Raises:
            ValueError: a part is missing, has the wrong type, or does not fit its parameter: the fused kernels would
                read and write beyond the memory of a tensor of another shape.
        """
        super().load_state_dict(optimizer_state.checked(self, state_dict))

    def _init_group(self, group: dict[str, Any], *lists: Any) -> bool:
        has_complex: bool = super()._init_group(group, *lists)
        if group["fused"]:
            parameters, gradients, *averages, _ = lists
            for i, parameter in enumerate(parameters):
                gradients[i] = _ordered_as(parameter, gradients[i])
                for name, values in zip(("exp_avg", "exp_avg_sq", "max_exp_avg_sq"), averages, strict=True):
                    if values:  # the last only with amsgrad
                        values[i] = self.state[parameter][name] = _ordered_as(parameter, values[i])
                for values in (parameters, gradients, *averages):
                    if values:
                        values[i] = _in_order_of_memory(values[i])
        return has_complex


def _ordered_as(parameter: Tensor, values: Tensor) -> Tensor:
    """`values`, in a copy that lies in memory as `parameter` does where they do not."""
    same = values.stride() == parameter.stride() or (values.is_contiguous() and parameter.is_contiguous())
    return values if same else torch.empty_like(parameter).copy_(values)


def _in_order_of_memory(tensor: Tensor) -> Tensor:
    """A contiguous view of a tensor that is channels_last; any other tensor as it is."""
    if tensor.dim() != 4 or tensor.is_contiguous() or not tensor.is_contiguous(memory_format=torch.channels_last):
        return tensor
    return tensor.permute(0, 2, 3, 1)
