"""Collective operations, shares of a batch, and the same calls in a single process."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import get_args

import pytest
import torch
import torch.distributed as dist

from fastmunit import distributed
from fastmunit.cli import options
from fastmunit.distributed import OverlappedAverage, batch, processes
from fastmunit.errors import ConfigError, RankError
from tests.distributed.launch import run


def test_two_processes(of_two_processes: Path) -> None:
    """The checks are those of `together` in worker.py."""
    assert all((of_two_processes / f"together_{rank}").exists() for rank in range(2))


@pytest.mark.gpu
def test_one_rank_with_nccl_in_a_captured_iteration(tmp_path: Path) -> None:
    run(1, "-m", "tests.distributed.worker", "captured", str(tmp_path))


def test_one_process_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert distributed.setup(device="cpu") == torch.device("cpu")
    assert not distributed.has_group() and not distributed.is_active()
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    x = torch.randn(3, 2)
    assert distributed.share(x) is x and distributed.gather(x) is x
    kept = x.clone()
    distributed.average([x])
    assert torch.equal(x, kept)
    assert distributed.gather_objects(5) == [5]
    assert distributed.all_agree(True) and not distributed.all_agree(False)


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("parts", [1, 2, 3])
def test_ranks_share_every_part_equally(world: int, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "world_size", lambda: world)
    count = 2 * world * parts
    shares = [distributed.positions(count, parts, rank) for rank in range(world)]
    assert sorted(place for share in shares for place in share) == list(range(count))
    part = count // parts
    for share in shares:
        assert [place // part for place in share] == [k for k in range(parts) for _ in range(2)]
    if parts == 1:
        assert shares == [[2 * rank, 2 * rank + 1] for rank in range(world)]


@pytest.mark.parametrize(
    ("count", "world", "parts", "nearest"),
    [(5, 2, 1, "4 or 6"), (1, 2, 1, "2"), (6, 2, 2, "4 or 8"), (10, 4, 1, "8 or 12")],
)
def test_a_batch_that_does_not_divide_is_refused(
    count: int, world: int, parts: int, nearest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "world_size", lambda: world)
    with pytest.raises(ConfigError, match=rf"batch_size {count} .* {world} processes.*: set it to {nearest}\."):
        distributed.require_divisible(count, parts)


def test_setup_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="MASTER_ADDR, MASTER_PORT is not set: start the processes with torchrun"):
        distributed.setup(device="cpu")
    monkeypatch.setenv("LOCAL_RANK", "one")
    with pytest.raises(ConfigError, match="LOCAL_RANK is 'one', expected an integer"):
        distributed.setup(device="cpu")


def test_every_start_has_a_new_name() -> None:
    store, found = dist.HashStore(), []
    with ThreadPoolExecutor(3) as threads:
        for _ in range(3):
            names = threads.map(lambda rank: processes._agree_on_start(store, rank, 3, 30), range(3))
            found += [set(names)]
    assert [len(names) for names in found] == [1, 1, 1] and len(set.union(*found)) == 3
    store.set("here/1", "of a process that has ended")
    with pytest.raises(RuntimeError):
        processes._agree_on_start(store, 0, 2, 0.2)


@pytest.fixture
def world_of_one(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from tests.distributed.launch import free_port

    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    distributed.setup(timeout=7, device="cpu")
    yield
    distributed.shutdown()


@pytest.mark.usefixtures("world_of_one")
def test_the_control_group_of_nccl_has_the_timeout_of_setup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "get_backend", lambda *_: "cpu:gloo,cuda:nccl")
    group = processes.control_group()
    assert group is not None and group is not dist.group.WORLD
    assert group._get_backend(torch.device("cpu")).options._timeout == timedelta(seconds=7)


@pytest.mark.usefixtures("world_of_one")
def test_overlap_follows_what_is_trained() -> None:
    """It can be copied between iterations, and parameters may lose their gradients."""
    weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(3)]
    averages = OverlappedAverage(weights, bucket_bytes=1)
    for count in (3, 1, 3):
        for weight in weights:
            weight.grad = None
        with averages.during_backward():
            torch.stack([weight.sum() for weight in weights[:count]]).sum().backward()
        assert all(weight.grad is not None and weight.grad.tolist() == [1, 1] for weight in weights[:count])
        averages = copy.deepcopy(averages)
        weights = averages._parameters  # type: ignore[assignment]
    assert averages.averages(weights) and not averages.averages(weights[:2])


def test_help_names_the_default_timeout() -> None:
    assert f"[{distributed.DEFAULT_TIMEOUT:g}]" in get_args(options.Timeout)[1].help
    page = (Path(__file__).parents[2] / "docs/how_to/several_gpus.md").read_text(encoding="utf-8")
    assert f"`--timeout` seconds ({distributed.DEFAULT_TIMEOUT:g} by default)" in page


def test_setup_that_nobody_joins_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.distributed.launch import free_port

    for name, value in {
        "RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RankError, match=r"rank 1 of 2 could not join the others within 1 s at 127\.0\.0\.1:\d+"):
        distributed.setup(timeout=1, device="cpu")
