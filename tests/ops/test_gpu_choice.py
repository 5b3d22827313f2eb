"""The choice of "auto" on a GPU with measurements, for invented tables and without a GPU."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fastmunit import functional, info
from fastmunit.ops import availability, gpu_choice
from fastmunit.ops.gpu_choice import Choice, fused_norm_implementation, measured_choice
from fastmunit.testing import make_map

SHAPE = (1, 64, 32, 32)
VALUES = 64 * 32 * 32
ENTRY = Choice(
    capability=(9, 0),
    function="fused_norm",
    layout="nchw",
    dtype="float32",
    statistics="instance",
    min_values=1000,
    max_values=VALUES,
    implementation="triton",
    source="made up",
)


@pytest.fixture
def asked(monkeypatch):
    """Pretend an H100 with both kinds of kernels and a table with one entry. Return the list of queried devices."""
    devices = []

    def capability(index):
        devices.append(index)
        return (9, 0)

    monkeypatch.setattr(gpu_choice, "TABLE", (ENTRY,))
    monkeypatch.setattr(gpu_choice, "_capabilities", {})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", capability)
    for name in ("synchronize", "_lazy_init"):
        monkeypatch.setattr(torch.cuda, name, lambda *args: pytest.fail("the device was waited for"))
    # torch 2.10 initializes CUDA for the first fake tensor on a device.
    monkeypatch.setattr("torch._subclasses.fake_tensor.init_gpu_context", lambda *args: None, raising=False)
    for name in ("native", "triton"):
        monkeypatch.setitem(availability._REASONS, (name, "cuda"), None)
    return devices


def implementation_of(x, statistics="instance"):
    return functional.implementation_of("fused_norm", x, statistics)


def test_every_entry_of_the_table_can_be_chosen():
    for choice in gpu_choice.TABLE:
        assert choice.implementation in ("native", "triton") and choice.min_values <= choice.max_values
        assert choice.source and len(choice.capability) == 2
        key = (choice.capability, choice.layout, choice.dtype, choice.statistics, choice.min_values)
        assert fused_norm_implementation(*key) == choice.implementation, "an entry before it covers the same maps"


@pytest.mark.parametrize(
    "change",
    [
        {"capability": (8, 0)},
        {"capability": None},
        {"layout": "channels_last"},
        {"dtype": "bfloat16"},
        {"statistics": "layer"},
        {"values": 999},
        {"values": VALUES + 1},
    ],
    ids=str,
)
def test_an_entry_holds_for_its_maps_alone(change):
    call = {"capability": (9, 0), "layout": "nchw", "dtype": "float32", "statistics": "instance", "values": VALUES}
    assert fused_norm_implementation(**call, table=[ENTRY]) == "triton"
    assert fused_norm_implementation(**call, table=[ENTRY._replace(function="weighted_l1")]) is None
    assert fused_norm_implementation(**{**call, **change}, table=[ENTRY]) is None


def test_auto_follows_the_table(asked, monkeypatch):
    with FakeTensorMode():
        x = torch.empty(SHAPE, device="cuda")
        assert implementation_of(x) == "triton"
        assert implementation_of(x, "none") == "native"
        assert implementation_of(x, None) == "native"
        assert implementation_of(torch.empty(1, 64, 64, 64, device="cuda")) == "native"
        assert implementation_of(x.to(memory_format=torch.channels_last)) == "native"
        assert implementation_of(x.bfloat16()) == "native"
        assert implementation_of(x.double()) == "reference"
        with functional.use_implementation("reference"):
            assert implementation_of(x) == "reference"
        monkeypatch.setitem(availability._REASONS, ("triton", "cuda"), "Triton is not installed")
        assert implementation_of(x) == "native"
    assert implementation_of(make_map(SHAPE)) == availability.automatic("cpu", "fused_norm")


def test_a_device_is_asked_once(asked):
    with FakeTensorMode():
        for device in ("cuda", "cuda:0", "cuda:1", "cuda:1"):
            assert measured_choice(torch.empty(SHAPE, device=device), "instance") == "triton"
    assert asked == [0, 1]
    assert measured_choice(make_map(SHAPE), "instance") is None
    assert asked == [0, 1]


def test_nothing_is_asked_without_measurements(monkeypatch):
    monkeypatch.setattr(gpu_choice, "_capability", lambda index: pytest.fail("the device was asked"))
    monkeypatch.setattr(gpu_choice, "TABLE", ())
    with FakeTensorMode():
        assert measured_choice(torch.empty(SHAPE, device="cuda"), "instance") is None


def test_the_op_that_runs_is_that_of_the_table(asked):
    calls = []

    class Record(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, op, types, args=(), kwargs=None):
            calls.append(op.name())
            return op(*args, **(kwargs or {}))

    with FakeTensorMode(), Record():
        for shape in (SHAPE, (1, 64, 64, 64)):
            functional.fused_norm(torch.empty(shape, device="cuda"), statistics="instance")
    assert [name for name in calls if "fused_norm" in name] == ["fastmunit::fused_norm_triton", "fastmunit::fused_norm"]


@pytest.mark.skipif(torch.__version__ < (2, 11), reason="torch 2.10 does not compile inside of a FakeTensorMode")
def test_compiled_graphs_follow_the_table(monkeypatch):
    """A new size is compiled again only if the table distinguishes it from the old size."""
    monkeypatch.setattr(gpu_choice, "TABLE", (ENTRY,))
    monkeypatch.setattr(gpu_choice, "_capabilities", {0: (9, 0)})
    for name in ("native", "triton"):
        monkeypatch.setitem(availability._REASONS, (name, "cuda"), None)
    graphs = []

    def backend(graph, inputs):
        targets = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
        graphs.extend(target.split(".")[1] for target in targets if "fused_norm" in target)
        return graph

    @torch.compile(fullgraph=True, backend=backend, dynamic=True)
    def run(x):
        return functional.fused_norm(x, statistics="instance")[0]

    torch._dynamo.reset()
    with FakeTensorMode():
        for height in (48, 40, 64, 60):
            run(torch.empty(1, 64, height, 20, device="cuda"))
    assert graphs == ["fused_norm_triton", "fused_norm"]


def test_info_tells_of_measurements(asked):
    measured = "fused_norm of nchw float32, statistics instance, 1000 to 65536 values, compute capability 9.0: triton"
    assert f"  {measured} (made up)" in info._measured_lines()
