"""Exact and fast MUNIT for current PyTorch.

Public names are imported on first use, so `import fastmunit` is fast: it does not compile anything or touch CUDA.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastmunit import data, distributed, functional, info, styles
    from fastmunit.acceleration.install import accelerate
    from fastmunit.config import Config
    from fastmunit.runs.callbacks import Callback
    from fastmunit.runs.start import train
    from fastmunit.systems.bicyclegan import BicycleGAN
    from fastmunit.systems.cyclegan import CycleGAN
    from fastmunit.systems.munit import MUNIT
    from fastmunit.systems.unit import UNIT
    from fastmunit.translation.augment import Augment
    from fastmunit.translation.augmented_dataset import AugmentedDataset
    from fastmunit.translation.contact_sheet import contact_sheet
    from fastmunit.translation.translate import load_generators, load_translator, translate

    __version__: str

__all__ = [
    "MUNIT",
    "UNIT",
    "Augment",
    "AugmentedDataset",
    "BicycleGAN",
    "Callback",
    "Config",
    "CycleGAN",
    "__version__",
    "accelerate",
    "contact_sheet",
    "data",
    "distributed",
    "functional",
    "info",
    "load_generators",
    "load_translator",
    "styles",
    "train",
    "translate",
]

_MODULES = ("data", "distributed", "functional", "info", "styles")
_HOMES = {
    "MUNIT": "fastmunit.systems.munit",
    "UNIT": "fastmunit.systems.unit",
    "CycleGAN": "fastmunit.systems.cyclegan",
    "BicycleGAN": "fastmunit.systems.bicyclegan",
    "Config": "fastmunit.config",
    "Augment": "fastmunit.translation.augment",
    "AugmentedDataset": "fastmunit.translation.augmented_dataset",
    "accelerate": "fastmunit.acceleration.install",
    "contact_sheet": "fastmunit.translation.contact_sheet",
    "load_translator": "fastmunit.translation.translate",
    "translate": "fastmunit.translation.translate",
    "load_generators": "fastmunit.translation.translate",
    "train": "fastmunit.runs.start",
    "Callback": "fastmunit.runs.callbacks",
}


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("fastmunit")
    except PackageNotFoundError:  # imported from a checkout without an installation
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
