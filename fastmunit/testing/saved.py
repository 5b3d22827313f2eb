"""What autograd keeps in memory between forward and backward."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


def saved_bytes(function: Callable[[], Any], exclude: Iterable[Tensor] = ()) -> int:
    """Bytes that a call keeps for its backward: each storage once, those of `exclude` (parameters, inputs) left out.

    What a network recomputes (`fastmunit.functional.recompute`) refers to tensors that its norms save, which are
    counted.
    """
    excluded = {x.untyped_storage().data_ptr() for x in exclude}
    storages: dict[int, int] = {}
    kept: list[Tensor] = []  # no storage is freed, and its address used again, while counting

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
