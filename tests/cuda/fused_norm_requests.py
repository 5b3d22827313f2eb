"""Run the emulated CUDA launchers of fused_norm on tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastmunit.ops.layout import dense_format
from tests.cuda.emulated import Reply, emulate, name_of

Options = Mapping[str, Any]
"""Keyword arguments of fused_norm; those left out have their defaults."""
DEFAULTS = {
    "statistics": "instance",
    "activation": "none",
    "negative_slope": 0.2,
    "pad": 0,
    "pad_mode": "reflect",
    "eps": 1e-5,
    "pixel_shuffle": False,
}


@dataclass(frozen=True)
class Device:
    """A GPU as the launch table sees it.

    Attributes:
        multiprocessors: Number of multiprocessors.
        shared_bytes: Largest amount of shared memory per block.
        cluster: Largest number of blocks per cluster; 1 without clusters.
        max_steps: Largest number of steps per tile. Fewer steps split small maps as large maps are split.
    """

    multiprocessors: int = 132
    shared_bytes: int = 227 * 1024
    cluster: int = 16
    max_steps: int = 32


class _Arrays:
    """The arrays and values of a request. Arrays may be absent or strided."""

    def __init__(self, x: Tensor, options: Options, device: Device) -> None:
        self.options = {**DEFAULTS, **options}
        n, c, h, w = x.shape
        if self.options["pixel_shuffle"]:
            c, h, w = c // 4, 2 * h, 2 * w
        self.shape = (n, c, h, w)
        self.x = x
        self.memory_format = dense_format(x)
        self.inputs = {"x": x}
        self.values: dict[str, int | float] = {"batch": n, "channels": c, "height": h, "width": w, **vars(device)}
        self.values |= {name: self.options[name] for name in ("negative_slope", "pad", "eps")}
        self.values["pixel_shuffle"] = int(self.options["pixel_shuffle"])
        layout = "nchw" if self.memory_format == torch.contiguous_format else "channels_last"
        self.texts = {"dtype": name_of(x.dtype), "layout": layout}
        self.texts |= {name: self.options[name] for name in ("statistics", "activation", "pad_mode")}

    def add_map(self, name: str, tensor: Tensor | None) -> None:
        """Add a map with its storage, or a copy if its inner dimension is not dense, as in the bindings."""
        if tensor is None:
            return
        inner = 3 if self.memory_format == torch.contiguous_format else 1
        if tensor.shape[inner] != 1 and tensor.stride(inner) != 1:
            tensor = tensor.contiguous(memory_format=self.memory_format)
        self.inputs[name] = _storage_of(tensor)
        self.values[f"{name}_offset"] = tensor.storage_offset()
        self.values |= {f"{name}_stride{dim}": stride for dim, stride in enumerate(tensor.stride())}

    def add_parameter(self, name: str, tensor: Tensor | None) -> None:
        """Add weight or bias, (C,) or (N, C)."""
        if tensor is None:
            return
        assert tensor.storage_offset() == 0
        self.inputs[name] = _storage_of(tensor)
        self.texts[f"{name}_dtype"] = name_of(tensor.dtype)
        strides = tensor.stride() if tensor.dim() == 2 else (0, tensor.stride(0))
        self.values |= {f"{name}_stride{dim}": stride for dim, stride in enumerate(strides)}

    def empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self.x.dtype).contiguous(memory_format=self.memory_format)


def _storage_of(tensor: Tensor) -> Tensor:
    count = tensor.untyped_storage().nbytes() // tensor.element_size()
    return torch.as_strided(tensor, (count,), (1,), 0)


def _forward_arrays(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, options: Options, device: Device
) -> tuple[_Arrays, Tensor]:
    """Return the inputs of a forward call and its empty padded result."""
    arrays = _Arrays(x, options, device)
    arrays.add_parameter("weight", weight)
    arrays.add_parameter("bias", bias)
    arrays.add_map("residual", residual)
    n, c, h, w = arrays.shape
    pad = arrays.options["pad"]
    return arrays, arrays.empty(n, c, h + 2 * pad, w + 2 * pad)


def forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    options: Options,
    device: Device,
    **emulation: Any,
) -> tuple[Tensor, Tensor, Tensor, Reply]:
    """Return padded, mean, rstd and the reply. `emulation` are keyword arguments of `emulate`."""
    arrays, padded = _forward_arrays(x, weight, bias, residual, options, device)
    n, c = arrays.shape[:2]
    groups = {"instance": (n, c), "layer": (n,), "none": (0,)}[arrays.options["statistics"]]
    mean, rstd = (torch.empty(groups, dtype=torch.float64) for _ in range(2))
    outputs = {"padded": padded, "mean": mean, "rstd": rstd}
    reply = emulate("fused_norm", arrays.values, arrays.texts, arrays.inputs, outputs, **emulation)
    return padded, mean, rstd, reply


def forward_with_statistics(
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    options: Options,
    device: Device,
    **emulation: Any,
) -> tuple[Tensor, Reply]:
    """Return padded for given statistics in float64, and the reply."""
    arrays, padded = _forward_arrays(x, weight, bias, residual, options, device)
    arrays.inputs |= {"given_mean": mean, "given_rstd": rstd}
    reply = emulate("fused_norm", arrays.values, arrays.texts, arrays.inputs, {"padded": padded}, **emulation)
    return padded, reply


def backward(
    dpadded: Tensor | None,
    dinterior: Tensor | None,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: bool,
    options: Options,
    device: Device,
    needed: tuple[bool, bool] = (True, True),
    **emulation: Any,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Reply]:
    """Return dx, dweight, dbias, dresidual and the reply. A gradient is None if its input is absent or not `needed`."""
    arrays = _Arrays(x, options, device)
    arrays.add_parameter("weight", weight)
    arrays.add_parameter("bias", bias)
    arrays.add_map("dpadded", dpadded)
    arrays.add_map("dinterior", dinterior)
    arrays.inputs |= {"mean": mean, "rstd": rstd}
    outputs = {"dx": torch.empty_like(x, memory_format=arrays.memory_format)}
    outputs |= {
        f"d{name}": torch.empty(tensor.shape, dtype=tensor.dtype)
        for (name, tensor), is_needed in zip((("weight", weight), ("bias", bias)), needed, strict=True)
        if tensor is not None and is_needed
    }
    if residual:
        outputs["dresidual"] = arrays.empty(*arrays.shape)
    reply = emulate("fused_norm_backward", arrays.values, arrays.texts, arrays.inputs, outputs, **emulation)
    return outputs["dx"], outputs.get("dweight"), outputs.get("dbias"), outputs.get("dresidual"), reply


@dataclass(frozen=True)
class Plan:
    """A plan of the launch table; see csrc/fused_norm/plan.h."""

    kernel: str
    split: bool
    lanes: int
    channels: int
    slices: int
    step_pixels: int
    steps: int
    tiles: int
    cluster: int
    blocks: int


def plan_of(
    device: Device,
    layout: str,
    statistics: str,
    shape: Sequence[int],
    *,
    dtype: str = "float32",
    pixel_shuffle: bool = False,
    vectors: bool = True,
    maps: int = 1,
) -> Plan:
    """Return the plan of a (batch, channels, height, width) map. Tiles of the backward pass hold two maps."""
    values: dict[str, int | float] = dict(zip(("batch", "channels", "height", "width"), shape, strict=True))
    values |= {
        "pad": 1,
        "negative_slope": 0.2,
        "eps": 1e-5,
        "pixel_shuffle": int(pixel_shuffle),
        "vectors": int(vectors),
        "maps": maps,
        **vars(device),
    }
    texts = {"dtype": dtype, "layout": layout, "statistics": statistics, "activation": "relu", "pad_mode": "reflect"}
    reply = torch.empty(10, dtype=torch.int64)
    emulate("fused_norm_plan", values, texts, {}, {"plan": reply})
    kernel, split, *rest = reply.tolist()
    return Plan(("rows", "pixels", "any")[kernel], bool(split), *rest)
