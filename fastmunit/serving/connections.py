"""Connections whose clients must not be slow. uvicorn itself waits for them without limit."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

_UNREAD_SECONDS = 0.1


def timed_protocol(seconds: float) -> type[H11Protocol]:
    """Return uvicorn's protocol for connections, with limits on the time that a client takes.

    - The headers of a request must arrive within `seconds`, counted from the connection, or from the first byte of a
      later request. `Gate` limits the time for the body.
    - A client that reads nothing of its answer for `seconds` is disconnected.
    - When the server stops, a request that has arrived and has not been read yet is answered before its connection is
      closed.
    """

    class TimedProtocol(H11Protocol):
        _headers: asyncio.TimerHandle | None = None
        _answer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
            super().connection_made(transport)
            self._headers = self.loop.call_later(seconds, transport.abort)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if not self._waits():
                if self._headers is not None:
                    self._headers.cancel()
                self._headers = None
            elif self._headers is None:
                self._headers = self.loop.call_later(seconds, self.transport.abort)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._answer = self.loop.call_later(seconds, self._abort_unless_less, self._unsent())

        def resume_writing(self) -> None:
            super().resume_writing()
            if self._answer is not None:
                self._answer.cancel()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            for timer in (self._headers, self._answer):
                if timer is not None:
                    timer.cancel()

        def shutdown(self) -> None:
            if self._waits():
                self.loop.call_later(_UNREAD_SECONDS, super().shutdown)
            else:
                super().shutdown()

        def _abort_unless_less(self, earlier: int) -> None:
            """Close the connection of a client that has read nothing since there were `earlier` bytes to send."""
            unsent = self._unsent()
            if unsent >= earlier:
                self.transport.abort()
            else:
                self._answer = self.loop.call_later(seconds, self._abort_unless_less, unsent)

        def _unsent(self) -> int:
            return self.transport.get_write_buffer_size()

        def _waits(self) -> bool:
            """Return True if no request is being answered."""
            return self.cycle is None or self.cycle.response_complete

    return TimedProtocol
