"""The model.safetensors of a model folder: the weights of its networks, each tensor once.

A tensor is named KIND.NETWORK.KEY: "gen.a.dec.…", "dis.b.…", and "ema.a.…" for averaged generators.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fastmunit.errors import CheckpointError, FastmunitError
from fastmunit.files import printable, require_regular_file, unicode_path

NAME = "model.safetensors"
SUFFIX = ".safetensors"
KINDS = ("gen", "dis", "ema")

WeightType = Literal["float32", "float16", "bfloat16"]

_MAX_HEADER = 10_000_000
"""Maximum number of bytes of the JSON header. The public configurations need about 20,000."""
_TYPES = frozenset({torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64})

States = Mapping[str, Mapping[str, Mapping[str, Tensor]]]
"""State dicts by kind and network. Networks that share a weight hold the same tensor object."""


def to_bytes(states: States, dtype: WeightType | None = None) -> bytes:
    """Return the bytes of a model.safetensors.

    Args:
        states: The weights. Of a tensor that occurs more than once, only the first one is written.
        dtype: Type to store floating-point weights in. None keeps theirs.

    Raises:
        FastmunitError: If a weight is NaN or infinite, or becomes so in `dtype`.
    """
    tensors: dict[str, Tensor] = {}
    written: set[int] = set()
    for kind, networks in states.items():
        for network, state in networks.items():
            for key, value in state.items():
                if id(value) in written:
                    continue
                written.add(id(value))
                stored = value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
                if dtype is not None and stored.is_floating_point():
                    stored = stored.to(getattr(torch, dtype))
                if not bool(torch.isfinite(stored).all()):
                    where = "" if dtype is None else f" in {dtype}"
                    raise FastmunitError(f"weight {key} of {network!r} is NaN or infinite{where}: it was not saved.")
                tensors[f"{kind}.{network}.{key}"] = stored
    return save(tensors, {"format": "pt"})


def kinds(path: str | os.PathLike[str]) -> set[str]:
    """Return the kinds of networks in a file. Raises CheckpointError if it cannot be read."""
    with _opened(path) as file:
        return {name.split(".")[0] for name in file.keys()}  # noqa: SIM118 - no mapping


def read(path: str | os.PathLike[str], kind: str, networks: Collection[str]) -> dict[str, dict[str, Tensor]]:
    """Read the weights of one kind, on the CPU. Weights that networks share are given for one of them.

    Args:
        path: A model.safetensors.
        kind: "gen", "dis" or "ema".
        networks: Names of all networks of that kind.

    Raises:
        CheckpointError: If the file is missing, damaged or of another kind, or has a tensor of another network.
    """
    states: dict[str, dict[str, Tensor]] = {name: {} for name in networks}
    try:
        with _opened(path) as file:
            for full in file.keys():  # noqa: SIM118 - no mapping
                found, _, rest = full.partition(".")
                if found not in KINDS:
                    raise CheckpointError(
                        f"{printable(path)} holds {full[:100]!r}, not the weights of a fastmunit model: give the "
                        f"{NAME} of a model folder."
                    )
                if found != kind:
                    continue
                name = next((name for name in networks if rest.startswith(f"{name}.")), None)
                if name is None:
                    raise CheckpointError(
                        f"{printable(path)} holds {full[:100]!r}, a weight of none of the networks "
                        f"{', '.join(networks)} of its configuration: get the folder again."
                    )
                states[name][rest.removeprefix(f"{name}.")] = _checked(path, full, file.get_tensor(full))
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        if isinstance(error, FastmunitError):
            raise
        raise _damaged(path, error) from error
    return states


def _opened(path: str | os.PathLike[str]) -> safe_open:
    """Open a file after checking the length of its header, which the library would otherwise read into memory."""
    require_regular_file(path, "model", CheckpointError)
    try:
        with Path(path).open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
        size = Path(path).stat().st_size
        if size < 8 + length:
            raise ValueError(f"it has {size:,} bytes and should have more than {min(8 + length, 2**62):,}")
        if length > _MAX_HEADER:
            raise ValueError(f"a header of {length:,} bytes, more than {_MAX_HEADER:,}")
        with unicode_path(path) as readable:
            return safe_open(readable, framework="pt")
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise _damaged(path, error) from error


def _damaged(path: str | os.PathLike[str], error: Exception) -> CheckpointError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return CheckpointError(
        f"{printable(path)} is damaged, truncated or not a safetensors file ({reason[:200]}): get it again."
    )


def _checked(path: str | os.PathLike[str], name: str, value: Tensor) -> Tensor:
    if value.dtype not in _TYPES:
        raise CheckpointError(f"{printable(path)}: {name[:100]} is in {value.dtype}, which is not supported.")
    if not bool(torch.isfinite(value).all()):
        raise CheckpointError(f"{printable(path)}: {name[:100]} is NaN or infinite: the model is not usable.")
    return value
