"""The parts that all public functions share: the choice of the implementation and the checks of arguments."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fastmunit import functional
from fastmunit.errors import ImplementationError
from fastmunit.functional import implementation, instance_norm_stats, use_implementation
from fastmunit.ops import availability
from fastmunit.ops.availability import automatic, unavailable
from fastmunit.testing import make_map

NO_NATIVE = unavailable("native", "cpu")
needs_native = pytest.mark.skipif(NO_NATIVE is not None, reason=str(NO_NATIVE))


def uses_kernel(function, *args):
    with torch.profiler.profile() as profile:
        function(*args)
    return any(event.key == "fastmunit::instance_norm_stats" for event in profile.key_averages())


@needs_native
def test_auto_picks_the_native_kernel():
    x = make_map((1, 2, 3, 4))
    assert uses_kernel(instance_norm_stats, x)
    assert not uses_kernel(instance_norm_stats, x, 1e-5, "reference")


@needs_native
def test_use_implementation_sets_auto_in_its_block():
    x = make_map((1, 2, 3, 4))
    with use_implementation("reference"):
        assert not uses_kernel(instance_norm_stats, x)
        assert uses_kernel(instance_norm_stats, x, 1e-5, "native")
        with use_implementation("native"):
            assert uses_kernel(instance_norm_stats, x)
        assert not uses_kernel(instance_norm_stats, x)
    assert uses_kernel(instance_norm_stats, x)


def test_use_implementation_ends_with_an_error():
    with pytest.raises(KeyError), use_implementation("reference"):
        raise KeyError
    assert implementation._default.get() == "auto"


def test_with_blocks_of_many_threads_leave_nothing_open():
    def enter(name):
        for _ in range(300):
            with use_implementation(name), use_implementation("auto"):
                pass

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(enter, ["native", "reference"] * 2))
    finally:
        sys.setswitchinterval(interval)
    assert implementation._open == {}
    assert implementation._traced_default == "auto"


def test_use_implementation_is_of_one_thread():
    seen = []
    with use_implementation("reference"):
        thread = threading.Thread(target=lambda: seen.append(implementation._default.get()))
        thread.start()
        thread.join()
    assert seen == ["auto"]


@needs_native
def test_use_implementation_reaches_compiled_code():
    graphs = []

    def backend(graph, inputs):
        graphs.append(any("fastmunit" in str(node.target) for node in graph.graph.nodes))
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(instance_norm_stats, fullgraph=True, backend=backend)
    x = make_map((1, 2, 3, 4))
    compiled(x)
    with use_implementation("reference"):
        compiled(x)
    compiled(x)
    assert graphs == [True, False]


def test_named_implementation_that_cannot_run_says_why():
    x = make_map((1, 2, 3, 4)).to("meta")
    with pytest.raises(ImplementationError, match="no native kernel for device type 'meta'"):
        instance_norm_stats(x, implementation="native")
    with pytest.raises(ImplementationError, match=r"Triton needs a GPU|Triton is not installed|Triton kernels"):
        instance_norm_stats(make_map((1, 2, 3, 4)), implementation="triton")
    with use_implementation("triton"), pytest.raises(ImplementationError):
        instance_norm_stats(make_map((1, 2, 3, 4)))
    assert instance_norm_stats(x)[0].device.type == "meta"


@pytest.mark.parametrize("function", ["fused_norm", "weighted_l1"])
def test_auto_on_cuda_takes_an_available_kernel(function):
    for float64 in (False, True):
        available = [
            name for name in ("native", "triton") if unavailable(name, "cuda", function, float64=float64) is None
        ]
        assert automatic("cuda", function, float64=float64) == (available or ["reference"])[0]
    if function == "fused_norm":
        assert automatic("cuda", function, float64=True) == "reference"
    assert "does not support float64" in unavailable("triton", "cuda", function, float64=True)


def test_a_function_may_lack_kernels(monkeypatch):
    monkeypatch.setitem(availability.KERNELS, "weighted_l1", {("native", "cpu")})
    assert automatic("cuda", "weighted_l1") == "reference"
    assert "no native kernel for device type 'cuda'" in unavailable("native", "cuda", "weighted_l1")
    assert "no triton kernel for device type 'cpu'" in unavailable("triton", "cpu", "weighted_l1")


def test_unknown_implementation():
    with pytest.raises(ValueError, match=r"expected implementation to be one of 'auto', 'native'"):
        instance_norm_stats(make_map((1, 2, 3, 4)), implementation="fast")
    with pytest.raises(ValueError, match="expected implementation to be one of"), use_implementation("fast"):
        pass


@pytest.mark.parametrize("implementation", ["auto", "reference"])
def test_bad_maps(implementation):
    with pytest.raises(ValueError, match=r"expected x of shape \(N, C, H, W\), got \(2, 3\)"):
        instance_norm_stats(torch.zeros(2, 3), implementation=implementation)
    with pytest.raises(TypeError, match=r"got torch\.int64"):
        instance_norm_stats(torch.zeros(1, 1, 2, 2, dtype=torch.int64), implementation=implementation)
    with pytest.raises(ValueError, match="at least one pixel"):
        instance_norm_stats(torch.zeros(1, 1, 0, 2), implementation=implementation)


def test_fused_norm_of_float64_on_a_gpu_is_the_reference():
    assert automatic("cuda", "fused_norm", float64=True) == "reference"
    with FakeTensorMode():
        x = torch.empty(1, 2, 4, 4, dtype=torch.float64, device="cuda")
        assert functional.fused_norm(x, statistics="instance")[0].dtype == torch.float64
        with pytest.raises(ImplementationError, match=r"native kernel for device type 'cuda' does not support float64"):
            functional.fused_norm(x, statistics="instance", implementation="native")


def test_bias_act_pad_has_no_eps():
    with pytest.raises(TypeError, match=r"bias_act_pad\(\) got an unexpected keyword argument 'eps'"):
        functional.bias_act_pad(torch.zeros(1, 1, 2, 2), eps=1e-3)
