"""Measurement of the memory that autograd saves between forward and backward."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


def saved_bytes(function: Callable[[], Any], exclude: Iterable[Tensor] = ()) -> int:
    """Count the bytes that a call saves for backward: every storage once, without those of `exclude`.

    Results that a network recomputes (`fastmunit.functional.recompute`) come from tensors that its norms save, and
    those are counted.

    Args:
        function: Function to call.
        exclude: Tensors to leave out, such as parameters and inputs.
    """
    excluded = {x.untyped_storage().data_ptr() for x in exclude}
    storages: dict[int, int] = {}
    kept: list[Tensor] = []  # keeps storages alive, so that no address is reused while counting

    def pack(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        if storage.data_ptr() not in excluded:
            storages[storage.data_ptr()] = storage.nbytes()
            kept.append(saved.detach())
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        result = function()
    del result
    return sum(storages.values())
