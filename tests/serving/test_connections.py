"""Slow clients do not keep a connection, and a stop loses no request that has arrived."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

import uvicorn

from fastmunit.serving.connections import timed_protocol

LARGE = 16 * 2**20  # more than the buffers of a connection hold
SECONDS = 60  # until a test fails that would otherwise wait forever


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Return as many bytes as the path says."""
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": bytes(int(scope["path"][1:]))})


class Server(uvicorn.Server):
    loop: asyncio.AbstractEventLoop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets)


@dataclass
class Running:
    server: Server
    port: int

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS)

    def wait_for_connections(self, count: int) -> None:
        deadline = time.monotonic() + SECONDS
        while len(self.server.server_state.connections) != count:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.fixture
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, http=timed_protocol(request.param), lifespan="off", log_level="critical")
    server = Server(config)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield Running(server, listening.getsockname()[1])
    server.should_exit = True
    thread.join(SECONDS)
    assert not thread.is_alive()


def request_for(size: int) -> bytes:
    return f"GET /{size} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()


def received(connection: socket.socket) -> bytes:
    """Return what is sent until the connection is closed."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(2**20):
            parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("running", [0.5], indirect=True)
@pytest.mark.parametrize("start", [b"", b"GET /5 HT", request_for(5) + b"GET /5 HT"])
def test_headers_that_never_end(running: Running, start: bytes) -> None:
    with running.connect() as connection:
        connection.sendall(start)
        trickling = threading.Event()

        def trickle() -> None:
            with contextlib.suppress(OSError):
                while start and not trickling.wait(0.05):
                    connection.sendall(b"x")

        thread = threading.Thread(target=trickle)
        thread.start()
        assert received(connection).count(b"200 OK") == start.count(b"\r\n\r\n")
        trickling.set()
        thread.join()
    running.wait_for_connections(0)


@pytest.mark.parametrize("running", [0.5], indirect=True)
def test_a_client_that_does_not_read(running: Running) -> None:
    with running.connect() as connection:
        connection.sendall(request_for(LARGE))
        running.wait_for_connections(1)
        running.wait_for_connections(0)
        assert len(received(connection)) < LARGE
    with running.connect() as connection:
        connection.sendall(request_for(LARGE).replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
        assert len(received(connection)) > LARGE


@pytest.mark.parametrize("running", [SECONDS], indirect=True)
def test_a_request_that_has_not_been_read_when_the_server_stops(running: Running) -> None:
    with running.connect() as connection:
        running.wait_for_connections(1)
        (protocol,) = running.server.server_state.connections

        def stop() -> None:
            connection.sendall(request_for(5))  # it waits in the socket: the server's loop runs this function
            protocol.shutdown()

        running.server.loop.call_soon_threadsafe(stop)
        content = received(connection)
    assert content.startswith(b"HTTP/1.1 200 OK")
    assert content.count(bytes(5)) == 1
