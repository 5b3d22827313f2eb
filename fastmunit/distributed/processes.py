"""The process group of a training, and the heartbeat of this process."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from datetime import timedelta
from typing import cast

import torch
import torch.distributed as dist

from fastmunit.distributed.heartbeat import Heartbeat
from fastmunit.distributed.leaving import leave_at_exit
from fastmunit.errors import ConfigError, RankError
from fastmunit.memory import first_line

DEFAULT_TIMEOUT = 600.0
"""Seconds that a process waits for another one by default."""

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

_heartbeat: Heartbeat | None = None
_control: dist.ProcessGroup | None = None
_wait: timedelta | None = None
_shared: dist.Store | None = None
_start = ""

_SECONDS_BETWEEN_LOOKS = 0.05
# gloo must time out before NCCL: its error names the rank, while NCCL ends the process without a message.
_EXTRA_TIME_FOR_NCCL = timedelta(seconds=120)


def setup(timeout: float | None = None, device: str = "auto") -> torch.device:
    """Join the processes that torchrun started. Without torchrun, or when called again, only return the device.

    The process uses GPU number LOCAL_RANK and NCCL, or gloo without GPUs.

    Args:
        timeout: Seconds that a process waits for another one before it ends with an error that names it; None for
            `DEFAULT_TIMEOUT`.
        device: "auto", "cuda" or "cpu".

    Returns:
        The device of this process.

    Raises:
        ConfigError: If a variable that torchrun sets is missing or wrong, or there is no GPU for this process.
        RankError: If the processes do not find each other within `timeout`.
    """
    if not dist.is_available() or not (launched() or dist.is_initialized()):
        return _device(device, 0)
    if dist.is_initialized() and "LOCAL_RANK" not in os.environ and torch.cuda.is_available():
        return _device(device, torch.cuda.current_device())  # the script has chosen it
    place = _device(device, local_rank())
    if dist.is_initialized():
        return place
    missing = [name for name in _VARIABLES if name not in os.environ]
    if missing:
        raise ConfigError(f"{', '.join(missing)} is not set: start the processes with torchrun, or unset RANK.")
    global _wait, _shared, _start
    rank, world = _number("RANK", 0), _number("WORLD_SIZE", 1)
    seconds = DEFAULT_TIMEOUT if timeout is None else timeout
    _wait = wait = timedelta(seconds=seconds)
    try:
        _shared = dist.PrefixStore("fastmunit", _store(rank, world, wait))
        _start = _agree_on_start(_shared, rank, world, seconds)
        store = dist.PrefixStore(_start, _shared)
        if place.type == "cuda":
            backend, limit = "cpu:gloo,cuda:nccl", wait + _EXTRA_TIME_FOR_NCCL
        else:
            backend, limit = "gloo", wait
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=limit)
        if backend == "gloo":  # NCCL may wait for a process that has failed
            leave_at_exit()
        if world > 1:
            _start_heartbeat(rank, world, wait, _start)
    except (RuntimeError, ValueError) as error:  # ValueError: the processes disagree on their number
        raise RankError(
            f"rank {rank} of {world} could not join the others within {seconds:g} s at "
            f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} ({first_line(error)}): check that all are "
            "started, with the same number of processes, and that the machines reach each other there."
        ) from error
    return place


def launched() -> bool:
    """Return True if torchrun, or a launcher that sets the same variables, has started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def shutdown() -> None:
    """Leave the process group. Call it when the training has ended without an error."""
    global _heartbeat, _control, _wait, _shared, _start
    if _heartbeat is not None:
        _heartbeat.stop()
    _heartbeat = _control = _wait = _shared = None
    _start = ""
    if has_group():
        dist.destroy_process_group()


def has_group() -> bool:
    """Return True if there is a process group, even one with a single process."""
    return dist.is_available() and dist.is_initialized()


def is_active() -> bool:
    """Return True if there is more than one process."""
    return world_size() > 1


def rank() -> int:
    """Return the rank of this process, 0 without a process group."""
    return dist.get_rank() if has_group() else 0


def local_rank() -> int:
    """Return the rank of this process on its machine."""
    return _number("LOCAL_RANK", 0)


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if has_group() else 1


def local_world_size() -> int:
    """Return the number of processes on this machine."""
    return max(1, _number("LOCAL_WORLD_SIZE", 1)) if has_group() else 1


