"""bench.kernel_rule: launches of fused_norm agree with the emulated launchers; the rule for torch's ops by hand."""

import pytest
import torch
import torch.nn.functional as F

from bench import kernel_rule
from bench.dispatch import Recorder
from bench.kernel_rule import category_of, kernels_of, launches_of_lists
from fastmunit import functional
from fastmunit.testing import make_map
from tests.cuda.fused_norm_requests import Device, backward, forward

SMALL = Device(multiprocessors=4, max_steps=1)
"""A device that splits small maps as large ones are split."""


def calls_of(function, *tensors):
    with Recorder() as recorder:
        function(*tensors)
    return recorder.calls


def kernels(function, *tensors):
    """Return the numbers of kernels of the ops of torch that a call dispatches."""
    return [kernels_of(call, Device()) for call in calls_of(function, *tensors) if call.op.namespace == "aten"]


@pytest.mark.parametrize(
    ("layout", "dtype", "options", "parameters"),
    [
        ("nchw", torch.float32, {"statistics": "instance", "pad": 1}, (1, 1)),
        ("channels_last", torch.bfloat16, {"statistics": "instance", "pad": 1}, (2, 2)),
        ("channels_last", torch.bfloat16, {"statistics": "layer", "pixel_shuffle": True}, (1, 1)),
        ("channels_last", torch.float32, {"statistics": "none", "activation": "leaky_relu"}, (0, 1)),
        ("nchw", torch.bfloat16, {"statistics": "none", "pad": 2}, (0, 0)),
    ],
)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("device", [Device(), SMALL], ids=["H100", "small"])
def test_launches_of_fused_norm(layout, dtype, options, parameters, batch, device):
    """`parameters` are the dimensions of weight and bias; 0 stands for none."""
    shuffled = options.get("pixel_shuffle", False)
    x = make_map((batch, 8 * (4 if shuffled else 1), 32, 32), dtype, layout).requires_grad_()
    weight, bias = (torch.ones((batch, 8)[2 - of :]).requires_grad_() if of else None for of in parameters)
    calls = calls_of(lambda: functional.fused_norm(x, weight, bias, **options)[0].sum().backward())
    found = [kernels_of(call, device) for call in calls if call.name.startswith("fastmunit")]
    x, weight, bias = (None if t is None else t.detach() for t in (x, weight, bias))
    padded, mean, rstd, first = forward(x, weight, bias, None, options, device)
    *_, second = backward(torch.ones_like(padded), None, x, mean, rstd, weight, bias, False, options, device)
    copies = 1  # of the gradient of the sum, which is one expanded value
    assert found == [first.launches, second.launches + copies]


def test_a_convolution_is_one_kernel_per_result():
    x, weight, bias = torch.zeros(1, 4, 8, 8), torch.zeros(4, 4, 3, 3), torch.zeros(4)
    assert kernels(F.conv2d, x, weight) == [1]
    assert kernels(F.conv2d, x, weight, bias) == [2]
    dy = torch.zeros(1, 4, 6, 6)
    for learning in ([x], [x, weight, bias]):
        y = F.conv2d(*(t.requires_grad_(any(t is each for each in learning)) for t in (x, weight, bias)))
        assert kernels(lambda y=y, learning=learning: torch.autograd.grad(y, learning, dy)) == [len(learning)]


def test_other_ops_of_torch():
    x = torch.zeros(2, 4, 8, 8, requires_grad=True)
    assert kernels(lambda: x[0].view(-1).t()) == []
    assert kernels(lambda: F.pad(x, (1, 1))) == [2]
    assert kernels(x[:, 1:].backward, torch.zeros(2, 3, 8, 8)) == [2]
    assert kernels(lambda: (x + 1).mean()) == [1, 1]


def plain_launches(sizes, tensors, blocks):
    """Return the launches by cutting the list of all chunks."""
    chunks = [(t, c) for t, size in enumerate(sizes) for c in range(-(-size // kernel_rule.CHUNK))]
    launches = 0
    while chunks:
        launches += 1
        taken = 0
        while taken < min(blocks, len(chunks)) and len({t for t, _ in chunks[: taken + 1]}) <= tensors:
            taken += 1
        chunks = chunks[taken:]
    return launches


def test_lists_are_launched_in_chunks():
    chunk = kernel_rule.CHUNK
    cases = (
        [],
        [0, 0],
        [1],
        [1] * 252,
        [1] * 253,
        [chunk * 2240],
        [chunk * 2240 + 1],
        [1, chunk * 3000, 5] * 3,
        [7] * 800,
    )
    for sizes in cases:
        for lists in (1, 4):
            expected = plain_launches(sizes, kernel_rule.MAX_TENSORS[lists - 1], kernel_rule.MAX_BLOCKS)
            assert launches_of_lists(sizes, lists) == expected


def test_lists_of_different_layouts_are_launched_one_by_one():
    plain = [torch.zeros(2, 3, 4, 4) for _ in range(5)]
    last = [x.contiguous(memory_format=torch.channels_last) for x in plain]
    low = [x.bfloat16() for x in plain]
    assert kernels(torch._foreach_add_, plain, plain) == [1]
    assert kernels(torch._foreach_add_, plain, last) == [5]
    assert kernels(torch._foreach_add_, plain, low) == [5]
    assert kernels(torch._foreach_copy_, low, plain) == [1]
    assert kernels(torch._foreach_mul, plain, 2.0) == [1]
    optimizer = torch.optim.Adam([x.requires_grad_() for x in plain], fused=True)
    for x in plain:
        x.grad = torch.ones_like(x)
    assert kernels(optimizer.step)[-2:] == [1, 1]  # the counts of steps, then the parameters


def test_casts_are_a_category():
    x = torch.zeros(2, 3)
    (cast,) = calls_of(x.bfloat16)
    (copy,) = calls_of(x.clone)
    (into,) = calls_of(torch.zeros(2, 3, dtype=torch.bfloat16).copy_, x)
    (lists,) = calls_of(torch._foreach_copy_, [torch.zeros(2, 3, dtype=torch.bfloat16)], [x])
    assert [category_of(call) for call in (cast, copy, into, lists)] == ["cast", "copy", "cast", "cast"]


def test_an_unknown_op_of_ours_is_named(monkeypatch):
    (call,) = calls_of(functional.instance_norm_stats, torch.zeros(1, 2, 4, 4))
    assert kernels_of(call, Device()) == 2
    monkeypatch.delitem(kernel_rule._OURS, "instance_norm_stats")
    with pytest.raises(KeyError, match=r"kernel_rule.py.*fastmunit.instance_norm_stats"):
        kernels_of(call, Device())
