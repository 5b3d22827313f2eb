"""The thread that runs the model, and the queue of jobs that wait for it."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from fastmunit.errors import FastmunitError
from fastmunit.systems.translators import Translator
from fastmunit.translation.styles import style_codes

_MAX_RETRY_SECONDS = 60
_WARM_UP_PIXELS = 32


class QueueFullError(FastmunitError):
    """A queue that takes no more requests now.

    Attributes:
        retry_after: Estimated seconds until it does.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"the queue is full: try again in {retry_after} s.")
        self.retry_after = retry_after


class StoppedError(FastmunitError):
    """A worker that has stopped, or has not started."""


class Result(NamedTuple):
    """Images (S, C', H, W) in [-1, 1], and their style codes (S, style_dim, 1, 1)."""

    images: Tensor
    codes: Tensor


@dataclass(eq=False)
class Job:
    """A request for translations of an image.

    Attributes:
        direction: "a2b" or "b2a".
        image: Image (C, H, W) in [-1, 1].
        styles: The number of random styles, style codes (S, style_dim, 1, 1), or a reference image (C', H, W).
        seed: Seed of random styles.
        future: The result.
    """

    direction: str
    image: Tensor
    styles: int | Tensor = 1
    seed: int = 0
    future: Future[Result] = field(default_factory=Future)

    @property
    def count(self) -> int:
        """Return the number of styles."""
        if isinstance(self.styles, int):
            return self.styles
        return 1 if self.styles.dim() == 3 else len(self.styles)

    def shares_image(self, other: Job) -> bool:
        """Return True if both jobs translate the same image in the same direction."""
        return self.direction == other.direction and torch.equal(self.image, other.image)


class Worker:
    """A thread that translates the images of jobs, in the order in which they arrive.

    Jobs that wait for the same image and direction run as one batch: the image is encoded once, and their styles are
    decoded together.

    Args:
        translators: Translator of each direction.
        queue: Maximum number of slots; see `slot`.
        styles: Maximum number of styles per batch of jobs.
    """

    def __init__(self, translators: Mapping[str, Translator], queue: int, styles: int) -> None:
        self._translators, self._queue, self._styles = translators, queue, styles
        self._changed = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._slots = 0
        self._warm = False
        self._stopping = False
        self._seconds = 1.0
        self._thread = threading.Thread(target=self._run, name="fastmunit-model", daemon=True)

    def start(self) -> None:
        """Start the thread, which translates a small image in each direction first."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Cancel the jobs that wait, and end the thread after its current batch, or give up after `timeout` seconds."""
        with self._changed:
            self._stopping = True
            jobs = list(self._jobs)
            self._jobs.clear()
            self._changed.notify_all()
        for job in jobs:
            job.future.cancel()
        if self._thread.ident is not None:
            self._thread.join(timeout)

    @property
    def ready(self) -> bool:
        """Return True if jobs are being run."""
        return self._warm and self._thread.is_alive() and not self._stopping

    @property
    def length(self) -> int:
        """Return the number of slots that are taken."""
        return self._slots

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Take a slot of the queue inside the block.

        A request takes one before its images are decoded, so that the number of decoded images is bounded too.

        Raises:
            QueueFullError: If no slot is free.
            StoppedError: If the worker has stopped.
        """
        with self._changed:
            self._require_running()
            if self._slots >= self._queue:
                seconds = math.ceil(self._seconds * (len(self._jobs) + 1))
                raise QueueFullError(min(max(seconds, 1), _MAX_RETRY_SECONDS))
            self._slots += 1
        try:
            yield
        finally:
            with self._changed:
                self._slots -= 1

    def submit(self, job: Job) -> Future[Result]:
        """Append a job to the queue. If its future is canceled while it waits, it is not run.

        Raises:
            StoppedError: If the worker has stopped.
        """
        with self._changed:
            self._require_running()
            self._jobs.append(job)
            self._changed.notify_all()
        job.future.add_done_callback(lambda _: self._forget(job))
        return job.future

    def _forget(self, job: Job) -> None:
        """Remove a job that was canceled, and with it its image."""
        with self._changed:
            if job in self._jobs:
                self._jobs.remove(job)

    def _require_running(self) -> None:
        if self._stopping or not self._thread.is_alive():
            raise StoppedError("the model does not run, because the server is stopping or has failed: try again later.")

    def _run(self) -> None:
        for translator in self._translators.values():
            image = torch.zeros(translator.channels, _WARM_UP_PIXELS, _WARM_UP_PIXELS)
            translator.translate(image, style_codes(translator, 1, 0, None))
        self._warm = True
        while batch := self._next_batch():
            started = time.monotonic()
            self._translate(batch)
            self._seconds += 0.2 * (time.monotonic() - started - self._seconds)
            del batch  # its images, while this thread waits

    def _next_batch(self) -> list[Job]:
        """Wait for jobs, and return those of the batch to run. Return no job if the worker has been stopped."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._stopping)
                if self._stopping:
                    return []
                first, *others = self._jobs
            # Without the lock, because images are compared. Jobs that others remove meanwhile are canceled.
            batch, count = [first], first.count
            for job in others:
                if count + job.count <= self._styles and job.shares_image(first):
                    batch.append(job)
                    count += job.count
            with self._changed:
                if self._stopping:
                    return []
                self._jobs = deque(job for job in self._jobs if job not in batch)
            if batch := [job for job in batch if job.future.set_running_or_notify_cancel()]:
                return batch

    def _translate(self, batch: list[Job]) -> None:
        translator = self._translators[batch[0].direction]
        coded: list[tuple[Job, Tensor]] = []
        for job in batch:
            try:
                coded.append((job, style_codes(translator, job.styles, job.seed, None)))
            except Exception as error:  # of this job alone
                job.future.set_exception(error)
        if not coded:
            return
        codes = [code for _, code in coded]
        try:
            images = translator.translate(batch[0].image, torch.cat(codes)).split([len(code) for code in codes])
        except Exception as error:  # the thread must go on for other jobs
            for job, _ in coded:
                job.future.set_exception(error)
        else:
            for (job, code), image in zip(coded, images, strict=True):
                job.future.set_result(Result(image, code))
