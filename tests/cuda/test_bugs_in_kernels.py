"""Bugs planted in the headers of fused_norm itself: which check of tests/cuda finds each (planted.py has them)."""

from functools import partial

import pytest
import torch

from tests.cuda.emulated import SCHEDULES, EmulationError
from tests.cuda.fused_norm_requests import backward, forward
from tests.cuda.planted import BUGS, SOURCES, number_of, plant, planted_include
from tests.cuda.test_fused_norm_emulated import DEVICES, gradients_of, inputs_of, options_of, plain, plain_case

NCHW = plain_case(h=10, w=11)
ROWS = plain_case(n=1, c=1, h=5, w=32, pad=2)
UNITS = {**ROWS, "h": 4}
CHANNELS_LAST = plain_case(layout="channels_last", h=10, w=11)
PHASES = plain_case(layout="channels_last", h=10, w=12, pixel_shuffle=True)
SMALL_MAP = plain_case(n=1, c=2, h=5, w=5, pad=2)
CLUSTERS = plain_case(device="small clusters", n=1, c=2, h=48, w=32)
SPLIT = plain_case(device="small clusters", n=1, c=2, h=48, w=48)
TINY = plain_case(n=1, c=2, h=6, w=6)
SPLIT_ROWS = plain_case(device="small clusters", n=1, c=2, h=80, w=32)
REPLICATE = {**ROWS, "pad_mode": "replicate"}
LAYER = plain_case(device="small clusters", statistics="layer", n=1, c=2, h=20, w=20)
ROUNDS = plain_case(device="few multiprocessors", layout="channels_last", n=1, h=270, w=70)
TINY_CLUSTERS = plain_case(device="small clusters", n=1, c=1, h=20, w=20)


def how(bug, sanitize):
    return {"sanitize": sanitize, "include": planted_include(), "environment": {"PLANTED_BUG": str(number_of(bug))}}


def forward_of(case, bug="", sanitize="", schedule="forward", count=False):
    """Padded, and the reply."""
    options = {**how(bug, sanitize), "schedule": schedule, "count": count, "shifts": case.get("shifts")}
    padded, _, _, reply = forward(*inputs_of(case), options_of(case), DEVICES[case["device"]], **options)
    return padded, reply


def exact_of(case):
    inputs = [None if t is None else t.double() for t in inputs_of(case)]
    return plain(case, inputs, *gradients_of(case))


def is_right(case, bug="", **options):
    padded, _ = forward_of(case, bug, **options)
    return torch.allclose(padded.double(), exact_of(case)[0], rtol=1e-4, atol=1e-4)


def backward_of(case, bug="", sanitize="", count=False):
    """dx, dweight, dbias and the reply."""
    x, weight, bias, residual = inputs_of(case)
    options, device = options_of(case), DEVICES[case["device"]]
    _, mean, rstd, _ = forward(x, weight, bias, residual, options, device)
    given = (*gradients_of(case), x, mean, rstd, weight, bias, residual is not None, options, device)
    dx, dweight, dbias, _, reply = backward(*given, **how(bug, sanitize), count=count)
    return dx, dweight, dbias, reply


def gradient_is_right(case, bug="", sanitize=""):
    *gradients, _ = backward_of(case, bug, sanitize)
    exact = exact_of(case)[1:]
    return all(torch.allclose(a.double(), b, rtol=1e-3, atol=1e-3) for a, b in zip(gradients, exact, strict=True))


@pytest.mark.parametrize("sanitize", ["", "address,undefined", "thread"])
@pytest.mark.parametrize("case", [TINY, TINY_CLUSTERS], ids=["block", "cluster"])
def test_nothing_is_found_where_no_bug_is_taken(case, sanitize):
    assert is_right(case, sanitize=sanitize)
    assert gradient_is_right(case, sanitize=sanitize)


