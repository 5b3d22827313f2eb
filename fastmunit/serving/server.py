"""The web server around the application."""

from __future__ import annotations

import ipaddress
import math
import socket
from collections.abc import Callable
from importlib.util import find_spec

from fastmunit.errors import FastmunitError
from fastmunit.runs.stop_signal import StopSignal
from fastmunit.serving.limits import Limits
from fastmunit.serving.model import Model

_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_MIN_CONNECTIONS = 64


def require_packages() -> None:
    """Raise FastmunitError if a package of the extra `serve` is missing."""
    for name, package in (("fastapi", "fastapi"), ("uvicorn", "uvicorn"), ("python_multipart", "python-multipart")):
        if find_spec(name) is None:
            raise FastmunitError(f'serving needs the package {package}: pip install "fastmunit[serve]".')


def is_local(host: str) -> bool:
    """Return True if only programs on this machine can connect to `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def serve(
    model: Model, limits: Limits, host: str, port: int, token: str | None, announce: Callable[[str], object]
) -> None:
    """Serve a model until SIGINT or SIGTERM, then answer the requests that have arrived and return.

    Args:
        model: The model.
        limits: Limits on requests.
        host: Name or address to bind to.
        port: Port to bind to; 0 chooses a free one.
        token: Token that requests need, or None.
        announce: Called with the address, as soon as requests are answered.

    Raises:
        FastmunitError: If the address cannot be bound, or the packages of the extra `serve` are missing.
    """
    require_packages()
    import uvicorn

    from fastmunit.serving.app import create_app
    from fastmunit.serving.connections import timed_protocol

    # With a token, pages of other sites cannot send requests: they do not know it.
    hosts = {*_LOCAL_NAMES, _in_url(host)} if is_local(host) and token is None else None
    config = uvicorn.Config(
        create_app(model, limits, token=token, hosts=hosts),
        http=timed_protocol(limits.timeout),
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=max(_MIN_CONNECTIONS, 4 * limits.queue),
        timeout_graceful_shutdown=math.ceil(2 * limits.timeout) + 5,
    )
    # uvicorn has handlers of its own, and raises the signals that it got again when it is done.
    with bound(host, port) as listening, StopSignal() as stop:

        class Server(uvicorn.Server):
            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                await super().startup(sockets)
                announce(f"http://{_in_url(host)}:{listening.getsockname()[1]}")
                if stop.received:  # before uvicorn had its handlers
                    self.should_exit = True

        Server(config).run(sockets=[listening])


def bound(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises FastmunitError if that is not possible."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(socket.SOMAXCONN)
        except BaseException:
            listening.close()
            raise
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise FastmunitError(
            f"cannot listen on {host}, port {port} ({reason}): choose another --host or --port."
        ) from error
    return listening


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
