"""The kernels of a convolution of an upsampled map, and the convolution with them: the halves of `upsample_conv2d`."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmunit.functional.checks import check_dtype, check_map
from fastmunit.functional.implementation import runnable
from fastmunit.functional.recompute import RecomputableMap, recomputable_fused_norm, replace_saved
from fastmunit.fused_norm_options import PAD_MODES, PADS, PadMode, check_choice
from fastmunit.ops import phase_kernels as kernels_op
from fastmunit.ops import upsample_conv2d as op
from fastmunit.ops.autocast import autocast_dtype
from fastmunit.ops.phase_taps import border_width, low_resolution_pad


class PhaseKernels(NamedTuple):
    """The kernels that `phase_conv2d` convolves with, made by `phase_kernels`.

    Attributes:
        phases: Kernels of the four positions of a pixel in the upsampled map, (4 O, C, taps, taps) with
            taps = (k + 1) / 2.
        borders: Kernels for the difference between reflect and replicate padding at the four edges, a matrix for each,
            or None.
        bias: (4 O,) or None.
        pad_mode: Padding of the upsampled map.
        unshuffled: `phase_conv2d` returns the result pixel-unshuffled.
    """

    phases: Tensor
    borders: Tensor | None
    bias: Tensor | None
    pad_mode: PadMode
    unshuffled: bool

    @property
    def padding(self) -> tuple[int, PadMode]:
        """The number of pixels that are added on each side of the low-resolution map, and their fill mode."""
        return _padding_of(self)


# The compiler of torch 2.10 cannot trace properties of a NamedTuple, so that phase_conv2d calls functions.
def _size_of(kernels: PhaseKernels) -> int:
    """Return the size k of the weight."""
    return 2 * kernels.phases.shape[-1] - 1


def _padding_of(kernels: PhaseKernels) -> tuple[int, PadMode]:
    return low_resolution_padding(_size_of(kernels), kernels.pad_mode)


def phase_kernels(
    weight: Tensor,
    bias: Tensor | None = None,
    pad_mode: PadMode = "reflect",
    *,
    dtype: torch.dtype | None = None,
    memory_format: torch.memory_format = torch.contiguous_format,
    unshuffled: bool = False,
    ready: PhaseKernels | None = None,
) -> PhaseKernels:
    """Make the kernels with which `phase_conv2d` computes `upsample_conv2d` of one weight.

    The taps that read the same low-resolution pixel are summed in the dtype of weight, and the sums are rounded once.
    The results are in the dtype and the layout that convolutions read, so that each call is free of copies of them.
    They can be used by any number of calls: autograd adds the gradients of all calls, in the dtype of the kernels, and
    then makes the gradient of weight once. Backward saves no tensors, so several backward passes may share one result.

    Args:
        weight: (O, C, k, k) with odd k ≥ 3, in float32, bfloat16, float16 or float64.
        bias: None or (O,), in any of these dtypes.
        pad_mode: "reflect", "replicate" or "zero".
        dtype: Dtype of the kernels, which is that of the maps. The default is the dtype of weight.
        memory_format: `torch.channels_last`, or `torch.contiguous_format` for NCHW: the layout of the maps.
        unshuffled: Make kernels whose results are pixel-unshuffled, see `upsample_conv2d`.
        ready: Kernels of this weight and bias with these options, made under `torch.no_grad`. The result has the same
            memory, and a graph of its own: each call's gradients become gradients of weight and bias before they are
            added to others.

    Raises:
        ValueError: If a shape, pad_mode or memory_format is invalid, or if `ready` was made with other options.
        TypeError: If a dtype is not supported.
    """
    check_choice("phase_kernels", "pad_mode", pad_mode, PAD_MODES)
    check_weight("phase_kernels", weight, bias)
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None:
            check_dtype("phase_kernels", name, tensor)
    dtype = dtype or weight.dtype
    check_dtype("phase_kernels", "dtype", torch.empty(0, dtype=dtype, device="meta"))
    formats = (torch.contiguous_format, torch.channels_last)
    check_choice("phase_kernels", "memory_format", memory_format, formats)
    if ready is None:
        return make_kernels(weight, bias, pad_mode, dtype, memory_format, unshuffled)
    o, c, k, _ = weight.shape
    found = (ready.phases.shape, ready.phases.dtype, ready.pad_mode, ready.unshuffled, ready.bias is not None)
    expected = ((4 * o, c, (k + 1) // 2, (k + 1) // 2), dtype, pad_mode, unshuffled, bias is not None)
    if found != expected:
        raise ValueError(f"phase_kernels: expected ready with shape, dtype and options {expected}, got {found}")
    results = kernels_op.with_graph(weight, bias, (ready.phases, ready.borders, ready.bias), unshuffled)
    return PhaseKernels(*results, pad_mode, unshuffled)


def phase_conv2d(x: Tensor, kernels: PhaseKernels, *, padded: bool = False) -> Tensor:
    """Upsample by 2 (nearest), pad and convolve, as `upsample_conv2d` does, with kernels that are ready.

    There is no reference implementation, because the weight itself is not known here.

    Args:
        x: (N, C, H, W) in the dtype of the kernels, or in any dtype under autocast to that dtype. The device type is
            CPU or CUDA.
        kernels: Result of `phase_kernels`.
        padded: x has its padding already, `kernels.padding`, which for example `fused_norm` can write.

    Returns:
        (N, O, 2 H, 2 W), or (N, 4 O, H, W) with unshuffled kernels, without what `padded` says was added.

    Raises:
        ValueError: If a shape is invalid, or if the upsampled map is too small for reflect padding.
        TypeError: If the dtypes of x and the kernels differ.
    """
    check_map("phase_conv2d", x)
    _, c, h, w = x.shape
    pad, _ = _padding_of(kernels)
    if padded:
        h, w = h - 2 * pad, w - 2 * pad
    if c != kernels.phases.shape[1] or min(h, w) < 1:
        expected = f"{kernels.phases.shape[1]} channels" + (f" and a pad of {pad}" if padded else "")
        raise ValueError(f"phase_conv2d: expected x with {expected}, got shape {tuple(x.shape)}")
    check_reflects("phase_conv2d", h, w, _size_of(kernels), kernels.pad_mode)
    if compute_dtype(x) != kernels.phases.dtype:
        raise TypeError(f"phase_conv2d: expected x in {kernels.phases.dtype}, the dtype of the kernels, got {x.dtype}")
    return _convolve(x.to(kernels.phases.dtype), kernels) if padded else pad_and_convolve(x, kernels)


def low_resolution_padding(k: int, pad_mode: PadMode) -> tuple[int, PadMode]:
    """Return the width and the fill mode of the padding around the map that `phase_conv2d` reads.

    Args:
        k: Size of the kernel for the upsampled map.
        pad_mode: Padding of the upsampled map. Replicate padding of the map itself serves reflect padding, too.
    """
    return low_resolution_pad(k), "zero" if pad_mode == "zero" else "replicate"


def check_weight(function: str, weight: Tensor, bias: Tensor | None, channels: int | None = None) -> None:
    """Raise ValueError unless weight and bias are those of a convolution that the phases can compute.

    Args:
        function: Name for the message.
        weight: (O, C, k, k) with odd k ≥ 3.
        bias: None or (O,).
        channels: C, or None if any number will do.
    """
    c = "C" if channels is None else channels
    if weight.dim() != 4 or weight.shape[1] != (channels or weight.shape[1]) or weight.shape[2] != weight.shape[3]:
        raise ValueError(f"{function}: expected weight of shape (O, {c}, k, k), got {tuple(weight.shape)}")
    o, k = len(weight), weight.shape[3]
    if 0 in weight.shape[:2]:
        raise ValueError(f"{function}: expected a convolution with channels, got weight {tuple(weight.shape)}")
    if k < 3 or k % 2 == 0:
        raise ValueError(f"{function}: expected an odd kernel size of at least 3, got {k}")
    if bias is not None and tuple(bias.shape) != (o,):
        raise ValueError(f"{function}: expected bias of shape ({o},), got {tuple(bias.shape)}")


def check_reflects(function: str, h: int, w: int, k: int, pad_mode: str) -> None:
    """Raise ValueError if a map of H x W pixels is too small for reflect padding after upsampling."""
    if pad_mode == "reflect" and not (k // 2 < 2 * h and k // 2 < 2 * w):
        raise ValueError(
            f"{function}: expected a reflect pad smaller than the height and width of the upsampled map, "
            f"got pad {k // 2} for a map of {2 * h} x {2 * w}"
        )


def compute_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype in which a convolution of x is computed: autocast's if it is active."""
    dtype = autocast_dtype(x.device.type)
    return x.dtype if dtype is None or x.dtype == torch.float64 else dtype


