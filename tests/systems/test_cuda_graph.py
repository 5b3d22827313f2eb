"""Tests of CapturedIteration: the order of replays, including those from different streams."""

import pytest
import torch

from fastmunit.errors import TrainingError
from fastmunit.systems.parts import cuda_graph
from fastmunit.systems.parts.cuda_graph import CapturedIteration, GraphMemory, Results


class Recorded:
    """A stand-in for a CUDA event or graph that records the calls of its methods."""

    def __init__(self, calls):
        self.calls = calls

    def wait(self):
        self.calls.append("wait")

    def record(self):
        self.calls.append("record")

    def replay(self):
        self.calls.append("replay")


def test_a_replay_waits_for_the_one_before_it(monkeypatch):
    calls = []
    monkeypatch.setattr(cuda_graph, "_eager", lambda body, inputs, memory: body(inputs))
    monkeypatch.setattr(cuda_graph, "_capture", lambda body, inputs, memory: (Recorded(calls), body(inputs)))
    monkeypatch.setattr(torch.cuda, "Event", lambda: Recorded(calls))
    monkeypatch.setattr(torch, "_foreach_copy_", lambda to, given: calls.append("copy"))
    iteration = CapturedIteration()
    total, output = torch.zeros(()), torch.zeros(2)

    def body(inputs):
        x, same = inputs["gen"]
        assert x is same
        return Results({"total": total.copy_(x.sum())}, (output,))

    x = torch.ones(2)
    for _ in range(cuda_graph._WARM_UP + 2):
        results = iteration._run(body, {"gen": (x, x)}, [], None)
    assert calls == ["replay", "record", "wait", "copy", "replay", "record"]
    assert results.losses["total"] is not total and results.outputs[0] is not output
    assert results.losses["total"] == total


@pytest.mark.parametrize("captured", [True, False])
def test_no_process_replays_where_another_could_not_capture(monkeypatch, captured):
    def capture(body, inputs, memory):
        if not captured:
            raise TrainingError("there is not enough GPU memory")
        return Recorded([]), Results({})

    monkeypatch.setattr(cuda_graph, "_capture", capture)
    agreed = []
    monkeypatch.setattr(cuda_graph.distributed, "all_agree", lambda holds: agreed.append(holds) or False)
    with pytest.raises(TrainingError, match="another process could not" if captured else "not enough GPU memory"):
        cuda_graph._capture_together(lambda inputs: Results({}), {"gen": (torch.ones(2),)}, GraphMemory())
    assert agreed == [captured]


@pytest.mark.gpu
def test_replays_from_two_streams_follow_each_other():
    """Each replay adds its input to a sum after slow work. No replay may overtake another."""
    total = torch.zeros((), device="cuda")
    large = torch.randn(2048, 2048, device="cuda")

    def body(inputs):
        (x,) = inputs["gen"]
        product = large
        for _ in range(20):
            product = torch.tanh(product @ large)
        return Results({"total": total.add_(x.sum() + 0.0 * product.sum())})

    iteration = CapturedIteration()
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    results = []
    for k in range(12):
        x = torch.full((2,), float(k), device="cuda")
        torch.cuda.synchronize()
        with torch.cuda.stream(streams[k % 2]):
            results.append(iteration.run(body, {"gen": (x,)}, []))
    torch.cuda.synchronize()
    assert float(total) == 2.0 * sum(range(12))
    replayed = [float(result.losses["total"]) for result in results[cuda_graph._WARM_UP :]]
    assert replayed == [2.0 * sum(range(k + 1)) for k in range(cuda_graph._WARM_UP, 12)]
