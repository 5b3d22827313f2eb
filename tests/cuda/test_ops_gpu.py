"""The ops on a GPU, in CUDA C++ and Triton: the cases of the emulator, CUDA graphs and reproducibility."""

import itertools

import pytest
import torch

from fastmunit import functional, reference
from fastmunit.ops.availability import unavailable
from fastmunit.testing import assert_as_exact_as, make_map
from tests.cuda import weighted_l1_requests as weighted_l1
from tests.cuda.fused_norm_cases import EmulatedCase, gradients_of, inputs_of, sample
from tests.ops import gan_loss_cases
from tests.ops import non_finite_cases as non_finite
from tests.ops.fused_norm_cases import NAMES, Case, eager, run, term_scales

pytestmark = pytest.mark.gpu

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
IMPLEMENTATIONS = ("native", "triton")
WEIGHTS = [10.0, 0.5, -1.0, 0.0, 3.0, 1.0]


def skip_where_missing(implementation, function):
    reason = unavailable(implementation, "cuda", function)
    if reason is not None:
        pytest.skip(reason)


def moved(tensors, **to):
    return [None if t is None else t.to(**to) for t in tensors]


def by_name(implementation):
    return lambda *a, **o: functional.fused_norm(*a, **o, implementation=implementation)


@pytest.mark.parametrize("implementation", ["native", "triton", "reference"])
@pytest.mark.parametrize("case", non_finite.all_cases(), ids=Case.id)
def test_fused_norm_of_infinities_and_nan(case, implementation):
    """The reference on the CPU gives the expected results."""
    skip_where_missing(implementation, "fused_norm")
    tensors, upstream = non_finite.all_poisons(case)
    there = moved(tensors, device="cuda"), moved(upstream, device="cuda")
    ours = moved(run(by_name(implementation), *there, case.options()), device="cpu")
    plain = run(eager, tensors, upstream, case.options())
    non_finite.compare(ours, plain, dx_is_exact=case.statistics == "none")


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("case", sample(200, seed=5), ids=EmulatedCase.id)
def test_fused_norm_matches_float64(case, implementation):
    skip_where_missing(implementation, "fused_norm")
    tensors = inputs_of(case)
    upstream = gradients_of(case, *tensors[:3])
    if case.pad == 0 and upstream[0] is not None:
        upstream = [upstream[0], None]  # torch would add two gradients of one tensor in its dtype
    scales = term_scales(case, tensors, upstream)
    tensors, upstream = moved(tensors, device="cuda"), moved(upstream, device="cuda")
    ours = run(by_name(implementation), tensors, upstream, case.options())
    plain = run(eager, tensors, upstream, case.options())
    exact = run(eager, moved(tensors, dtype=torch.float64), moved(upstream, dtype=torch.float64), case.options())
    for name, scale, *results in zip(NAMES, scales, ours, plain, exact, strict=True):
        if results[0] is not None:
            assert_as_exact_as(*results, name, scale=scale)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtypes", list(itertools.product(DTYPES, DTYPES)), ids=str)
def test_weighted_l1_matches_float64(dtypes, implementation):
    skip_where_missing(implementation, "weighted_l1")
    inputs, targets = weighted_l1.make_pairs(dtypes[:1])[0], weighted_l1.make_pairs(dtypes[1:])[1]
    tensors = moved([*inputs, *targets], device="cuda")

    def run(function, tensors):
        leaves = [t.detach().requires_grad_() for t in tensors]
        values, total = function(leaves[:6], leaves[6:], WEIGHTS)
        return [values.detach(), total.detach(), *torch.autograd.grad(total + values.sum(), leaves)]

    ours = run(lambda *a: functional.weighted_l1(*a, implementation), tensors)
    low = run(reference.weighted_l1, tensors)
    exact = run(reference.weighted_l1, [t.double() for t in tensors])
    scale = sum(abs(w) * float(v) for w, v in zip(WEIGHTS, exact[0], strict=True))
    for k, (a, b, e) in enumerate(zip(ours, low, exact, strict=True)):
        assert_as_exact_as(a, b, e, f"result {k}", scale=scale if k == 1 else None)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("gan_type", gan_loss_cases.GAN_TYPES)
def test_gan_loss_matches_float64(gan_type, dtype, implementation):
    skip_where_missing(implementation, "gan_loss")
    maps, targets = gan_loss_cases.make_maps([dtype, torch.float32], ["nchw", "channels_last"])
    maps, dvalues = moved(maps, device="cuda"), torch.linspace(-1, 2, len(maps), dtype=torch.float64, device="cuda")
    arguments = (maps, targets, gan_loss_cases.WEIGHTS, gan_type, dvalues)
    ours = gan_loss_cases.run(lambda *a: functional.gan_loss(*a, implementation), *arguments)
    gan_loss_cases.check(ours, *arguments)


def step(implementation, x, weight, bias, target):
    """Run forward and backward of all ops, one after another."""
    mean, rstd = functional.instance_norm_stats(x, implementation=implementation)
    y, interior = functional.fused_norm(
        x, weight, bias, statistics="instance", activation="relu", residual=x, pad=1, implementation=implementation
    )
    z, _ = functional.fused_norm(interior, statistics="layer", pad=2, implementation=implementation)
    _, total = functional.weighted_l1([z, y, mean], [target, y * 0.5, rstd], [1.0, 2.0, 3.0], implementation)
    return [total, *torch.autograd.grad(total, (x, weight, bias))]


def step_inputs(layout, dtype, seed=0):
    x = make_map((2, 64, 64, 64), dtype, layout, seed=seed, device="cuda").requires_grad_()
    parameters = [make_map((1, 1, 2, 64), seed=seed + k, device="cuda")[0, 0].requires_grad_() for k in (1, 2)]
    return [x, *parameters, make_map((2, 64, 68, 68), dtype, layout, seed=seed + 3, device="cuda")]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_results_are_reproducible(dtype, layout, implementation):
    skip_where_missing(implementation, "fused_norm")
    inputs = step_inputs(layout, dtype)
    first = step(implementation, *inputs)
    for _ in range(5):
        assert all(torch.equal(a, b) for a, b in zip(step(implementation, *inputs), first, strict=True))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_cuda_graph_of_forward_and_backward(dtype, layout, implementation):
    """Captured once and replayed on other inputs, it gives the same bits as calls without a graph."""
    skip_where_missing(implementation, "fused_norm")
    inputs = step_inputs(layout, dtype)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step(implementation, *inputs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step(implementation, *inputs)
    for seed in (10, 20):
        others = step_inputs(layout, dtype, seed)
        expected = step(implementation, *others)
        with torch.no_grad():
            for held, other in zip(inputs, others, strict=True):
                held.copy_(other)
        graph.replay()
        torch.cuda.synchronize()
        assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_nothing_waits_for_the_device(implementation):
    skip_where_missing(implementation, "fused_norm")
    inputs = step_inputs("nchw", torch.float32)
    step(implementation, *inputs)  # compiles the Triton kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(implementation, *inputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")
