"""Each check of the emulated kernels finds the bugs that it is meant to find, and nothing without a bug."""

import pytest
import torch

from tests.cuda.emulated import SCHEDULES, EmulationError, emulate

SANITIZERS = ("", "address,undefined", "thread")
ROWS, LENGTH = 3, 256


def rows_of(kernel, bug="none", rows=ROWS, length=LENGTH, **options):
    """Return the result of the kernel, the exact result and the reply."""
    x = torch.randn(rows, length, generator=torch.Generator().manual_seed(0))
    y = torch.empty(rows, length + (2 if kernel == "pad_rows" else 0))
    reply = emulate(
        "planted_bugs",
        {"rows": rows, "n": length},
        {"kernel": kernel, "bug": bug},
        {"x": x},
        {"y": y},
        **options,
    )
    exact = x.double() - x.double().mean(dim=1, keepdim=True)
    if kernel == "pad_rows":
        exact = torch.nn.functional.pad(exact[None], (1, 1), mode="reflect")[0]
    return y, exact, reply


def differs(y, exact):
    return not torch.allclose(y.double(), exact, rtol=0, atol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("sanitize", SANITIZERS)
@pytest.mark.parametrize("kernel", ["pad_rows", "center_rows"])
def test_nothing_is_found_without_a_bug(kernel, sanitize, schedule):
    y, exact, _ = rows_of(kernel, sanitize=sanitize, schedule=schedule)
    assert not differs(y, exact)


@pytest.mark.parametrize(
    ("bug", "sanitize", "message"),
    [
        ("read_past_end", "address,undefined", "heap-buffer-overflow"),
        ("write_past_end", "address,undefined", "heap-buffer-overflow"),
        ("shared_memory_past_end", "address,undefined", "out of bounds"),
        ("misaligned_vector", "address,undefined", "misaligned address"),
        ("misaligned_vector", "", "misaligned address"),
        ("overflowing_offset", "address,undefined", "signed integer overflow"),
        ("missing_barrier", "thread", "data race"),
        ("missing_barrier_before_reuse", "thread", "data race"),
        ("blocks_write_one_address", "thread", "data race"),
        ("divergent_barrier", "", "divergent barrier"),
        ("skipped_barrier", "", "divergent barrier"),
        ("shuffle_in_a_branch", "", "deadlock"),
        ("mask_without_the_caller", "", "the calling lane is not in the mask"),
        ("shuffle_from_outside_the_mask", "", "a lane that is not in the mask"),
    ],
)
def test_the_kernel_is_stopped(bug, sanitize, message):
    with pytest.raises(EmulationError, match=message):
        rows_of("pad_rows", bug, rows=200 if bug == "overflowing_offset" else ROWS, sanitize=sanitize)


def test_reading_the_memory_of_a_block_that_has_exited_is_stopped():
    with pytest.raises(EmulationError, match="has exited"):
        rows_of("center_rows", "exits_while_others_read")


def test_races_within_a_cluster_are_found():
    with pytest.raises(EmulationError, match="data race"):
        rows_of("center_rows", "missing_cluster_barrier", sanitize="thread")


@pytest.mark.parametrize("bug", ["uninitialized_shared_memory", "unwritten_output", "reflect_off_by_one"])
def test_the_result_is_wrong(bug):
    y, exact, _ = rows_of("pad_rows", bug)
    assert differs(y, exact)
    assert bug == "reflect_off_by_one" or y.isnan().any()


@pytest.mark.parametrize(
    ("kernel", "bug"), [("pad_rows", "missing_barrier"), ("center_rows", "missing_cluster_barrier")]
)
def test_some_schedule_shows_the_missing_barrier(kernel, bug):
    wrong = [differs(*rows_of(kernel, bug, schedule=schedule)[:2]) for schedule in SCHEDULES]
    assert any(wrong)


def test_traffic_is_counted():
    """pad_rows reads each row twice, 16 bytes at a time and 4 bytes at a time, and writes it once."""
    _, _, good = rows_of("pad_rows", count=True)
    vectors, values, stores = good.sites
    assert (vectors.width, values.width, stores.width) == (16, 4, 4)
    assert vectors.bytes == 4 * ROWS * LENGTH
    assert stores.bytes == 4 * ROWS * (LENGTH + 2)
    assert 4 * ROWS * LENGTH <= values.bytes < stores.bytes  # one request reads the value next to the border twice
    assert vectors.sectors == vectors.min_sectors == ROWS * LENGTH // 8
    assert good.launches == 1

    _, _, twice = rows_of("pad_rows", "reads_twice", count=True)
    assert twice.bytes == good.bytes + values.bytes

    _, _, strided = rows_of("pad_rows", "strided_reads", count=True)
    assert strided.bytes == good.bytes
    assert strided.sites[0].sectors > 1.5 * strided.sites[0].min_sectors
