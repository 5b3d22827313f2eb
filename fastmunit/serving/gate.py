"""Checks of a request before its body is read: the token, the host, and the size of the body."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Collection

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fastmunit.serving.limits import Limits

_READING = ("GET", "HEAD")
_WITH_TOKEN = ("/styles", "/samples")


class Gate:
    """An ASGI middleware that refuses requests before anything else sees them.

    - With a token, every request needs the header `Authorization: Bearer TOKEN`, except those that only read what is
      public: the page without its sample pictures, the health and the documentation.
    - With hosts, the header `Host` must be one of them. A page of another site whose name has been made to resolve to
      this machine sends its own.
    - A body may have only so many bytes, and must arrive in time.

    Args:
        app: Application behind the gate.
        limits: Limits on the body.
        token: The token, or None.
        hosts: Names that the header `Host` may have, in lower case and without port. None allows any.
    """

    def __init__(self, app: ASGIApp, limits: Limits, token: str | None, hosts: Collection[str] | None) -> None:
        self._app, self._limits, self._hosts = app, limits, hosts
        self._authorization = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is None:
            await self._app(scope, self._bounded(receive), send)
        else:
            await refusal(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Headers) -> JSONResponse | None:
        if self._hosts is not None and _name(headers.get("host", "").lower()) not in self._hosts:
            return _refused(400, "this host name is not served here: use the address that the server printed.")
        if self._authorization is not None and _needs_token(scope):
            given = headers.get("authorization", "").encode("latin-1")  # as it was sent
            if not hmac.compare_digest(given, self._authorization):
                answer = _refused(401, "send the header Authorization: Bearer TOKEN, with the token of this server.")
                answer.headers["www-authenticate"] = "Bearer"
                return answer
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit():
            return _refused(400, "the header Content-Length is not a number.")
        if int(length[:20]) > self._limits.upload_bytes:
            return _refused(413, _too_large(self._limits))
        return None

    def _bounded(self, receive: Receive) -> Receive:
        """Return a `receive` that raises HTTPException for a body that is too large or too slow."""
        deadline = time.monotonic() + self._limits.timeout
        size, complete = 0, False

        async def bounded() -> Message:
            nonlocal size, complete
            if complete:  # then it waits for the end of the connection
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, deadline - time.monotonic()))
            except asyncio.TimeoutError:
                raise HTTPException(408, f"the request did not arrive within {self._limits.timeout:g} s.") from None
            complete = message["type"] != "http.request" or not message.get("more_body", False)
            size += len(message.get("body", b""))
            if size > self._limits.upload_bytes:
                raise HTTPException(413, _too_large(self._limits))
            return message

        return bounded


def _needs_token(scope: Scope) -> bool:
    # By prefix, because routes match a path with a line break at its end, too.
    return scope["method"] not in _READING or scope["path"].startswith(_WITH_TOKEN)


def _name(host: str) -> str:
    """Return a host without its port. IPv6 addresses are in brackets."""
    name, separator, port = host.rpartition(":")
    return name if separator and port.isdigit() else host


def _too_large(limits: Limits) -> str:
    return f"the request has more than {limits.upload_bytes:,} bytes: send smaller pictures."


def _refused(status: int, detail: str) -> JSONResponse:
    return JSONResponse({"detail": detail}, status)
