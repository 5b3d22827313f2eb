"""The command `fastmunit serve`: addresses, limits, and stops without lost requests."""

from __future__ import annotations

import io
import shutil
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

import fastmunit as package
from fastmunit.errors import FastmunitError
from fastmunit.serving import server as module
from fastmunit.serving.app import create_app
from fastmunit.serving.limits import Limits
from fastmunit.serving.model import Model, load_model
from fastmunit.systems.base import System
from tests.cli.conftest import Command, fastmunit  # noqa: F401 - a fixture
from tests.serving.conftest import levels_of, pixels_of, system, upload
from tests.serving.running import serving, translate


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(system("munit", "gen.dim=16"), tmp_path_factory.mktemp("runs") / "shoes")


def saved(trainer: System, folder: Path) -> Path:
    trainer.save(folder / "checkpoints", 4)
    trainer.config.save(folder / "config.yaml")
    return folder


def test_a_server_answers_what_has_arrived_before_it_stops(run_folder: Path) -> None:
    count = 6
    with serving(run_folder) as server, ThreadPoolExecutor(count) as threads:
        assert server.address.startswith("http://127.0.0.1:")
        assert "Serving shoes at" in server.lines[-1]
        assert server.get("/../../etc/passwd").status == 404
        answers = [threads.submit(server.translate, upload(200, 200, seed=k), styles=4, seed=k) for k in range(count)]
        while server.get("/health").json()["queue"]["length"] < count:
            assert not all(answer.done() for answer in answers), "too fast: use larger images"
            time.sleep(0.01)
        assert server.stop() == 0
        for answer in answers:
            assert answer.result().status == 200
            assert len(answer.result().json()["images"]) == 4
        with pytest.raises(ConnectionRefusedError):
            server.get("/health")
        assert server.lines[-1] == "Stopped.\n"


def test_options_are_limits(fastmunit: Command, run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    given: list[Any] = []

    def serve(model: Model, *arguments: Any) -> None:
        given[:] = [model.name, *arguments[:-1]]
        arguments[-1]("http://here")

    monkeypatch.setattr(module, "serve", serve)
    monkeypatch.setenv("FASTMUNIT_TOKEN", "geheim")
    outcome = fastmunit(
        "serve", run_folder, "--host", "0.0.0.0", "--port", 81, "--max-styles", 2, "--max-pixels", 900,
        "--max-upload-pixels", 2000, "--queue", 3, "--max-upload-mb", 2, "--timeout", 1.5,
    )  # fmt: skip
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out == "Serving shoes at http://here; Ctrl-C stops.\nStopped.\n"
    assert given == ["shoes", Limits(2 * 2**20, 2000, 900, 2, 3, 1.5), "0.0.0.0", 81, "geheim"]
    monkeypatch.delenv("FASTMUNIT_TOKEN")
    assert fastmunit("serve", run_folder).err == ""
    assert given == ["shoes", Limits(), "127.0.0.1", 8000, None]
    monkeypatch.setenv("FASTMUNIT_TOKEN", "")  # a variable of a shell that is not set must not open the server
    assert "the token is empty" in fastmunit("serve", run_folder).err
    monkeypatch.delenv("FASTMUNIT_TOKEN")
    assert "Everybody who can reach this address" in fastmunit("serve", run_folder, "--host", "0.0.0.0").err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--host", "not an address"), "cannot listen on not an address, port 8000"),
        (("--host", "x" * 300), "cannot listen on xxx"),
        (("--token", " "), "the token is empty"),
        (("--device", "nonsense"), "'nonsense' is not a device"),
    ],
)
def test_wrong_options_are_named(
    fastmunit: Command,  # noqa: F811
    run_folder: Path,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    outcome = fastmunit("serve", run_folder, *arguments)
    assert (outcome.status, message in outcome.err) == (1, True), outcome.err


def test_a_port_in_use_and_a_missing_run_are_named(fastmunit: Command, run_folder: Path) -> None:  # noqa: F811
    with socket.create_server(("127.0.0.1", 0)) as taken:
        outcome = fastmunit("serve", run_folder, "--port", taken.getsockname()[1])
    assert outcome.status == 1
    assert "in use): choose another --host or --port" in outcome.err
    outcome = fastmunit("serve", run_folder / "nothing")
    assert (outcome.status, "does not exist" in outcome.err) == (1, True)


@pytest.mark.parametrize(
    ("module_name", "package_name"), [("fastapi", "fastapi"), ("python_multipart", "python-multipart")]
)
def test_missing_packages_are_named(
    fastmunit: Command,  # noqa: F811
    run_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    module_name: str,
    package_name: str,
) -> None:
    find = module.find_spec
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == module_name else find(name))
    outcome = fastmunit("serve", run_folder)
    assert outcome.status == 1
    assert f'{package_name}: pip install "fastmunit[serve]"' in outcome.err


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("::", False),
     ("192.168.1.5", False), ("localhost.example", False)],
)  # fmt: skip
def test_local_addresses(host: str, local: bool) -> None:
    assert module.is_local(host) is local


