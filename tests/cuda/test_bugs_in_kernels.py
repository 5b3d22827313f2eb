"""Each bug that planted.py plants in the headers of fused_norm is found by a check of tests/cuda.

Checks of results, traffic and the emulator's own errors run with the sanitizer of addresses too, which saves a build.
"""

from dataclasses import replace
from functools import partial

import pytest
import torch

from tests.cuda.emulated import SCHEDULES, EmulationError
from tests.cuda.fused_norm_cases import DEVICES, exact_results, gradients_of, inputs_of, plain_case
from tests.cuda.fused_norm_requests import backward, forward
from tests.cuda.planted import BUGS, SOURCES, number_of, plant, planted_include

NCHW = plain_case((2, 8, 10, 11))
ROWS = plain_case((1, 1, 5, 32), pad=2)
UNITS = replace(ROWS, shape=(1, 1, 4, 32))
CHANNELS_LAST = plain_case((2, 8, 10, 11), "channels_last")
PHASES = plain_case((2, 8, 10, 12), "channels_last", pixel_shuffle=True)
SMALL_MAP = plain_case((1, 2, 5, 5), pad=2)
CLUSTERS = plain_case((1, 2, 48, 32), device="small clusters")
SPLIT = plain_case((1, 2, 48, 48), device="small clusters")
TINY = plain_case((1, 2, 6, 6))
SPLIT_ROWS = plain_case((1, 2, 80, 32), device="small clusters")
REPLICATE = replace(ROWS, pad_mode="replicate")
LAYER = plain_case((1, 2, 20, 20), device="small clusters", statistics="layer")
ROUNDS = plain_case((1, 8, 270, 70), "channels_last", device="few multiprocessors")
TINY_CLUSTERS = plain_case((1, 1, 20, 20), device="small clusters")
FEW_ROWS = plain_case((1, 16, 60, 3), "channels_last", device="no tiles")
ADDRESSES = "address,undefined"


def with_bug(bug, sanitize):
    """Return the keyword arguments of `emulate` that select a bug."""
    return {"sanitize": sanitize, "include": planted_include(), "environment": {"PLANTED_BUG": str(number_of(bug))}}


def forward_of(case, bug="", sanitize=ADDRESSES, schedule="forward", count=False, shifts=None):
    """Return padded and the reply."""
    options = {**with_bug(bug, sanitize), "schedule": schedule, "count": count, "shifts": shifts}
    padded, _, _, reply = forward(*inputs_of(case), case.options(), DEVICES[case.device], **options)
    return padded, reply


def exact_of(case):
    tensors = inputs_of(case)
    padded, _, dx, dweight, dbias, _ = exact_results(case, tensors, gradients_of(case, *tensors[:3]))
    return padded, dx, dweight, dbias


def is_right(case, bug="", **options):
    padded, _ = forward_of(case, bug, **options)
    return torch.allclose(padded.double(), exact_of(case)[0], rtol=1e-4, atol=1e-4)


def backward_of(case, bug="", sanitize=ADDRESSES, count=False):
    """Return dx, dweight, dbias and the reply."""
    x, weight, bias, residual = inputs_of(case)
    options, device = case.options(), DEVICES[case.device]
    _, mean, rstd, _ = forward(x, weight, bias, residual, options, device)
    upstream = gradients_of(case, x, weight, bias)
    given = (*upstream, x, mean, rstd, weight, bias, residual is not None, options, device)
    dx, dweight, dbias, _, reply = backward(*given, **with_bug(bug, sanitize), count=count)
    return dx, dweight, dbias, reply


def gradient_is_right(case, bug="", sanitize=ADDRESSES):
    *gradients, _ = backward_of(case, bug, sanitize)
    exact = exact_of(case)[1:]
    return all(torch.allclose(a.double(), b, rtol=1e-3, atol=1e-3) for a, b in zip(gradients, exact, strict=True))


@pytest.mark.parametrize("sanitize", [ADDRESSES, "thread"])
@pytest.mark.parametrize("case", [TINY, TINY_CLUSTERS], ids=["block", "cluster"])
def test_nothing_is_found_without_a_bug(case, sanitize):
    assert is_right(case, sanitize=sanitize)
    assert gradient_is_right(case, sanitize=sanitize)


STOPPED = {
    "reads past the end": (NCHW, ADDRESSES, "heap-buffer-overflow"),
    "writes past the end": (UNITS, ADDRESSES, "heap-buffer-overflow"),
    "shared memory past its end": (NCHW, ADDRESSES, "heap-buffer-overflow"),
    "missing barrier": (TINY, "thread", "data race"),
    "missing barrier after sums": (TINY, "thread", "data race"),
    "missing cluster barrier": (TINY_CLUSTERS, "thread", "data race"),
    "exits while others read": (CLUSTERS, ADDRESSES, "others may still read"),
    "wrong mask": (SPLIT, ADDRESSES, "the calling lane is not in the mask"),
    "reads before it waits": (SPLIT, ADDRESSES, "reads what the previous one writes before it waits"),
    "combines before it waits": (SPLIT, ADDRESSES, "reads what the previous one writes before it waits"),
    "does not start the next launch": (SPLIT, ADDRESSES, "does not start it"),
}


