"""The queue of jobs and the thread that runs them."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image
from torch import Tensor

from fastmunit.serving.app import create_app
from fastmunit.serving.limits import Limits
from fastmunit.serving.model import Model
from fastmunit.serving.worker import Job, QueueFullError, Result, StoppedError, Worker
from fastmunit.systems.translators import Translator
from tests.serving.conftest import encoded, pixels_of, upload

SECONDS = 60  # until a test fails that would otherwise wait forever


class Fake(Translator):
    """A translator whose outputs are the image times the style. It waits while `open` is not set."""

    takes_references = True

    def __init__(self) -> None:
        super().__init__(torch.nn.Linear(1, 1), 1, 1, (1, 1), 1)
        self.open, self.started = threading.Event(), threading.Event()
        self.open.set()
        self.encoded, self.decoded = 0, list[int]()

    def encode(self, images: Tensor) -> Tensor:
        self.started.set()
        assert self.open.wait(SECONDS)
        self.encoded += 1
        if bool((images == -1).all()):
            raise ValueError("a bug")
        return images

    def decode(self, content: Tensor, styles: Tensor) -> Tensor:
        self.decoded.append(len(styles))
        return content * styles

    def encode_style(self, images: Tensor) -> Tensor:
        if bool((images == -1).all()):
            raise ValueError("a bug")
        return images.mean((1, 2, 3), keepdim=True)


@pytest.fixture
def fake() -> Fake:
    return Fake()


@contextmanager
def running(fake: Fake, queue: int = 8, styles: int = 8) -> Iterator[Worker]:
    """Start a worker and hold it at the first job, until `fake.open` is set."""
    worker = Worker({"a2b": fake, "b2a": fake}, queue, styles)
    worker.start()
    while not worker.ready:
        assert worker._thread.is_alive()
    fake.encoded, fake.decoded = 0, []
    fake.open.clear()
    fake.started.clear()
    try:
        yield worker
    finally:
        fake.open.set()
        worker.stop(SECONDS)


def image(value: float, height: int = 2) -> Tensor:
    return torch.full((1, height, 2), value)


def codes(*values: float) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1)


def occupied(worker: Worker, fake: Fake) -> Future[Result]:
    """Submit a job and wait until the worker computes it."""
    future = worker.submit(Job("a2b", image(0.0, height=3)))
    assert fake.started.wait(SECONDS)
    return future


def test_jobs_that_wait_for_the_same_image_share_it(fake: Fake) -> None:
    with running(fake) as worker:
        occupied(worker, fake)
        jobs = [
            Job("a2b", image(0.5), codes(0.1, 0.2)),
            Job("a2b", image(0.25), codes(0.3)),  # another image
            Job("a2b", image(0.5), image(0.4)),  # a reference
            Job("b2a", image(0.5), codes(0.5)),  # another direction
            Job("a2b", image(0.5, height=4), codes(0.6)),  # another size
            Job("a2b", image(0.5), codes(0.7)),
        ]
        futures = [worker.submit(job) for job in jobs]
        fake.open.set()
        results = [future.result(SECONDS) for future in futures]
    assert (fake.encoded, fake.decoded) == (5, [1, 4, 1, 1, 1])
    values = [[0.05, 0.1], [0.075], [0.2], [0.25], [0.3], [0.35]]
    for job, result, expected in zip(jobs, results, values, strict=True):
        assert result.images.shape == (len(expected), *job.image.shape)
        torch.testing.assert_close(result.images[:, 0, 0, 0], torch.tensor(expected))
        assert len(result.codes) == job.count


def test_a_batch_has_a_maximum_number_of_styles(fake: Fake) -> None:
    with running(fake, styles=4) as worker:
        occupied(worker, fake)
        counts = (3, 2, 1)
        futures = [worker.submit(Job("a2b", image(0.5), count)) for count in counts]
        fake.open.set()
        assert [len(future.result(SECONDS).images) for future in futures] == list(counts)
    assert fake.decoded == [1, 4, 2]


def test_a_failure_is_that_of_its_jobs_alone(fake: Fake) -> None:
    with running(fake) as worker:
        occupied(worker, fake)
        bad_style = worker.submit(Job("a2b", image(0.5), image(-1.0)))
        good = worker.submit(Job("a2b", image(0.5), codes(1.0)))
        bad_image = worker.submit(Job("a2b", image(-1.0)))
        later = worker.submit(Job("a2b", image(0.25), codes(1.0)))
        fake.open.set()
        for future in (bad_style, bad_image):
            with pytest.raises(ValueError, match="a bug"):
                future.result(SECONDS)
        assert float(good.result(SECONDS).images[0, 0, 0, 0]) == 0.5
        assert float(later.result(SECONDS).images[0, 0, 0, 0]) == 0.25
        assert worker.ready


def test_canceled_jobs_are_not_run(fake: Fake) -> None:
    with running(fake) as worker:
        occupied(worker, fake)
        canceled = worker.submit(Job("a2b", image(0.5)))
        last = worker.submit(Job("a2b", image(0.25)))
        assert canceled.cancel()
        assert len(worker._jobs) == 1  # its image is not kept
        fake.open.set()
        last.result(SECONDS)
    assert fake.encoded == 2


def test_slots_are_limited(fake: Fake) -> None:
    with running(fake, queue=2) as worker, ExitStack() as slots:
        for _ in range(2):
            slots.enter_context(worker.slot())
        assert worker.length == 2
        with pytest.raises(QueueFullError, match=r"the queue is full: try again in \d+ s") as caught, worker.slot():
            pass
        assert 1 <= caught.value.retry_after <= 60
        slots.close()
        assert worker.length == 0
        with pytest.raises(KeyError), worker.slot():
            raise KeyError
        assert worker.length == 0


def test_a_stopped_worker_finishes_its_batch_and_cancels_the_others(fake: Fake) -> None:
    with running(fake) as worker:
        current = occupied(worker, fake)
        waiting = worker.submit(Job("a2b", image(0.5)))
        worker.stop(0.01)
        assert not worker.ready
        with pytest.raises(StoppedError):
            worker.submit(Job("a2b", image(0.5)))
        with pytest.raises(StoppedError), worker.slot():
            pass
        fake.open.set()
        assert len(current.result(SECONDS).images) == 1
        with pytest.raises(CancelledError):
            waiting.result(SECONDS)
        worker.stop(SECONDS)
        assert not worker._thread.is_alive()


def test_a_worker_that_was_not_started_takes_nothing(fake: Fake) -> None:
    worker = Worker({"a2b": fake}, 1, 1)
    with pytest.raises(StoppedError):
        worker.submit(Job("a2b", image(0.5)))
    worker.stop(SECONDS)


@contextmanager
def running_app(app: FastAPI) -> Iterator[Any]:
    """Run the lifespan of an application in a loop of its own. Yield a function that runs a coroutine there."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def start(work: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, loop)

    lifespan = app.router.lifespan_context(app)
    start(lifespan.__aenter__()).result(SECONDS)
    try:
        yield start
    finally:
        start(lifespan.__aexit__(None, None, None)).result(SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _post(app: FastAPI, leave: float | None) -> int:
    """Post an image without a network. Return the status.

    Args:
        app: The application.
        leave: Seconds after which the client closes the connection, or None.
    """
    body = b'--x\r\nContent-Disposition: form-data; name="image"; filename=""\r\n\r\n' + upload() + b"\r\n--x--\r\n"
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])
    statuses: list[int] = []

    async def receive() -> Any:
        if message := next(messages, None):
            return message
        await asyncio.sleep(SECONDS if leave is None else leave)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        statuses.append(message.get("status", 0))

    scope = {
        "type": "http", "method": "POST", "path": "/translate", "query_string": b"", "http_version": "1.1",
        "headers": [(b"content-type", b"multipart/form-data; boundary=x")],
    }  # fmt: skip
    await app(scope, receive, send)
    return statuses[0]