def test_a_model_has_the_directions_of_its_system(run_folder: Path, tmp_path: Path) -> None:
    model = load_model(run_folder, device="cpu", precision="bfloat16")
    assert (model.name, model.system, list(model.translators)) == ("shoes", "munit", ["a2b", "b2a"])
    assert model.trained_size == (64, 64)
    forward, back = model.translators.values()
    assert forward.precision == "bfloat16"
    assert forward._target is back._source  # type: ignore[attr-defined]
    file = run_folder / "checkpoints/gen_00000005.pt"
    assert load_model(file, device="cpu").name == "shoes"
    odd = shutil.copytree(run_folder, tmp_path / "shoes\udcff")  # not UTF-8
    with TestClient(create_app(load_model(odd, device="cpu"))) as client:
        assert client.get("/health").json()["model"] == r"shoes\xff"
        assert client.get("/openapi.json").status_code == 200
    wide = saved(system("munit", "input_dim_b=5"), tmp_path / "wide")
    assert list(load_model(wide, device="cpu").translators) == ["b2a"]  # no PNG has five channels
    with pytest.raises(FastmunitError, match="more than 4 channels"):
        load_model(saved(system("munit", "input_dim_a=5", "input_dim_b=5"), tmp_path / "wider"), device="cpu")


@pytest.mark.slow
def test_under_load_no_answer_is_lost_or_mixed_up_and_memory_is_flat(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clients, requests, images = 8, 150, 12
    with serving(run_folder, "--queue", clients) as server:
        model = package.load_translator(run_folder, device="cpu")
        files = [upload(48 + k, 64, seed=k) for k in range(images)]
        expected = [
            levels_of(package.translate(model, Image.open(io.BytesIO(file)), 1, seed=k)[0]).astype(int)
            for k, file in enumerate(files)
        ]
        assert all(np.abs(first[:48] - expected[0][:48]).max() > 8 for first in expected[1:])

        def client(number: int) -> list[float]:
            connection, seconds = server.connection(), []
            for k in range(requests):
                index = (number * 5 + k) % images
                started = time.perf_counter()
                answer = translate(connection, files[index], seed=index)
                seconds.append(time.perf_counter() - started)
                assert answer.status == 200, answer.content
                image = pixels_of(answer.content).astype(int)
                # Requests with the same image may share a batch, which rounds differently.
                assert image.shape == expected[index].shape
                assert np.abs(image - expected[index]).max() <= 1
            connection.close()
            return seconds

        with ThreadPoolExecutor(clients) as threads:
            list(threads.map(client, range(clients)))  # warms up
            before, started = server.memory(), time.perf_counter()
            times = sorted(second for of_client in threads.map(client, range(clients)) for second in of_client)
            total = time.perf_counter() - started
        growth = server.memory() - before
        assert len(times) == clients * requests
        assert growth < 32 * 2**20
        assert server.stop() == 0
    p50, p99 = (1e3 * times[int(len(times) * share)] for share in (0.5, 0.99))
    with capsys.disabled():
        print(f"\n{len(times) / total:.0f} requests/s, p50 {p50:.0f} ms, p99 {p99:.0f} ms, {growth / 2**20:+.1f} MiB")
