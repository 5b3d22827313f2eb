"""Runs the emulated CUDA launchers of fused_norm on tensors."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fastmunit.ops.layout import dense_format
from tests.cuda.emulated import Reply, emulate, name_of


@dataclass(frozen=True)
class Device:
    """A GPU as the launch table sees it.

    Attributes:
        multiprocessors: How many it has.
        shared_bytes: What a block may have of shared memory.
        cluster: How many blocks may share theirs.
        most_steps: Largest number of steps of a tile; fewer cut small maps as large ones are cut.
    """

    multiprocessors: int = 132
    shared_bytes: int = 227 * 1024
    cluster: int = 16
    most_steps: int = 32


@dataclass(frozen=True)
class Options:
    """The options of fused_norm."""

    statistics: str = "instance"
    activation: str = "none"
    negative_slope: float = 0.2
    pad: int = 0
    pad_mode: str = "reflect"
    eps: float = 1e-5
    pixel_shuffle: bool = False


class _Arrays:
    """What a request says of inputs that may be absent or strided."""

    def __init__(self, x: Tensor, options: Options, device: Device) -> None:
        n, c, h, w = x.shape
        if options.pixel_shuffle:
            c, h, w = c // 4, 2 * h, 2 * w
        self.shape = (n, c, h, w)
        self.x = x
        self.memory_format = dense_format(x)
        self.inputs = {"x": x}
        self.values: dict[str, int | float] = {"batch": n, "channels": c, "height": h, "width": w}
        self.values |= {name: getattr(options, name) for name in ("negative_slope", "pad", "eps")}
        self.values |= {"pixel_shuffle": int(options.pixel_shuffle), **vars(device)}
        layout = "nchw" if self.memory_format == torch.contiguous_format else "channels_last"
        self.texts = {"dtype": name_of(x.dtype), "layout": layout}
        self.texts |= {name: getattr(options, name) for name in ("statistics", "activation", "pad_mode")}

    def add_map(self, name: str, tensor: Tensor | None) -> None:
        """A map and the storage that it is in; a copy where its innermost dimension is not dense, as in the binding."""
        if tensor is None:
            return
        inner = 3 if self.memory_format == torch.contiguous_format else 1
        if tensor.shape[inner] != 1 and tensor.stride(inner) != 1:
            tensor = tensor.contiguous(memory_format=self.memory_format)
        storage = tensor.untyped_storage()
        count = storage.nbytes() // tensor.element_size()
        self.inputs[name] = torch.as_strided(tensor, (count,), (1,), 0)
        self.values[f"{name}_offset"] = tensor.storage_offset()
        self.values |= {f"{name}_stride{dim}": stride for dim, stride in enumerate(tensor.stride())}

    def add_coefficients(self, name: str, tensor: Tensor | None) -> None:
        """weight or bias, (C,) or (N, C)."""
        if tensor is None:
            return
        self.inputs[name] = tensor
        self.texts[f"{name}_dtype"] = name_of(tensor.dtype)
        strides = tensor.stride() if tensor.dim() == 2 else (0, tensor.stride(0))
        self.values |= {f"{name}_stride{dim}": stride for dim, stride in enumerate(strides)}

    def empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self.x.dtype).contiguous(memory_format=self.memory_format)


def forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    options: Options,
    device: Device,
    **how,
) -> tuple[Tensor, Tensor, Tensor, Reply]:
    """Padded, mean and rstd."""
    arrays = _Arrays(x, options, device)
    arrays.add_coefficients("weight", weight)
    arrays.add_coefficients("bias", bias)
    arrays.add_map("residual", residual)
    n, c, h, w = arrays.shape
    padded = arrays.empty(n, c, h + 2 * options.pad, w + 2 * options.pad)
    groups = {"instance": (n, c), "layer": (n,), "none": (0,)}[options.statistics]
    mean, rstd = (torch.empty(groups, dtype=torch.float64) for _ in range(2))
    outputs = {"padded": padded, "mean": mean, "rstd": rstd}
    reply = emulate("fused_norm", arrays.values, arrays.texts, arrays.inputs, outputs, **how)
    return padded, mean, rstd, reply


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
    wanted: tuple[bool, bool] = (True, True),
    **how,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Reply]:
    """dx, dweight, dbias and dresidual, None where there is none. `wanted`: whether dweight and dbias are."""
    arrays = _Arrays(x, options, device)
    arrays.add_coefficients("weight", weight)
    arrays.add_coefficients("bias", bias)
    arrays.add_map("dpadded", dpadded)
    arrays.add_map("dinterior", dinterior)
    arrays.inputs |= {"mean": mean, "rstd": rstd}
    outputs = {"dx": torch.empty_like(x, memory_format=arrays.memory_format)}
    outputs |= {
        f"d{name}": torch.empty(tensor.shape, dtype=tensor.dtype)
        for (name, tensor), is_wanted in zip((("weight", weight), ("bias", bias)), wanted, strict=True)
        if tensor is not None and is_wanted
    }
    if residual:
        outputs["dresidual"] = arrays.empty(*arrays.shape)
    reply = emulate("fused_norm_backward", arrays.values, arrays.texts, arrays.inputs, outputs, **how)
    return outputs["dx"], outputs.get("dweight"), outputs.get("dbias"), outputs.get("dresidual"), reply