@pytest.mark.parametrize("bug", STOPPED)
def test_the_kernel_is_stopped(bug):
    case, sanitize, message = STOPPED[bug]
    with pytest.raises(EmulationError, match=message):
        forward_of(case, bug, sanitize)


def test_misaligned_vectors_are_stopped():
    with pytest.raises(EmulationError, match="misaligned address"):
        forward_of(CHANNELS_LAST, "misaligned vector", shifts={"x": 4})


STOPPED_IN_BACKWARD = {
    "backward reads past the end": (NCHW, ADDRESSES, "heap-buffer-overflow"),
    "backward writes past the end": (ROWS, ADDRESSES, "heap-buffer-overflow"),
    "backward uses shared memory past its end": (NCHW, ADDRESSES, "heap-buffer-overflow"),
    "a column of the pad is not folded": (ROWS, ADDRESSES, "heap-buffer-overflow"),
    "folds to the next lane": (REPLICATE, ADDRESSES, "heap-buffer-overflow"),
    "backward misses the cluster's barrier": (TINY_CLUSTERS, "thread", "data race"),
    "backward exits while others read": (CLUSTERS, ADDRESSES, "others may still read"),
    "backward reads before it waits": (SPLIT, ADDRESSES, "reads what the previous one writes before it waits"),
    "backward combines before it waits": (SPLIT, ADDRESSES, "reads what the previous one writes before it waits"),
    "backward does not start the next launch": (SPLIT_ROWS, ADDRESSES, "does not start it"),
}


@pytest.mark.parametrize("bug", STOPPED_IN_BACKWARD)
def test_the_kernel_of_the_backward_is_stopped(bug):
    case, sanitize, message = STOPPED_IN_BACKWARD[bug]
    with pytest.raises(EmulationError, match=message):
        gradient_is_right(case, bug, sanitize)


WRONG = {
    "union without counts": partial(is_right, SPLIT),
    "union of a cluster without counts": partial(is_right, TINY_CLUSTERS),
    "tiles leave moments in one place": partial(is_right, SPLIT),
    "unwritten column of the pad": partial(is_right, UNITS),
    "unwritten row of the pad": partial(is_right, UNITS),
    "unwritten corner of the pad": partial(is_right, NCHW),
    "unwritten pad of small maps": partial(is_right, SMALL_MAP),
    "unwritten channels": partial(is_right, CHANNELS_LAST),
    "unwritten vector": partial(is_right, FEW_ROWS),
    "exchanges phases in the wrong direction": partial(is_right, PHASES),
    "reflects off by one": partial(is_right, CHANNELS_LAST),
    "folds back off by one": partial(gradient_is_right, NCHW),
    "tiles leave sums in one place": partial(gradient_is_right, SPLIT),
    "sums of one tile alone": partial(gradient_is_right, TINY_CLUSTERS),
    "sums of a sample without weights": partial(gradient_is_right, LAYER),
    "gradients of one sample alone": partial(gradient_is_right, NCHW),
    "a row of the pad is not folded": partial(gradient_is_right, ROWS),
    "a corner of the pad is not folded": partial(gradient_is_right, ROWS),
    "a round loads the first one's values": partial(gradient_is_right, ROUNDS),
}


@pytest.mark.parametrize("bug", WRONG)
def test_the_result_is_wrong(bug):
    check = WRONG[bug]
    assert check()
    assert not check(bug)


@pytest.mark.parametrize(
    ("bug", "case"), [("missing barrier", NCHW), ("missing cluster barrier", CLUSTERS)], ids=["block", "cluster"]
)
def test_some_schedule_shows_the_missing_barrier(bug, case):
    def finds(schedule):
        try:
            return not is_right(case, bug, schedule=schedule)
        except EmulationError:
            return True

    assert any(finds(schedule) for schedule in SCHEDULES)


def test_traffic_shows_repeated_reads():
    (_, once), (_, twice) = forward_of(NCHW, count=True), forward_of(NCHW, "loads twice", count=True)
    x = inputs_of(NCHW)[0]
    assert twice.bytes == once.bytes + x.numel() * x.element_size()
    *_, once = backward_of(NCHW, count=True)
    *_, twice = backward_of(NCHW, "backward loads twice", count=True)
    assert twice.bytes == once.bytes + x.numel() * x.element_size()


def test_every_bug_is_found_by_some_check():
    others = ("misaligned vector", "loads twice", "backward loads twice")
    assert set(BUGS) == {*STOPPED, *STOPPED_IN_BACKWARD, *WRONG, *others}


def test_a_bug_that_no_longer_matches_its_header_is_reported():
    bug = BUGS["missing cluster barrier"]
    text = (SOURCES / bug.header).read_text()
    with pytest.raises(AssertionError, match="0 times instead of once"):
        plant(text.replace(bug.before + bug.right, ""), bug, 1)
