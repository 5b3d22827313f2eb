"""Which implementations can run in this process, and why the others cannot."""

import importlib
import os
from importlib.util import find_spec
from types import ModuleType

IMPLEMENTATIONS = ("native", "triton", "reference")
# What has kernels of its own; `upsample_conv2d` is made of torch's convolutions.
FUNCTIONS = ("instance_norm_stats", "fused_norm", "weighted_l1")


def _load_native() -> tuple[ModuleType | None, str | None]:
    """The extension module, or the reason why there is none."""
    try:
        return importlib.import_module("fastmunit._C"), None
    except ModuleNotFoundError:
        return None, (
            "the native extension is not built: install fastmunit from its source with a C++ compiler on PATH "
            "and without FASTMUNIT_BUILD=0"
        )
    except ImportError as error:
        return None, f"the native extension does not load, reinstall fastmunit to build it again ({error})"


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
# Triton reads the variable when a kernel is decorated, so what holds at import holds for the whole process.
_TRITON_CPU = _TRITON_CUDA or (
    None
    if os.environ.get("TRITON_INTERPRET") == "1"
    else "Triton needs a GPU (its interpreter runs on the CPU where TRITON_INTERPRET=1 is set before Python starts)"
)

_REASONS = {
    ("native", "cpu"): _NATIVE_CPU,
    ("native", "cuda"): _NATIVE_CUDA,
    ("triton", "cpu"): _TRITON_CPU,
    ("triton", "cuda"): _TRITON_CUDA,
}
# Kernels, by function, implementation and device type, that do not take float64.
_WITHOUT_FLOAT64 = frozenset(
    {
        ("fused_norm", "native", "cuda"),
        *((function, "triton", device) for function in ("fused_norm", "weighted_l1") for device in ("cpu", "cuda")),
    }
)
# What "auto" tries in turn where no measurement says otherwise. Triton's interpreter is for tests: not on the CPU.
_PREFERENCE = {"cpu": ("native",), "cuda": ("native", "triton")}


def unavailable(
    implementation: str, device_type: str, function: str = "instance_norm_stats", *, float64: bool = False
) -> str | None:
    """The reason why `implementation` of `function` cannot run on tensors of `device_type`, or None where it can.

    float64: whether any of these tensors is of that dtype.
    """
    if implementation == "reference":
        return None
    key = (implementation, device_type)
    if key not in _REASONS:
        return f"there is no {implementation} kernel for device type {device_type!r}"
    if float64 and (function, *key) in _WITHOUT_FLOAT64:
        return f"the {implementation} kernel for device type {device_type!r} does not take float64"
    return _REASONS[key]


def automatic(
    device_type: str,
    function: str = "instance_norm_stats",
    *,
    float64: bool = False,
    measured: str | None = None,
) -> str:
    """What "auto" stands for in `function` on `device_type`.

    Args:
        device_type: Of the tensors.
        function: What is called.
        float64: Whether any tensor is of that dtype.
        measured: The implementation that a measurement favors, if there was one (`fastmunit.ops.gpu_choice`).

    Returns:
        `measured` where it can run, else the first of a fixed order that can, else "reference".
    """
    candidates = _PREFERENCE.get(device_type, ())
    for implementation in candidates if measured is None else (measured, *candidates):
        if unavailable(implementation, device_type, function, float64=float64) is None:
            return implementation
    return "reference"