ADDRESSES = "address,undefined"
STOPPED = {
    "reads past the end": (NCHW, ADDRESSES, "heap-buffer-overflow"),
    "writes past the end": (UNITS, ADDRESSES, "heap-buffer-overflow"),
    "shared memory past its end": (NCHW, ADDRESSES, "heap-buffer-overflow"),
    "missing barrier": (TINY, "thread", "data race"),
    "missing barrier after sums": (TINY, "thread", "data race"),
    "missing cluster barrier": (TINY_CLUSTERS, "thread", "data race"),
    "exits while others read": (CLUSTERS, "", "others may still read"),
    "wrong mask": (SPLIT, "", "the calling lane is not in the mask"),
    "misaligned vector": ({**CHANNELS_LAST, "shifts": {"x": 4}}, "", "misaligned address"),
    "reads before it waits": (SPLIT, "", "reads what the previous one writes before it waits"),
    "combines before it waits": (SPLIT, "", "reads what the previous one writes before it waits"),
    "does not start the next launch": (SPLIT, "", "does not start it"),
}


@pytest.mark.parametrize("bug", STOPPED)
def test_the_kernel_is_stopped(bug):
    case, sanitize, message = STOPPED[bug]
    with pytest.raises(EmulationError, match=message):
        forward_of(case, bug, sanitize)


STOPPED_IN_BACKWARD = {
    "backward reads past the end": (NCHW, ADDRESSES, "heap-buffer-overflow"),
    "backward writes past the end": (ROWS, ADDRESSES, "heap-buffer-overflow"),
    "backward uses shared memory past its end": (NCHW, ADDRESSES, "heap-buffer-overflow"),
    "backward misses the cluster's barrier": (TINY_CLUSTERS, "thread", "data race"),
    "backward exits while others read": (CLUSTERS, "", "others may still read"),
    "backward reads before it waits": (SPLIT, "", "reads what the previous one writes before it waits"),
    "backward combines before it waits": (SPLIT, "", "reads what the previous one writes before it waits"),
    "backward does not start the next launch": (SPLIT_ROWS, "", "does not start it"),
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
    "unwritten vector": partial(is_right, {**CHANNELS_LAST, "device": "no tiles", "n": 1, "c": 16, "h": 60, "w": 3}),
    "exchanges phases the wrong way": partial(is_right, PHASES),
    "reflects off by one": partial(is_right, CHANNELS_LAST),
    "folds back off by one": partial(gradient_is_right, NCHW),
    "tiles leave sums in one place": partial(gradient_is_right, SPLIT),
    "sums of one tile alone": partial(gradient_is_right, TINY_CLUSTERS),
    "sums of a sample without weights": partial(gradient_is_right, LAYER),
    "gradients of one sample alone": partial(gradient_is_right, NCHW),
    "a column of the pad is not folded": partial(gradient_is_right, ROWS),
    "a row of the pad is not folded": partial(gradient_is_right, ROWS),
    "a corner of the pad is not folded": partial(gradient_is_right, ROWS),
    "folds to the lane beside": partial(gradient_is_right, REPLICATE),
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
def test_an_order_shows_the_missing_barrier(bug, case):
    def finds(schedule):
        try:
            return not is_right(case, bug, schedule=schedule)
        except EmulationError:
            return True

    assert any(finds(schedule) for schedule in SCHEDULES)


def test_traffic_shows_what_is_read_twice():
    (_, once), (_, twice) = forward_of(NCHW, count=True), forward_of(NCHW, "loads twice", count=True)
    x = inputs_of(NCHW)[0]
    assert twice.bytes == once.bytes + x.numel() * x.element_size()
    *_, once = backward_of(NCHW, count=True)
    *_, twice = backward_of(NCHW, "backward loads twice", count=True)
    assert twice.bytes == once.bytes + x.numel() * x.element_size()


def test_every_bug_is_found_by_some_check():
    assert set(BUGS) == {*STOPPED, *STOPPED_IN_BACKWARD, *WRONG, "loads twice", "backward loads twice"}


def test_a_bug_whose_place_is_gone_is_reported():
    bug = BUGS["missing cluster barrier"]
    text = (SOURCES / bug.header).read_text()
    with pytest.raises(AssertionError, match="0 times instead of once"):
        plant(text.replace(bug.before + bug.right, ""), bug, 1)
