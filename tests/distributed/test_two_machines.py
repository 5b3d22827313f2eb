"""Two machines, emulated by network namespaces: rendezvous, training, and a network that is cut."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastmunit.runs import RunFolder
from fastmunit.runs.checkpoints.checkpoint import resumable
from tests.distributed.launch import ROOT
from tests.distributed.test_restarts import iterations, workers
from tests.runs.tiny import make_images, tiny_config

pytestmark = pytest.mark.slow
ADDRESSES = ("10.77.0.1", "10.77.0.2")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def machines() -> Iterator[list[str]]:
    """Names of two connected namespaces. Skips the test if they cannot be created."""
    if shutil.which("ip") is None:
        pytest.skip("there is no `ip` (iproute2)")
    names = [f"fastmunit-{os.getpid()}-{k}" for k in range(2)]
    links = [f"fm{os.getpid() % 100000}{k}" for k in range(2)]
    try:
        for name in names:
            ip("netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces are not allowed: {error.stderr.decode().strip()}")
    try:
        ip("link", "add", links[0], "type", "veth", "peer", "name", links[1])
        for name, link, address in zip(names, links, ADDRESSES, strict=True):
            ip("link", "set", link, "netns", name)
            for command in (["addr", "add", f"{address}/24", "dev", link], ["link", "set", link, "up"]):
                ip("-n", name, *command)
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def link_of(name: str) -> str:
    """Return the network device of a namespace other than its loopback."""
    devices = subprocess.run(["ip", "-n", name, "-o", "link"], check=True, capture_output=True, text=True).stdout
    names = [line.split(": ")[1].split("@")[0] for line in devices.splitlines()]
    return next(device for device in names if device != "lo")


def start(machines: list[str], folder: Path, *options: str) -> list[subprocess.Popen[str]]:
    """Start one process per machine, with the run folder on a disk that both see."""
    started = []
    for number, name in enumerate(machines):
        command = ["ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"]
        command += ["--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"{ADDRESSES[0]}:29400"]
        command += ["--rdzv-id", "run", "--rdzv-conf", f"is_host={int(number == 0)}"]
        command += ["--local-addr", ADDRESSES[number], "-m", "fastmunit", "train"]
        command += ["--config", str(folder / "config.yaml"), "--output", str(folder / "run"), "--device", "cpu"]
        started.append(
            subprocess.Popen(
                [*command, *options],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": link_of(name)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        )
    return started


def test_two_machines_train_together(machines: list[str], tmp_path: Path) -> None:
    tiny_config(make_images(tmp_path / "images"), max_iter=20, snapshot_save_iter=10).save(tmp_path / "config.yaml")
    processes = start(machines, tmp_path, "--timeout", "60")
    written = [process.communicate(timeout=180)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(written)
    assert resumable(RunFolder(tmp_path / "run")) == 20


def test_a_cut_network_ends_both_within_the_timeout(machines: list[str], tmp_path: Path) -> None:
    """Only the training processes must end in time: torchrun itself may wait longer for the other machine."""
    tiny_config(make_images(tmp_path / "images"), max_iter=10**6, snapshot_save_iter=5).save(tmp_path / "config.yaml")
    processes = start(machines, tmp_path, "--timeout", "10")
    try:
        deadline = time.monotonic() + 120
        while iterations(tmp_path / "run" / "logs" / "losses.csv") < 12:
            assert all(process.poll() is None for process in processes), processes[0].communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        trainings = [number for process in processes for number in workers(process.pid)]
        assert len(trainings) == 2
        for name in machines:
            ip("-n", name, "link", "set", link_of(name), "down")
        deadline = time.monotonic() + 60
        while left := [number for number in trainings if running(number)]:
            assert time.monotonic() < deadline, left
            time.sleep(0.1)
    finally:
        for process in processes:
            process.kill()
    written = processes[0].communicate()[0]
    assert "could not" in written and "with the others" in written, written
    found = resumable(RunFolder(tmp_path / "run"))
    assert found is not None and found >= 10


def running(number: int) -> bool:
    status = Path(f"/proc/{number}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
