"""Comparators without hand-picked tolerances: a kernel must be as exact as plain PyTorch in the same dtype."""

import torch
from torch import Tensor


def assert_same_nonfinite(actual: Tensor, expected: Tensor, name: str = "result") -> None:
    """Assert that `actual` has NaN and infinities in the same places as `expected`, with the same signs.

    Raises:
        AssertionError: If it does not.
    """
    for kind, test in (("NaN", torch.isnan), ("+inf", torch.isposinf), ("-inf", torch.isneginf)):
        wrong = int((test(actual) != test(expected)).sum())
        assert wrong == 0, f"{name}: {wrong} of {actual.numel()} values differ in being {kind}"


def assert_as_exact_as(
    actual: Tensor, plain: Tensor, exact: Tensor, name: str = "result", *, scale: float | None = None
) -> None:
    """Assert that a kernel's error is at most twice that of plain PyTorch in the same dtype, plus one rounding.

    An error is the largest distance from the float64 result, relative to `scale`. The rounding is one of the result's
    dtype. For a float64 result there is no more exact one to compare with: it may differ by 1e-11, far above rounding
    and far below any mistake.

    Args:
        actual: Result of the kernel.
        plain: Result of plain PyTorch for the same inputs, in the kernel's dtypes.
        exact: Result of plain PyTorch for the inputs in float64.
        name: Name of the result in messages.
        scale: Magnitude that errors are relative to. The default is the largest magnitude of the exact result. For a
            mean, whose terms cancel, use the magnitude of the terms.

    Raises:
        AssertionError: If the error is larger, the shapes or dtypes differ, or NaN and infinities are in other places.
    """
    assert exact.dtype == torch.float64, f"{name}: exact result: expected float64, got {exact.dtype}"
    assert actual.shape == exact.shape, f"{name}: expected shape {tuple(exact.shape)}, got {tuple(actual.shape)}"
    assert actual.dtype == plain.dtype, f"{name}: expected dtype {plain.dtype}, got {actual.dtype}"
    assert_same_nonfinite(actual, plain, name)
    finite = torch.isfinite(actual) & torch.isfinite(plain) & torch.isfinite(exact)
    if not bool(finite.any()):
        return
    if scale is None:
        scale = float(exact[finite].abs().max())
    scale = max(scale, torch.finfo(actual.dtype).tiny)
    error = float((actual.double() - exact)[finite].abs().max()) / scale
    if actual.dtype == torch.float64:
        allowed = 1e-11
    else:
        allowed = 2 * float((plain.double() - exact)[finite].abs().max()) / scale + torch.finfo(actual.dtype).eps
    assert error <= allowed, f"{name}: relative error {error:.3g}, allowed {allowed:.3g}"