@contextmanager
def served(fake: Fake, limits: Limits) -> Iterator[TestClient]:
    """Serve a model that is held at the first request until `fake.open` is set."""
    with TestClient(create_app(Model("fake", "fake", {"a2b": fake}, (2, 2)), limits)) as client:
        while client.get("/health").status_code != 200:
            pass
        fake.open.clear()
        fake.started.clear()
        try:
            yield client
        finally:
            fake.open.set()


def test_a_full_queue_is_429(fake: Fake) -> None:
    with served(fake, Limits(queue=1)) as client, ThreadPoolExecutor() as threads:
        first = threads.submit(client.post, "/translate", files={"image": upload()})
        assert fake.started.wait(SECONDS)
        full = client.post("/translate", files={"image": upload()})
        assert (full.status_code, "try again" in full.json()["detail"]) == (429, True)
        assert 1 <= int(full.headers["retry-after"]) <= 60
        assert client.get("/health").json()["queue"] == {"length": 1, "limit": 1}
        fake.open.set()
        assert first.result(SECONDS).status_code == 200
        assert client.post("/translate", files={"image": upload()}).status_code == 200
        assert client.get("/health").json()["queue"]["length"] == 0


def test_a_late_answer_is_504_and_frees_its_slot(fake: Fake) -> None:
    with served(fake, Limits(queue=1, timeout=0.3)) as client:
        late = client.post("/translate", files={"image": upload()})
        assert (late.status_code, "not ready within 0.3 s" in late.json()["detail"]) == (504, True)
        assert client.get("/health").json()["queue"]["length"] == 0


