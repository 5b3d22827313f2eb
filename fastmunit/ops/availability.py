"""The implementations that can run in this process, and the reasons why others cannot."""

import importlib
import itertools
import os
from importlib.util import find_spec
from types import ModuleType

IMPLEMENTATIONS = ("native", "triton", "reference")
_EVERYWHERE = frozenset(itertools.product(("native", "triton"), ("cpu", "cuda")))
# Implementations and device types that each function has kernels for. `upsample_conv2d` has none: it is built from
# torch's convolutions.
KERNELS = {
    "instance_norm_stats": _EVERYWHERE,
    "fused_norm": _EVERYWHERE,
    "weighted_l1": _EVERYWHERE,
    "gan_loss": _EVERYWHERE,
}
FUNCTIONS = tuple(KERNELS)


def _load_native() -> tuple[ModuleType | None, str | None]:
    """Return the extension module, or the reason why there is none."""
    try:
        return importlib.import_module("fastmunit._C"), None
    except ModuleNotFoundError:
        return None, (
            "the native extension is not built: install fastmunit from its source with a C++ compiler on PATH "
            "and without FASTMUNIT_BUILD=0"
        )
    except ImportError as error:
        return None, f"the native extension does not load: reinstall fastmunit to build it again ({error})"


extension, _NATIVE_CPU = _load_native()
_NATIVE_CUDA = _NATIVE_CPU
if extension is not None and extension.build_config()["cuda"] is None:
    _NATIVE_CUDA = (
        "the native extension was built without CUDA: install fastmunit from its source where a CUDA toolkit is found "
        "and without FASTMUNIT_CUDA=0"
    )

_TRITON_CUDA = None if find_spec("triton") else "Triton is not installed"
if _TRITON_CUDA is None and find_spec("fastmunit.kernels") is None:
    _TRITON_CUDA = "the Triton kernels are not installed: install fastmunit from its source"
# Triton reads the variable when a kernel is decorated, so its value at import holds for the whole process.
_TRITON_CPU = _TRITON_CUDA or (
    None
    if os.environ.get("TRITON_INTERPRET") == "1"
    else "Triton needs a GPU (to run its interpreter on the CPU, set TRITON_INTERPRET=1 before Python starts)"
)

_REASONS = {
    ("native", "cpu"): _NATIVE_CPU,
    ("native", "cuda"): _NATIVE_CUDA,
    ("triton", "cpu"): _TRITON_CPU,
    ("triton", "cuda"): _TRITON_CUDA,
}
# Kernels that do not accept float64, by function, implementation and device type.
_WITHOUT_FLOAT64 = frozenset(
    {
        ("fused_norm", "native", "cuda"),
        *itertools.product(("fused_norm", "weighted_l1", "gan_loss"), ("triton",), ("cpu", "cuda")),
    }
)
# The order in which "auto" tries implementations without a measurement. Triton's interpreter on the CPU is for tests.
_PREFERENCE = {"cpu": ("native",), "cuda": ("native", "triton")}


def unavailable(
    implementation: str, device_type: str, function: str = "instance_norm_stats", *, float64: bool = False
) -> str | None:
    """Return the reason why an implementation cannot run, or None if it can.

    Args:
        implementation: "native", "triton" or "reference".
        device_type: Device type of the tensors.
        function: Name of the public function.
        float64: True if any of the tensors is float64.
    """
    if implementation == "reference":
        return None
    key = (implementation, device_type)
    if key not in KERNELS[function]:
        return f"there is no {implementation} kernel for device type {device_type!r}"
    if float64 and (function, *key) in _WITHOUT_FLOAT64:
        return f"the {implementation} kernel for device type {device_type!r} does not support float64"
    return _REASONS[key]


def automatic(
    device_type: str,
    function: str = "instance_norm_stats",
    *,
    float64: bool = False,
    measured: str | None = None,
) -> str:
    """Return the implementation that "auto" stands for.

    Args:
        device_type: Device type of the tensors.
        function: Name of the public function.
        float64: True if any of the tensors is float64.
        measured: Fastest implementation in a measurement, if there is one (`fastmunit.ops.gpu_choice`).

    Returns:
        `measured` if it can run, or else the first of a fixed order that can, or else "reference".
    """
    candidates = _PREFERENCE.get(device_type, ())
    for implementation in candidates if measured is None else (measured, *candidates):
        if unavailable(implementation, device_type, function, float64=float64) is None:
            return implementation
    return "reference"
