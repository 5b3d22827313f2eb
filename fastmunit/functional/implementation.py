"""The choice of the implementation that a public function runs: "native", "triton" or "reference"."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from typing import Literal, cast

import torch
from torch import Tensor

from fastmunit.errors import ImplementationError
from fastmunit.fused_norm_options import Statistics
from fastmunit.ops.availability import IMPLEMENTATIONS, automatic, unavailable
from fastmunit.ops.gpu_choice import measured_choice

Implementation = Literal["auto", "native", "triton", "reference"]

_default: ContextVar[Implementation] = ContextVar("fastmunit_implementation", default="auto")
# torch.compile of torch 2.10 and 2.11 cannot read a ContextVar. Traced code reads the innermost open with-block
# instead.
_open: dict[object, Implementation] = {}
_open_lock = Lock()
_traced_default: Implementation = "auto"


@contextmanager
def use_implementation(implementation: Implementation) -> Iterator[None]:
    """Make "auto" stand for `implementation` inside a with-block, in this thread (or asyncio task) only.

    A function compiled by `torch.compile` is compiled once for each implementation under which it is called. Compiled
    code follows the with-block that was entered last, in any thread. Backward runs what its forward chose.

    Args:
        implementation: "auto", "native", "triton" or "reference".

    Raises:
        ValueError: If `implementation` has another value.

    Example:
        >>> with fastmunit.functional.use_implementation("reference"):
        ...     mean, _ = fastmunit.functional.instance_norm_stats(torch.ones(1, 1, 2, 2))
        >>> mean
        tensor([[1.]])
    """
    _check_name(implementation)
    global _traced_default
    token, key = _default.set(implementation), object()
    with _open_lock:
        _open[key] = _traced_default = implementation
    try:
        yield
    finally:
        _default.reset(token)
        with _open_lock:
            del _open[key]
            _traced_default = next(reversed(_open.values()), "auto")


def default_implementation() -> Implementation:
    """Return the implementation that `use_implementation` set for "auto", or "auto" outside of a with-block."""
    return _traced_default if torch.compiler.is_compiling() else _default.get()


def exact_order() -> bool:
    """Return True if operations must run in the order of the public code: the reference is the default here."""
    return default_implementation() == "reference"


def implementation_of(function: str, x: Tensor, statistics: Statistics | None = None) -> Implementation:
    """Return the implementation that "auto" stands for in a call of `function` on x.

    `statistics` can decide between two kernels of `fused_norm`, never between a kernel and the reference.
    """
    return choose(function, "auto", x, statistics=statistics)


def runnable(function: str, x: Tensor, statistics: Statistics | None = None) -> Implementation:
    """Return the implementation that "auto" stands for, or the one without `use_implementation` if that cannot run.

    This is for a part of another op, for which the caller asked for no implementation by name.
    """
    default, float64 = default_implementation(), x.dtype == torch.float64
    if default != "auto" and unavailable(default, x.device.type, function, float64=float64) is None:
        return default
    measured = None if statistics is None else measured_choice(x, statistics)
    return cast(Implementation, automatic(x.device.type, function, float64=float64, measured=measured))


def upsamples_unshuffled(x: Tensor) -> bool:
    """Return True if `upsample_conv2d` of x is computed unshuffled. If not, `unshuffled=True` saves no work."""
    return choose_upsample_conv2d("auto", x) != "reference"


def choose(
    function: str,
    implementation: Implementation,
    x: Tensor,
    *others: Tensor,
    statistics: Statistics | None = None,
    no_kernel: str | None = None,
) -> Implementation:
    """Resolve `implementation` for a call of `function` on x and other tensors.

    Args:
        function: Name of the public function, which is also the name of its op.
        implementation: Value of the argument with this name.
        x: Tensor whose device decides.
        *others: Further tensors whose dtypes count.
        statistics: Statistics of `fused_norm`, for which there may be measurements.
        no_kernel: Reason why no kernel can run this call, or None.

    Returns:
        "native", "triton" or "reference".

    Raises:
        ValueError: If `implementation` is not a known name.
        ImplementationError: If the named implementation cannot run on these tensors.
    """
    implementation = _resolve_default(implementation)
    if no_kernel is not None and implementation == "auto":
        return "reference"
    device_type = x.device.type
    float64 = any(tensor.dtype == torch.float64 for tensor in (x, *others))
    if implementation == "auto":
        measured = None if statistics is None else measured_choice(x, statistics)
        return cast(Implementation, automatic(device_type, function, float64=float64, measured=measured))
    reason = unavailable(implementation, device_type, function, float64=float64)
    if reason is None and implementation != "reference":
        reason = no_kernel
    if reason is not None:
        raise ImplementationError(f"{function}: implementation {implementation!r} cannot run: {reason}")
    return implementation


def choose_upsample_conv2d(implementation: Implementation, x: Tensor) -> Implementation:
    """Resolve `implementation` for `upsample_conv2d`, which is built from torch's convolutions and needs no kernel.

    Returns:
        "reference" for the plain chain of operations, "native" for the op.
    """
    plain = _resolve_default(implementation) == "reference" or x.device.type not in ("cpu", "cuda", "meta")
    return "reference" if plain else "native"


def _resolve_default(implementation: Implementation) -> Implementation:
    _check_name(implementation)
    return default_implementation() if implementation == "auto" else implementation


def _check_name(implementation: str) -> None:
    if implementation != "auto" and implementation not in IMPLEMENTATIONS:
        names = ", ".join(repr(name) for name in ("auto", *IMPLEMENTATIONS))
        raise ValueError(f"expected implementation to be one of {names}, got {implementation!r}")
