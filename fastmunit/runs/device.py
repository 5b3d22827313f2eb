"""Choosing and describing the device of a computation."""

from __future__ import annotations

import torch

from fastmunit.errors import FastmunitError


def resolve_device(name: str | torch.device = "auto") -> torch.device:
    """Return the device of a name, if it is available on this machine.

    Args:
        name: "auto" (the first CUDA GPU, else the CPU), "cpu", "cuda", "cuda:1", "mps", …

    Raises:
        FastmunitError: If the name is not a device, or the device is not available; the message lists those that are.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise FastmunitError(f"{name!r} is not a device; available here: {', '.join(available_devices())}.") from error
    if device.type == "cuda":
        usable = torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    elif device.type == "mps":
        usable = torch.backends.mps.is_available()
    else:
        usable = device.type == "cpu"
    if not usable:
        raise FastmunitError(f"device {name!r} is not available; available here: {', '.join(available_devices())}.")
    return device


def describe_device(device: torch.device) -> str:
    """Describe a device for reports: the name of a GPU, or the number of threads on the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type


def available_devices() -> list[str]:
    """List the names that `resolve_device` accepts on this machine, without "auto"."""
    names = ["cpu"]
    if torch.cuda.is_available():
        names += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps")
    return names


def has_fast_bfloat16(device: torch.device) -> bool:
    """Return True if the device has bfloat16 matrix instructions, which make bfloat16 training faster than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        if not hasattr(torch.cpu, "get_capabilities"):  # torch 2.10
            return torch.cpu._is_avx512_bf16_supported()
        capabilities = torch.cpu.get_capabilities()
        return any(bool(capabilities.get(name)) for name in ("avx512_bf16", "amx_bf16", "bf16", "arm_bf16"))
    return False
