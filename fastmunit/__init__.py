"""fastmunit: exact and fast MUNIT for current PyTorch.

Public names are imported when they are first used, so `import fastmunit` is quick: it compiles nothing and leaves CUDA
alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastmunit import data, distributed, functional, info
    from fastmunit.acceleration.accelerate import accelerate
    from fastmunit.config import Config
    from fastmunit.inference import load_translator, translate
    from fastmunit.models.bicyclegan import BicycleGAN
    from fastmunit.models.cyclegan import CycleGAN
    from fastmunit.models.munit import MUNIT
    from fastmunit.models.registry import load_generators
    from fastmunit.models.unit import UNIT
    from fastmunit.training.progress import Callback
    from fastmunit.training.start import train

    __version__: str

__all__ = [
    "MUNIT",
    "UNIT",
    "BicycleGAN",
    "Callback",
    "Config",
    "CycleGAN",
    "__version__",
    "accelerate",
    "data",
    "distributed",
    "functional",
    "info",
    "load_generators",
    "load_translator",
    "train",
    "translate",
]

_MODULES = ("data", "distributed", "functional", "info")
_HOMES = {
    "MUNIT": "fastmunit.models.munit",
    "UNIT": "fastmunit.models.unit",
    "CycleGAN": "fastmunit.models.cyclegan",
    "BicycleGAN": "fastmunit.models.bicyclegan",
    "Config": "fastmunit.config",
    "accelerate": "fastmunit.acceleration.accelerate",
    "load_translator": "fastmunit.inference",
    "translate": "fastmunit.inference",
    "load_generators": "fastmunit.models.registry",
    "train": "fastmunit.training.start",
    "Callback": "fastmunit.training.progress",
}


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("fastmunit")
    except PackageNotFoundError:  # imported from a checkout that was never installed
        return "0+not.installed"


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"fastmunit.{name}")
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    elif name == "__version__":
        value = _version()
    else:
        raise AttributeError(f"module 'fastmunit' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