def make_kernels(
    weight: Tensor,
    bias: Tensor | None,
    pad_mode: PadMode,
    dtype: torch.dtype,
    memory_format: torch.memory_format,
    unshuffled: bool,
) -> PhaseKernels:
    """Make kernels from arguments that have been checked."""
    has_borders = pad_mode == "reflect" and border_width(weight.shape[-1]) > 0
    results = kernels_op.phase_kernels(weight, bias, dtype, memory_format, has_borders, unshuffled)
    return PhaseKernels(*results, pad_mode, unshuffled)


def pad_and_convolve(x: Tensor, kernels: PhaseKernels) -> Tensor:
    """Convolve a map that has been checked and is not padded. Backward pads it again instead of storing both maps."""
    padded = _pad(x.to(kernels.phases.dtype), *_padding_of(kernels))
    with replace_saved(padded.padded, with_=padded.recompute):
        return _convolve(padded.padded, kernels)


def _pad(x: Tensor, pad: int, pad_mode: PadMode) -> RecomputableMap:
    implementation = runnable("fused_norm", x, "none")
    if pad in PADS and implementation != "reference":
        return recomputable_fused_norm(
            x, None, None, statistics="none", pad=pad, pad_mode=pad_mode, implementation=implementation
        )
    padded = F.pad(x, (pad,) * 4) if pad_mode == "zero" else _replicate(_replicate(x, pad, 2), pad, 3)
    return RecomputableMap(padded, x, None)


def _replicate(x: Tensor, pad: int, dim: int) -> Tensor:
    """Pad one dimension by replication. On a GPU, torch's own padding adds up gradients in any order."""
    sizes = [pad if i == dim else -1 for i in range(4)]
    first, last = (x.narrow(dim, at, 1).expand(sizes) for at in (0, x.shape[dim] - 1))
    return torch.cat([first, x, last], dim)


def _convolve(padded: Tensor, kernels: PhaseKernels) -> Tensor:
    return op.upsample_conv2d(padded, kernels.phases, kernels.borders, kernels.bias, kernels.unshuffled)
