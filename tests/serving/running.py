"""A server in a process of its own, and a client without further packages."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SECONDS = 120  # until a test fails that would otherwise wait forever


@dataclass
class Answer:
    status: int
    content: bytes
    headers: Mapping[str, str]

    def json(self) -> Any:
        return json.loads(self.content)


@dataclass
class RunningServer:
    process: subprocess.Popen[str]
    address: str
    port: int
    lines: list[str] = field(default_factory=list)

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)

    def get(self, path: str) -> Answer:
        return ask(self.connection(), "GET", path)

    def translate(self, image: bytes, **fields: object) -> Answer:
        return translate(self.connection(), image, **fields)

    def stop(self) -> int:
        """Send SIGTERM and return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(SECONDS)

    def memory(self) -> int:
        """Return the resident bytes of the process."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


def ask(connection: http.client.HTTPConnection, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
    connection.request(method, path, body or None, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    return Answer(answer.status, answer.read(), dict(answer.getheaders()))


def translate(connection: http.client.HTTPConnection, image: bytes, **fields: object) -> Answer:
    body = b'--b\r\nContent-Disposition: form-data; name="image"; filename="image"\r\n\r\n' + image
    for name, value in fields.items():
        body += f'\r\n--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}'.encode()
    return ask(
        connection, "POST", "/translate", body + b"\r\n--b--\r\n", content_type="multipart/form-data; boundary=b"
    )


@contextmanager
def serving(run: Path, *options: object, **environment: str) -> Iterator[RunningServer]:
    """Run `fastmunit serve` on a free port, until the end of the block at the latest."""
    command = [sys.executable, "-u", "-m", "fastmunit", "serve", run, "--port", 0, "--device", "cpu", *options]
    process = subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    try:
        assert process.stdout is not None
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line)
            if found := re.search(r"at (http://\S+:(\d+));", line):
                break
        else:
            raise AssertionError(f"the server ended: {''.join(lines)}")
        server = RunningServer(process, found[1], int(found[2]), lines)
        threading.Thread(target=lambda: lines.extend(process.stdout or ()), daemon=True).start()
        yield server
    finally:
        process.kill()
        process.wait()
