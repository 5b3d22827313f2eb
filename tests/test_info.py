"""The report of `python -m fastmunit.info`."""

import subprocess
import sys

import pytest
import torch

from fastmunit import info
from fastmunit.ops.availability import automatic, extension
from fastmunit.runs.device import has_fast_bfloat16


def test_report_lists_what_runs():
    report = info.report()
    assert f"torch              {torch.__version__}" in report
    assert f'"auto" on cpu      {automatic("cpu")}' in report
    if extension is None:
        assert "native extension   none: " in report
    else:
        config = extension.build_config()
        assert extension.__file__ in report
        assert f"in use: {config['simd_in_use']}" in report
    if not torch.cuda.is_available():
        assert "CUDA devices       none" in report
    assert f"fast in bfloat16   cpu {'yes' if has_fast_bfloat16(torch.device('cpu')) else 'no'}" in report
    of_float64 = automatic("cuda", "fused_norm", float64=True)
    assert ("fused_norm of float64" in report) == (of_float64 != automatic("cuda"))


def test_report_without_the_extension_gives_the_reason():
    code = "import sys; sys.modules['fastmunit._C'] = None; from fastmunit import info; print(info.report())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "native extension   none: the native extension is not built" in run.stdout
    assert run.stdout.count("the native extension is not built") == 1
    assert '"auto" on cpu      reference' in run.stdout


def test_module_prints_the_report():
    run = subprocess.run([sys.executable, "-m", "fastmunit.info"], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("fastmunit ")
    assert run.stderr == ""


@pytest.mark.skipif(extension is None, reason="the native extension is not built")
def test_build_config():
    config = extension.build_config()
    assert sorted(config) == [
        "build_type",
        "compiler",
        "cuda",
        "cuda_architectures",
        "simd",
        "simd_in_use",
        "torch",
        "torch_target",
    ]
    assert "baseline" in config["simd"]
    assert (config["cuda"] is None) == (config["cuda_architectures"] == [])
