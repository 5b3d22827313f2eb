"""Bugs planted in the headers of fused_norm itself: which check of tests/cuda finds each (planted.py has them)."""

from functools import partial

import pytest
import torch

from tests.cuda.emulated import SCHEDULES, EmulationError
from tests.cuda.fused_norm_requests import backward, forward
from tests.cuda.planted import BUGS, HEADERS, number_of, plant, planted_include
from tests.cuda.test_fused_norm_emulated import DEVICES, gradients_of, inputs_of, options_of, plain, plain_case

NCHW = plain_case(h=10, w=11)
CHANNELS_LAST = plain_case(layout="channels_last", h=10, w=11)
CLUSTERS = plain_case(device="small clusters", n=1, h=48, w=48)
ODD_PLANES = plain_case(n=1, c=7, h=9, w=12)  # of 154 values: they begin and end within 16 bytes
TINY = plain_case(n=1, c=2, h=6, w=6)
TINY_CLUSTERS = plain_case(device="small clusters", n=1, c=1, h=48, w=32)


def how(bug, sanitize):
    return {"sanitize": sanitize, "include": planted_include(), "environment": {"PLANTED_BUG": str(number_of(bug))}}


def forward_of(case, bug="", sanitize="", schedule="forward", count=False):
    """Padded, and the reply."""
    options = {**how(bug, sanitize), "schedule": schedule, "count": count}
    padded, _, _, reply = forward(*inputs_of(case), options_of(case), DEVICES[case["device"]], **options)
    return padded, reply


def exact_of(case):
    inputs = [None if t is None else t.double() for t in inputs_of(case)]
    return plain(case, inputs, *gradients_of(case))


def is_right(case, bug="", **options):
    padded, _ = forward_of(case, bug, **options)
    return torch.allclose(padded.double(), exact_of(case)[0], rtol=1e-4, atol=1e-4)


def gradient_is_right(case, bug=""):
    x, weight, bias, residual = inputs_of(case)
    options, device = options_of(case), DEVICES[case["device"]]
    _, mean, rstd, _ = forward(x, weight, bias, residual, options, device)
    given = (*gradients_of(case), x, mean, rstd, weight, bias, residual is not None, options, device)
    dx = backward(*given, **how(bug, ""))[0]
    return torch.allclose(dx.double(), exact_of(case)[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("sanitize", ["", "address,undefined", "thread"])
@pytest.mark.parametrize("case", [TINY, TINY_CLUSTERS], ids=["block", "cluster"])
def test_nothing_is_found_where_no_bug_is_taken(case, sanitize):
    assert is_right(case, sanitize=sanitize)


STOPPED = {
    "reads past the end": (NCHW, "address,undefined", "heap-buffer-overflow"),
    "writes past the end": (ODD_PLANES, "address,undefined", "heap-buffer-overflow"),
    "shared memory past its end": (NCHW, "address,undefined", "heap-buffer-overflow"),
    "missing barrier": (TINY, "thread", "data race"),
    "missing barrier before reuse": (TINY, "thread", "data race"),
    "missing cluster barrier": (TINY_CLUSTERS, "thread", "data race"),
    "exits while others read": (CLUSTERS, "", "has exited"),
    "wrong mask": (NCHW, "", "the calling lane is not in the mask"),
    "misaligned vector": (ODD_PLANES, "", "misaligned address"),
    "misaligned read": ({**NCHW, "residual": "interior"}, "", "misaligned address"),
}


@pytest.mark.parametrize("bug", STOPPED)
def test_the_kernel_is_stopped(bug):
    case, sanitize, message = STOPPED[bug]
    with pytest.raises(EmulationError, match=message):
        forward_of(case, bug, sanitize)


WRONG = {
    "unwritten output": partial(is_right, NCHW),
    "unwritten channels": partial(is_right, CHANNELS_LAST),
    "reflects off by one": partial(is_right, CHANNELS_LAST),
    "folds back off by one": partial(gradient_is_right, NCHW),
    "tiles write one place": partial(gradient_is_right, {**CHANNELS_LAST, "device": "small tiles", "h": 24, "w": 24}),
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
    (_, once), (_, twice) = forward_of(NCHW, count=True), forward_of(NCHW, "stages twice", count=True)
    x = inputs_of(NCHW)[0]
    assert twice.bytes == once.bytes + x.numel() * x.element_size()


def test_every_bug_is_found_by_some_check():
    assert set(BUGS) == {*STOPPED, *WRONG, "stages twice"}


def test_a_bug_whose_place_is_gone_is_reported():
    bug = BUGS["missing barrier"]
    text = (HEADERS / bug.header).read_text()
    with pytest.raises(AssertionError, match="0 times instead of once"):
        plant(text.replace(bug.before + bug.right, ""), bug, 1)
