from __future__ import annotations

import pytest
import torch

from fastmunit.errors import FastmunitError
from fastmunit.runs.device import available_devices, has_fast_bfloat16, resolve_device


def test_auto_is_available() -> None:
    assert resolve_device("auto").type in ("cpu", "cuda")
    assert resolve_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "meta", "", "cpu:x"])
def test_unavailable_devices_are_refused_with_a_list_of_available_ones(name: str) -> None:
    with pytest.raises(FastmunitError, match="available here: cpu"):
        resolve_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is present")
def test_cuda_absent() -> None:
    with pytest.raises(FastmunitError, match="'cuda' is not available"):
        resolve_device("cuda")
    assert "cuda:0" not in available_devices()


@pytest.mark.parametrize(
    ("capabilities", "fast"), [({"avx2": True}, False), ({"avx512_bf16": True}, True), ({"amx_bf16": True}, True)]
)
def test_fast_bfloat16_depends_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], fast: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert has_fast_bfloat16(torch.device("cpu")) is fast


@pytest.mark.parametrize("fast", [False, True])
def test_fast_bfloat16_without_get_capabilities(monkeypatch: pytest.MonkeyPatch, fast: bool) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: fast)
    assert has_fast_bfloat16(torch.device("cpu")) is fast
