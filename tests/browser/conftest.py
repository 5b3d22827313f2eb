"""A page in a real browser: the distribution's Chromium, which Playwright drives."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastmunit import data
from fastmunit.errors import FastmunitError
from fastmunit.page.build import build
from fastmunit.runs import train
from tests.runs.tiny import tiny_config

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


class Server:
    """A plain file server of a folder, which adds headers to its answers."""

    def __init__(self, folder: Path, headers: Mapping[str, str]) -> None:
        class Handler(SimpleHTTPRequestHandler):
            def log_message(self, format: str, *args: Any) -> None: ...

            def end_headers(self) -> None:
                for name, value in headers.items():
                    self.send_header(name, value)
                super().end_headers()

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    path = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if path is None:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MUNIT that has seen the demo data for two iterations."""
    folder = tmp_path_factory.mktemp("trained")
    settings = tiny_config(data.unpack_demo(folder / "data"), new_size=32, max_iter=2)
    train(settings, folder / "run", device="cpu")
    return folder / "run"


@pytest.fixture(scope="session")
def page_folder(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "page"
    try:
        build(run_folder, folder)
    except FastmunitError as error:
        if "npm" not in str(error):
            raise
        pytest.skip(str(error))
    return folder


class Visit:
    """A visit of a page. It records errors, and requests to other hosts."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.tab = self.context.new_page()
        self.errors: list[str] = []
        self.foreign: list[str] = []
        self.url = url
        self.tab.on("console", self._note_message)
        self.tab.on("pageerror", lambda error: self.errors.append(str(error)))
        self.context.on("request", self._note_request)
        self.tab.goto(url)

    def _note_message(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def _note_request(self, request: Any) -> None:
        if not request.url.startswith((self.url, "blob:", "data:")):
            self.foreign.append(request.url)

    def wait_for_output(self) -> None:
        """Wait until the output shows the current drawing in the current style."""
        self.tab.wait_for_selector("#output[data-current='true']", state="attached", timeout=60_000)

    def shown(self) -> dict[str, Any]:
        """Return the pixels that the model got and gave, and the style code."""
        return self.tab.evaluate(
            """() => {
                const page = window.fastmunit, output = document.getElementById("output");
                const { data } = output.getContext("2d").getImageData(0, 0, output.width, output.height);
                const { style, settings } = page;
                return { input: [...page.drawing.pixels()], output: [...data], code: style.code, size: settings.size };
            }"""
        )

    def shown_input(self) -> np.ndarray:
        """Return the pixels (H, W, 3) that the model gets."""
        size = self.tab.evaluate("() => window.fastmunit.settings.size")
        values = self.tab.evaluate("() => [...window.fastmunit.drawing.pixels()]")
        return np.array(values, dtype=np.uint8).reshape(*size, 4)[..., :3]

    def drag(self, start: tuple[float, float], *points: tuple[float, float], on: str = "#drawing") -> None:
        """Drag the mouse over an element, along points in fractions of its size."""
        box = self.tab.locator(on).bounding_box()
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, *points)]
        self.tab.mouse.move(*places[0])
        self.tab.mouse.down()
        for place in places[1:]:
            self.tab.mouse.move(*place, steps=5)
        self.tab.mouse.up()


@pytest.fixture
def visit(browser: Any) -> Iterator[Any]:
    """Return a function that visits a folder, or a path in it, through a file server."""
    opened: list[Any] = []

    def open_folder(folder: Path, path: str = "", headers: Mapping[str, str] | None = None, **options: Any) -> Visit:
        server = Server(folder, headers or {})
        opened.append(server)
        visit = Visit(browser, server.url + path, **options)
        opened.append(visit.context)
        return visit

    yield open_folder
    for item in reversed(opened):
        item.close()
