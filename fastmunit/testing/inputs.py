"""Inputs for tests and benchmarks in any layout and dtype. Equal seeds give equal values."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
LAYOUTS = ("nchw", "channels_last", "sliced", "transposed", "expanded")


def make_map(
    shape: tuple[int, int, int, int],
    dtype: torch.dtype = torch.float32,
    layout: str = "nchw",
    *,
    mean: float = 0.0,
    std: float = 1.0,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Tensor:
    """Return a map (N, C, H, W) of normally distributed values.

    Args:
        shape: Shape (N, C, H, W).
        dtype: Floating-point dtype.
        layout: "nchw", "channels_last", "sliced" (the inner part of a larger NCHW map), "transposed" (H and W swapped
            in memory) or "expanded" (one sample, repeated with stride 0).
        mean: Mean of the distribution.
        std: Standard deviation of the distribution.
        seed: Seed. The global random state is not used.
        device: Device of the map.

    Raises:
        ValueError: If `layout` is unknown.
    """
    samples, channels, height, width = shape
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        values = torch.randn(size, generator=generator, dtype=torch.float64) * std + mean
        return values.to(device=device, dtype=dtype)

    if layout == "nchw":
        return normal(*shape)
    if layout == "channels_last":
        return normal(*shape).contiguous(memory_format=torch.channels_last)
    if layout == "sliced":
        return normal(samples, channels + 1, height + 2, width + 3)[:, 1:, 1:-1, 1:-2]
    if layout == "transposed":
        return normal(samples, channels, width, height).transpose(2, 3)
    if layout == "expanded":
        return normal(1, channels, height, width).expand(shape)
    raise ValueError(f"expected layout to be one of {', '.join(LAYOUTS)}, got {layout!r}")


@contextmanager
def uninitialized_memory_is_nan() -> Iterator[None]:
    """Fill every `torch.empty`, including those in native code, with NaN, so that elements left unwritten are visible.

    This switches torch's deterministic algorithms on inside the block.
    """
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
