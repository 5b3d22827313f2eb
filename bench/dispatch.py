"""The ops that a step dispatches on a CPU or on a GPU, recorded with fake tensors: no values are computed."""

import functools
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal
from unittest import mock

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from fastmunit import functional
from fastmunit.nn.fused import few_channel_conv
from fastmunit.ops import phase_kernels, upsample_conv2d

COMPOSITES: Mapping[OpOverload, Callable[..., Any]] = {
    torch.ops.fastmunit.phase_kernels.default: phase_kernels._run,
    torch.ops.fastmunit.phase_kernels_backward.default: phase_kernels._run_backward,
    torch.ops.fastmunit.upsample_conv2d.default: upsample_conv2d._run,
    torch.ops.fastmunit.upsample_conv2d_backward.default: upsample_conv2d._run_backward,
}
"""Our ops that consist of ops of torch, with the functions that run these."""

_UNCOUNTED = ("detach", "empty")
"""Parts of the names of ops that compute nothing and are no views."""


@dataclass(frozen=True)
class Form:
    """A tensor without its values.

    Attributes:
        shape: Sizes.
        stride: Strides in values.
        offset: Offset into the storage in values.
        dtype: Dtype.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype

    @staticmethod
    def of(tensor: Tensor) -> "Form":
        """Return the form of a tensor."""
        return Form(tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()), tensor.dtype)

    @property
    def numel(self) -> int:
        """Number of values."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True)
class Call:
    """A dispatched op. Tensors are replaced by their forms.

    Attributes:
        op: The op.
        arguments: Positional arguments.
        keywords: Keyword arguments.
        results: What it returned.
        inside: The op of `COMPOSITES` that it is a part of, or None.
    """

    op: OpOverload
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    results: Any
    inside: OpOverload | None

    @property
    def name(self) -> str:
        """The name of the op with its overload, such as aten.add.Tensor."""
        return str(self.op)

    @property
    def inputs(self) -> list[Form]:
        """The forms of the tensors among the arguments."""
        leaves = tree_leaves((self.arguments, dict(self.keywords)))
        return [leaf for leaf in leaves if isinstance(leaf, Form)]

    @property
    def outputs(self) -> list[Form]:
        """The forms of the results."""
        return [leaf for leaf in tree_leaves(self.results) if isinstance(leaf, Form)]

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors that it gets and returns."""
        return sum(form.nbytes for form in (*self.inputs, *self.outputs))

    @property
    def is_cast(self) -> bool:
        """True if it copies values into another dtype and does nothing else."""
        name = self.op.overloadpacket.__name__
        if name == "_to_copy":
            return self.inputs[0].dtype != self.outputs[0].dtype
        if name == "copy_":
            return self.inputs[0].dtype != self.inputs[1].dtype
        if name == "_foreach_copy_":
            targets, sources = self.arguments[:2]
            return any(to.dtype != of.dtype for to, of in zip(targets, sources, strict=True))
        return False


class Recorder(TorchDispatchMode):
    """A recorder of dispatched ops.

    It leaves out views, `detach` and allocations. An op of `COMPOSITES` is recorded, and so is each op inside it.

    Attributes:
        calls: The recorded ops in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self._inside: OpOverload | None = None

    def __torch_dispatch__(
        self, function: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function.namespace == "prim":  # attributes of fake tensors
            return function(*args, **kwargs)
        if self._inside is not None and _is_decomposed(function):  # elsewhere, they are decomposed before this
            with self:
                return function.decompose(*args, **kwargs)
        if function in COMPOSITES:
            self._inside = function
            try:
                with self:
                    results = COMPOSITES[function](*args, **kwargs)
            finally:
                self._inside = None
        else:
            results = function(*args, **kwargs)
        if not _is_view(function) and not any(name in str(function._schema.name) for name in _UNCOUNTED):
            arguments, keywords, returned = (_forms(value) for value in (args, kwargs, results))
            self.calls.append(Call(function, arguments, keywords, returned, self._inside))
        return results


def _forms(value: Any) -> Any:
    return tree_map_only(Tensor, Form.of, value)


def _is_decomposed(function: OpOverload) -> bool:
    """Return True for an op that has no kernels of its own, such as matmul."""
    found: bool = torch._C._dispatch_has_kernel_for_dispatch_key(function.name(), "CompositeImplicitAutograd")
    return found


def _is_view(function: OpOverload) -> bool:
    """Return True if a result is a view of an argument that the op does not write."""
    aliases = (result.alias_info for result in function._schema.returns)
    return any(alias is not None and not alias.is_write for alias in aliases)


def recorded(step: Callable[[], object], device_type: Literal["cpu", "cuda"]) -> list[Call]:
    """Return the ops of the second of two calls of `step`: the first also makes the state of the optimizers.

    Args:
        step: Runs an iteration on CPU tensors. Gradients and optimizer states that it makes are fake afterwards.
        device_type: Device whose ops are recorded.
    """
    with _without_values(device_type):
        for _ in range(2):
            with Recorder() as recorder:
                step()
    return recorder.calls


@contextmanager
def _without_values(device_type: str) -> Iterator[None]:
    """Run everything with fake tensors and the native kernels, and for "cuda" on the path that CUDA tensors take.

    The tensors are on the CPU in any case, because autograd's engine needs a real device. tests/bench/test_dispatch.py
    compares the ops of all losses with those of fake CUDA tensors, whose forward works.
    """
    with ExitStack() as stack:
        if device_type == "cuda":  # nothing else in a step depends on the device
            stack.enter_context(mock.patch.object(few_channel_conv, "_device_type", return_value="cuda"))
        stack.enter_context(_own_caches())
        # Recomputation and shared values compare addresses, which are all 0; shapes and identities decide alike.
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(functional.use_implementation("native"))
        yield


@contextmanager
def _own_caches() -> Iterator[None]:
    """Give the package's cached functions empty caches, so that no fake tensor stays in a cache."""
    fresh: dict[Any, Any] = {}
    modules = [m for name, m in sys.modules.items() if name.startswith("fastmunit.") and isinstance(m, ModuleType)]
    with ExitStack() as stack:
        for module in modules:
            for name, value in list(vars(module).items()):
                if isinstance(value, functools._lru_cache_wrapper):
                    new = fresh.setdefault(value, functools.lru_cache(**value.cache_parameters())(value.__wrapped__))
                    stack.enter_context(mock.patch.object(module, name, new))
        yield
