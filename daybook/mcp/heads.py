"""Connections that say nothing are closed, so that they take nobody's place.

uvicorn counts a connection from its beginning, but waits with a limit only after an answer: who
opens as many as are taken and is silent on them would keep all others out. So would who asks, and
then does not read what it is told. A stream on which nothing is to be told may be silent for ever;
that its other side is gone without a word is seen by the signs of life that are sent on it.
"""

from __future__ import annotations

import asyncio
import socket
from typing import cast

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

PATIENCE = 10.0
"""Seconds for the head of a request: from the connection's beginning, or from the next head's."""
UNREAD = 60.0
"""Seconds for which who does not read what it is told has its place, once no more is taken."""
VANISHED = 60
"""Seconds after which one that acknowledges nothing is gone; where the system has that."""


class Heads(H11Protocol):
    """uvicorn's own protocol, which waits `patience` seconds for a whole head, and `unread` for
    what is to be read.
    """

    patience, unread = PATIENCE, UNREAD
    _waiting: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait."""
        super().connection_made(transport)
        wire = transport.get_extra_info("socket")
        if wire is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, VANISHED * 1000)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Wait on while the head is not whole; also of a later request, for which nothing else
        waits once it has begun.
        """
        super().data_received(data)
        going = cast(RequestResponseCycle | None, self.cycle)  # none before the first head
        if going is not None and not going.response_complete:
            self._leave()
        else:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._leave()
        self._read_on()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """What was told lies unread."""
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(self.unread, self.transport.abort)

    def resume_writing(self) -> None:
        """It is read."""
        super().resume_writing()
        self._read_on()

    def _wait(self) -> None:
        if self._waiting is None and not self.transport.is_closing():
            self._waiting = self.loop.call_later(self.patience, self.transport.abort)

    def _leave(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _read_on(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
