"""The gate answers before a body is read, and ends bodies that are too large or too slow."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi import HTTPException

from fastmunit.serving.gate import Gate
from fastmunit.serving.limits import Limits


def run(limits: Limits, headers: list[tuple[bytes, bytes]], bodies: list[bytes], token: str | None = None) -> Any:
    """Send a request through a gate. Return the status, and the number of parts of the body that were read."""
    sent: list[Any] = []
    read = 0

    async def receive() -> Any:
        nonlocal read
        if read == len(bodies):
            await asyncio.sleep(60)
        read += 1
        return {"type": "http.request", "body": bodies[read - 1], "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            while (await receive())["more_body"]:
                pass
        except HTTPException as error:
            await send({"type": "http.response.start", "status": error.status_code})

    scope = {"type": "http", "method": "POST", "path": "/translate", "headers": headers}
    asyncio.run(Gate(app, limits, token, None)(scope, receive, send))
    return sent[0]["status"], read


@pytest.mark.parametrize(
    ("headers", "token", "status"),
    [
        ([(b"content-length", b"11")], None, 413),
        ([(b"content-length", b"9" * 400)], None, 413),
        ([(b"content-length", b"-1")], None, 400),
        ([(b"content-length", "²".encode("latin-1"))], None, 400),
        ([], "t", 401),
        ([(b"authorization", b"Bearer T")], "t", 401),
        ([(b"authorization", b"\xff\xfe")], "t", 401),
    ],
)
def test_refused_without_reading(headers: list[tuple[bytes, bytes]], token: str | None, status: int) -> None:
    assert run(Limits(upload_bytes=10), headers, [b"x"], token) == (status, 0)


def test_a_body_of_unknown_length_is_read_up_to_the_limit() -> None:
    assert run(Limits(upload_bytes=10), [], [b"xxxx"] * 100) == (413, 3)


def test_a_body_that_does_not_arrive() -> None:
    assert run(Limits(timeout=0.05), [], [b"xxxx"]) == (408, 1)