def restarted() -> bool:
    """Return True if torchrun has restarted this process after a failure."""
    return launched() and _number("TORCHELASTIC_RESTART_COUNT", 0) > 0


def remember(note: str) -> None:
    """Leave a note for these processes after a restart."""
    if _shared is not None:
        _shared.set(f"note/{note}", _start)


def remembered(note: str) -> bool:
    """Return True if these processes left the note before they were restarted and torchrun still has it.

    Unlike `restarted`, this also holds if torchrun has restarted them because a machine has joined or left.
    """
    key = f"note/{note}"
    return _shared is not None and _shared.check([key]) and _shared.get(key).decode() != _start


def heartbeat() -> Heartbeat | None:
    """Return the heartbeat of this process; None with one process, or if `setup` was not called."""
    return _heartbeat


def doing(activity: str) -> None:
    """Set what this process is doing, for the errors of other processes: "iteration 12, waiting for images"."""
    if _heartbeat is not None:
        _heartbeat.doing(activity)


def publish_failure(error: BaseException) -> str:
    """Publish an error that ends this process, for the errors of other processes, and return its message."""
    message = str(error) or type(error).__name__
    if _heartbeat is not None:
        _heartbeat.failed(message)
    return message


def control_group() -> dist.ProcessGroup | None:
    """Return the gloo group for values on the CPU: the default group if it is gloo's, else a group of its own.

    The first call is a collective operation.
    """
    global _control
    if dist.get_backend() == "gloo":
        return dist.group.WORLD
    if _control is None:
        _control = cast(dist.ProcessGroup, dist.new_group(timeout=_wait, backend="gloo"))  # of all ranks
    return _control


def _store(rank: int, world: int, wait: timedelta) -> dist.Store:
    """Connect to the store at MASTER_ADDR: torchrun's own if it shares that, else one that rank 0 hosts."""
    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return dist.TCPStore(
        os.environ["MASTER_ADDR"],
        _number("MASTER_PORT", 0),
        None if shared else world,
        is_master=rank == 0 and not shared,
        timeout=wait,
        wait_for_workers=False,
        multi_tenant=True,
    )


def _agree_on_start(store: dist.Store, rank: int, world: int, seconds: float) -> str:
    """Agree on a name for this start of the processes: the same in all of them, and a new one after each restart.

    torchrun's store outlives its processes. Without such a name, entries of earlier processes would be taken for those
    of the current ones: addresses at which nobody listens. Each machine counts restarts for itself, so the count cannot
    be the name. Each process stores a name of its own here; rank 0 publishes the names it reads until every process has
    read its own among them.

    Raises:
        RuntimeError: If that takes longer than `seconds`.
    """
    mine, deadline = uuid.uuid4().hex, time.monotonic() + seconds
    store.set(f"here/{rank}", mine)
    everyone = [f"here/{number}" for number in range(world)]
    while time.monotonic() < deadline:
        names = [store.get(key).decode() for key in everyone] if rank == 0 and store.check(everyone) else []
        if names:
            store.set("names", " ".join(names))
        elif rank > 0 and store.check(["names"]):
            names = store.get("names").decode().split()
        if mine in names:
            start = hashlib.sha256(" ".join(names).encode()).hexdigest()
            store.set(f"{start}/found/{rank}", "")
            if store.check([f"{start}/found/{number}" for number in range(world)]):
                return start
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    raise RuntimeError("some processes are missing")


def _start_heartbeat(rank: int, world: int, wait: timedelta, start: str) -> None:
    """Start the heartbeat on a connection of its own, which no collective operation blocks."""
    global _heartbeat
    own = dist.PrefixStore(f"fastmunit/heartbeat/{start}", _connection(wait))
    _heartbeat = Heartbeat(own, rank, world)


def _connection(wait: timedelta) -> dist.Store:
    address, port = os.environ["MASTER_ADDR"], _number("MASTER_PORT", 0)
    return dist.TCPStore(address, port, None, is_master=False, timeout=wait, wait_for_workers=False)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"the environment variable {name} is {text!r}, expected an integer: unset it.") from None


def _device(name: str, local_rank: int) -> torch.device:
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if name not in ("auto", "cuda"):
        if launched():
            raise ConfigError(f"each process uses the GPU of its local rank: give device cuda or cpu, not {name}.")
        return torch.device(name)
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise ConfigError(
            f"the process of local rank {local_rank} has no GPU: this machine has {count}. Start {max(count, 1)} "
            "processes per machine, or train on device cpu."
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
