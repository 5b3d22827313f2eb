"""Report of versions, build options, implementations and devices: `python -m fastmunit.info`."""

from importlib.metadata import PackageNotFoundError, version

__all__ = ["report"]


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _build_lines() -> list[str]:
    from fastmunit.ops.availability import extension, unavailable

    if extension is None:
        return [f"native extension   none: {unavailable('native', 'cpu')}"]
    config = extension.build_config()
    cuda = "none"
    if config["cuda"] is not None:
        cuda = f"{config['cuda']} for architectures {', '.join(config['cuda_architectures'])}"
    return [
        f"native extension   {extension.__file__}",
        f"  built with       torch {config['torch']} (runs with {config['torch_target']} and later), "
        f"{config['compiler']}, {config['build_type']}",
        f"  CUDA             {cuda}",
        f"  instruction sets {', '.join(config['simd'])}; in use: {config['simd_in_use']}",
    ]


def _implementation_lines() -> list[str]:
    from fastmunit.ops.availability import FUNCTIONS, IMPLEMENTATIONS, automatic, extension, unavailable

    lines = []
    for device_type in ("cpu", "cuda"):
        chosen = automatic(device_type)
        lines.append(f'"auto" on {device_type:<9}{chosen}')
        for function in FUNCTIONS:
            of_float64 = automatic(device_type, function, float64=True)
            if of_float64 != chosen:
                lines.append(f"  {function} of float64: {of_float64}")
        for implementation in IMPLEMENTATIONS:
            reason = unavailable(implementation, device_type)
            reported = implementation == "native" and extension is None  # in the line of the native extension
            if implementation != "reference" and reason is not None and not reported:
                lines.append(f"  not {implementation}: {reason}")
    return [*lines, *_measured_lines()]


def _measured_lines() -> list[str]:
    """Return a line for each case in which "auto" on a GPU follows a measurement."""
    from fastmunit.ops import gpu_choice
    from fastmunit.ops.availability import unavailable

    lines = []
    for choice in gpu_choice.TABLE:
        if unavailable(choice.implementation, "cuda", choice.function) is None:
            major, minor = choice.capability
            lines.append(
                f"  {choice.function} of {choice.layout} {choice.dtype}, statistics {choice.statistics}, "
                f"{choice.min_values} to {choice.max_values} values, compute capability {major}.{minor}: "
                f"{choice.implementation} ({choice.source})"
            )
    return lines


def _device_lines() -> list[str]:
    import torch

    if not torch.cuda.is_available():
        return ["CUDA devices       none"]
    lines = []
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        lines.append(
            f"CUDA device {index}      {device.name}, compute capability {device.major}.{device.minor}, "
            f"{device.total_memory / 2**30:.0f} GiB"
        )
    return lines


def _bfloat16_line() -> str:
    """Return the line about matrix instructions for bfloat16, without which `precision: bfloat16` is slow."""
    import torch

    from fastmunit.runs.device import has_fast_bfloat16

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    places = ["cpu", *(f"cuda:{index}" for index in range(count))]
    found = [f"{place} {'yes' if has_fast_bfloat16(torch.device(place)) else 'no'}" for place in places]
    return f"fast in bfloat16   {', '.join(found)}"


def _model_line() -> str:
    from fastmunit.model_folder.load import packaged

    return f"packaged models    {', '.join(packaged()) or 'none'}"


def report() -> str:
    """Return the text that `python -m fastmunit.info` prints.

    It lists versions, the build options of the native extension, the implementation that "auto" selects on each device
    and why others are unavailable, the CUDA devices, where bfloat16 is fast, and the packaged models. The CUDA driver
    is queried for them.
    """
    import torch

    from fastmunit import __version__

    lines = [
        f"fastmunit          {__version__}",
        f"torch              {torch.__version__}, {torch.get_num_threads()} threads",
        f"torchvision        {_version_of('torchvision')}",
        f"triton             {_version_of('triton')}",
        *_build_lines(),
        *_implementation_lines(),
        *_device_lines(),
        _bfloat16_line(),
        _model_line(),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(report())
