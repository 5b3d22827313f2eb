"""Comparators whose tolerances come from the data: a kernel is held to the exactness of plain PyTorch in its dtype."""

import torch
from torch import Tensor


def assert_same_nonfinite(actual: Tensor, expected: Tensor, name: str = "result") -> None:
    """Assert that NaN and infinities are where `expected` has them, with the same signs.

    Raises:
        AssertionError: They are not.
    """
    for kind, test in (("NaN", torch.isnan), ("+inf", torch.isposinf), ("-inf", torch.isneginf)):
        wrong = int((test(actual) != test(expected)).sum())
        assert wrong == 0, f"{name}: {wrong} of {actual.numel()} values differ in being {kind}"


def assert_as_exact_as(
    actual: Tensor, plain: Tensor, exact: Tensor, name: str = "result", *, scale: float | None = None
) -> None:
    """Assert that a kernel's error is at most twice that of plain PyTorch in the same dtype, plus one rounding.

    Errors are the largest distances from the float64 result, relative to `scale`; the rounding is that of the result's
    dtype. A float64 result has no more exact one to be held to: it may differ by 1e-11, far above rounding and far
    below any mistake.

    Args:
        actual: The kernel's result.
        plain: The same from plain PyTorch on the same inputs, in the kernel's dtypes.
        exact: The same from plain PyTorch on the inputs in float64.
        name: What is compared, for the message.
        scale: What errors are relative to; by default the largest magnitude of the exact result. A mean, whose terms
            cancel, is to be compared on the scale of its terms.

    Raises:
        AssertionError: The error is larger, the shapes or dtypes differ, or NaN and infinities are at other places.
    """
    assert exact.dtype == torch.float64, f"{name}: the exact result must be float64, not {exact.dtype}"
    assert actual.shape == exact.shape, f"{name}: shape {tuple(actual.shape)}, expected {tuple(exact.shape)}"
    assert actual.dtype == plain.dtype, f"{name}: dtype {actual.dtype}, expected {plain.dtype}"
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