def test_faults_have_a_status_and_a_message(fake: Fake) -> None:
    app = create_app(Model("fake", "fake", {"a2b": fake}, (2, 2)))
    with TestClient(app, raise_server_exceptions=False) as client:
        answer = client.post("/translate", files={"image": encoded(Image.new("L", (2, 2)))})  # all values are -1
        assert (answer.status_code, answer.json()) == (
            500,
            {"detail": "a fault of the server; its log has the details."},
        )
        assert client.post("/translate", files={"image": upload()}).status_code == 200
        fake.decode = lambda *_: torch.empty(1 << 55)  # type: ignore[method-assign]
        answer = client.post("/translate", files={"image": upload()})
        assert (answer.status_code, "not enough memory" in answer.json()["detail"]) == (503, True)
        fake.decode = lambda content, styles: content * torch.nan  # type: ignore[method-assign]
        answer = client.post("/translate", files={"image": upload()})
        assert (answer.status_code, "diverged" in answer.json()["detail"]) == (500, True)


def test_a_client_that_is_gone_leaves_the_queue(fake: Fake) -> None:
    """Call the application without a client: one that closes the connection while its request waits."""
    app = create_app(Model("fake", "fake", {"a2b": fake}, (2, 2)))
    with running_app(app) as loop:
        assert loop(_post(app, leave=None)).result(SECONDS) == 200  # after the warm-up
        fake.open.clear()
        fake.started.clear()
        held = loop(_post(app, leave=None))
        assert fake.started.wait(SECONDS)
        gone = loop(_post(app, leave=0.05))
        assert gone.result(SECONDS) == 400
        before = fake.encoded
        fake.open.set()
        assert held.result(SECONDS) == 200
        assert loop(_post(app, leave=None)).result(SECONDS) == 200
        assert fake.encoded == before + 2


def test_requests_at_the_same_time_get_their_own_answers(model: Model) -> None:
    with TestClient(create_app(model)) as client, ThreadPoolExecutor(8) as threads:
        styles = client.get("/styles", params={"count": 6}).json()["styles"]

        def ask(number: int) -> np.ndarray:
            fields = {"codes": json.dumps([styles[number % 6]])}
            answer = client.post("/translate", files={"image": upload(seed=number % 2)}, data=fields)
            assert answer.status_code == 200
            return pixels_of(answer.content).astype(int)

        alone = [ask(number) for number in range(6)]
        together = list(threads.map(ask, range(24)))
    for number, image in enumerate(together):
        # Styles of a shared image are decoded as one batch, which may round differently.
        assert np.abs(image - alone[number % 6]).max() <= 1
    assert all(np.abs(alone[0] - image).max() > 1 for image in alone[1:])
