"""Measure what a server adds to the time of `fastmunit.translate`: `python -m bench.serving`.

The server runs in a thread of this process, with the same translator as the calls that it is compared with. A request
goes through a socket of this machine and returns PNGs. The calls get the same PNG and return a tensor. Both are
timed in interleaved rounds of one run, and the minimum of each counts.
"""

import argparse
import http.client
import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import uvicorn
from PIL import Image

import fastmunit
from bench.harness import StepTimes, without_tf32
from fastmunit.config import Config
from fastmunit.serving.app import create_app
from fastmunit.serving.model import Model
from fastmunit.serving.server import bound
from fastmunit.systems.base import System
from fastmunit.systems.munit import MUNIT

DIRECT, SERVED = "fastmunit.translate", "server"
TARGET = 1.15
"""Time of a request divided by that of a call, at most."""


def picture(size: int) -> bytes:
    """Return a PNG of noise, which compresses worse than any photo."""
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@contextmanager
def connected(model: Model) -> Iterator[http.client.HTTPConnection]:
    """Serve a model in a thread, and yield a connection to it."""
    with bound("127.0.0.1", 0) as listening:
        server = uvicorn.Server(uvicorn.Config(create_app(model), http="h11", lifespan="on", log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        connection = http.client.HTTPConnection("127.0.0.1", listening.getsockname()[1])
        try:
            while request(connection, "GET", "/health")[0] != 200:
                time.sleep(0.05)
            yield connection
        finally:
            connection.close()
            server.should_exit = True
            thread.join()


def request(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None
) -> tuple[int, bytes]:
    """Send a request and return the status and the body of the answer."""
    connection.request(method, path, body, {"Content-Type": "multipart/form-data; boundary=b"})
    answer = connection.getresponse()
    return answer.status, answer.read()


def form(image: bytes, styles: int) -> bytes:
    """Return the body of a request for translations."""
    head = b"--b\r\nContent-Disposition: form-data; name="
    return (
        head
        + b'"image"; filename="x"\r\n\r\n'
        + image
        + b"\r\n"
        + head
        + f'"styles"\r\n\r\n{styles}\r\n--b--\r\n'.encode()
    )


def measured(system: System, size: int, styles: int, rounds: int) -> StepTimes:
    """Return the times of a call and of a request for the same translations."""
    translator = system.evaluation_translator("a2b")
    image = picture(size)
    with connected(Model("bench", system.name, {"a2b": translator}, (size, size))) as connection:

        def direct() -> None:
            fastmunit.translate(translator, Image.open(io.BytesIO(image)), styles)

        def served() -> None:
            status, answer = request(connection, "POST", "/translate", form(image, styles))
            if status != 200:
                raise RuntimeError(answer.decode())

        times = StepTimes(f"{size}x{size}, {styles} styles", {DIRECT: direct, SERVED: served}, DIRECT)
        times.time(rounds)
    return times


def main() -> None:
    """Print the times, and the share that the server adds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=MUNIT.recipe, help="a shipped configuration [%(default)s]")
    parser.add_argument("--size", type=int, default=256, help="height and width of the image [%(default)s]")
    parser.add_argument("--styles", type=int, nargs="+", default=[1, 8], help="numbers of styles [%(default)s]")
    parser.add_argument("--rounds", type=int, default=5, help="rounds [%(default)s]")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    system = MUNIT(Config.load(arguments.config, ["vgg_w=0"]))
    system.to("cuda" if torch.cuda.is_available() else "cpu")
    with without_tf32():
        for styles in arguments.styles:
            times = measured(system, arguments.size, styles, arguments.rounds)
            ratio = times.seconds[SERVED] / times.seconds[DIRECT]
            print(*times.lines(), sep="\n")
            print(f"the server adds {100 * (ratio - 1):.1f} % (target: at most {100 * (TARGET - 1):.0f} %)")


if __name__ == "__main__":
    main()
