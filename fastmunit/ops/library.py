"""Registration of ops: the `torch.library.Library` of the `fastmunit` namespace, and the parts that all ops share.

An op with the base name `f` is registered as `fastmunit::f`, whose kernels are native (C++ and CUDA), and as
`fastmunit::f_triton`, whose kernels are Triton's. Both have the same schema, fake kernel and autograd formula.
"""

from collections.abc import Callable
from typing import Any, NoReturn, get_type_hints

import torch
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

_library = torch.library.Library("fastmunit", "DEF")

Op = Callable[..., Any]

_FIRST_DERIVATIVES = (
    "the fused ops have first derivatives only; "
    'use implementation="reference" for second derivatives (gradient penalties, double backward)'
)

composites: dict[Op, Op] = {}
"""Functions of the ops that consist of torch's ops. Counters of memory run them to see what happens inside."""


def op_name(base: str, implementation: str) -> str:
    """Return the name in the `fastmunit` namespace of an op's `implementation` ("native" or "triton")."""
    return base if implementation == "native" else f"{base}_{implementation}"


def schema_of(options: type[tuple[Any, ...]]) -> str:
    """Return the fields of a NamedTuple as arguments of a `torch.library` schema. Literals are strings."""
    names = {bool: "bool", int: "int", float: "float"}
    return ", ".join(f"{names.get(kind, 'str')} {name}" for name, kind in get_type_hints(options).items())


def define(name: str, schema: str, fake: Op) -> Op:
    """Declare `fastmunit::name`.

    Args:
        name: Name in the `fastmunit` namespace.
        schema: Arguments and results in the schema language of `torch.library`, as in "(Tensor x) -> Tensor".
        fake: Function that returns outputs with the right shape, dtype and strides without reading data.

    Returns:
        The op as a callable.
    """
    _library.define(name + schema)
    torch.library.register_fake(f"fastmunit::{name}", fake, lib=_library)

    def batched(*args: Any) -> NoReturn:
        raise NotImplementedError(
            f"fastmunit.{name} has no vmap rule: use its batch dimension N instead, "
            'or call it with implementation="reference" under torch.func.vmap'
        )

    _library.impl(name, batched, "FuncTorchBatched")
    op: Op = getattr(torch.ops.fastmunit, name).default
    return op


def define_with_backward(
    base: str, implementation: str, schema: str, fake: Op, backward_schema: str, backward_fake: Op
) -> tuple[Op, Op]:
    """Declare the op `base` of an implementation and its backward op, `base` + "_backward", which has no derivative.

    Returns:
        Both ops as callables. The first still needs `autograd`.
    """
    op = define(op_name(base, implementation), schema, fake)
    backward_name = op_name(f"{base}_backward", implementation)
    backward_op = define(backward_name, backward_schema, backward_fake)
    without_derivative(backward_name, backward_op)
    return op, backward_op


def kernel(name: str, device_type: str, function: Op) -> None:
    """Register `function` as the kernel of `fastmunit::name` for tensors of `device_type` ("cpu" or "cuda").

    On CUDA, the device of the tensors is made current for the call, because Triton launches on the current device.
    """

    def on_its_device(*args: Any) -> Any:
        tensor = next(leaf for leaf in tree_flatten(args)[0] if isinstance(leaf, torch.Tensor))
        with torch.cuda.device_of(tensor):
            return function(*args)

    if not name.endswith("_triton"):  # native kernels are registered by the extension, so torch's ops are left
        composites[getattr(torch.ops.fastmunit, name).default] = function
    _library.impl(name, on_its_device if device_type == "cuda" else function, device_type.upper())


def autograd(name: str, function: type[torch.autograd.Function] | Op) -> None:
    """Make `function` the derivative of `fastmunit::name`. Its forward must call the op inside `below_autograd()`.

    Args:
        name: Name in the `fastmunit` namespace.
        function: A `torch.autograd.Function` with the op's arguments, or a function that applies one. The latter is
            needed for lists of tensors, which autograd does not look into.
    """
    _library.impl(name, getattr(function, "apply", function), "Autograd")


def below_autograd() -> Any:
    """Return a context in which a call of an op goes to its kernel, past its autograd formula."""
    return torch._C._AutoDispatchBelowAutograd()


def without_derivative(name: str, op: Op, reason: str = _FIRST_DERIVATIVES) -> None:
    """Give the op `fastmunit::name`, by default a backward op, a derivative that raises an error with the reason."""

    class SecondDerivative(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, structure: TreeSpec, *leaves: Any) -> Any:
            with below_autograd():
                results = op(*tree_unflatten(leaves, structure))
            return tuple(results) if isinstance(results, list) else results

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> NoReturn:
            raise NotImplementedError(f"fastmunit.{name} cannot be differentiated: {reason}")

    def call(*args: Any) -> Any:
        if not torch.is_grad_enabled():
            with below_autograd():
                return op(*args)
        leaves, structure = tree_flatten(args)  # autograd does not look into lists of tensors
        return SecondDerivative.apply(structure, *leaves)

    autograd(name, call)
