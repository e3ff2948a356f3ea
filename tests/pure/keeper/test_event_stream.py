"""Prefect's event stream from a server that accepts the connection but sends no event."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

import pytest
from prefect.events.filters import EventFilter
from prefect.settings import PREFECT_API_URL, temporary_settings
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from daybook.keeper import event_stream

pytestmark = pytest.mark.anyio

BUSY = 60.0


class Mute:
    """Server that accepts connections and is silent; if ``refusing``, it refuses the login."""

    def __init__(self, *, refusing: bool) -> None:
        self.asked, self.left = asyncio.Event(), asyncio.Event()
        self._refusing = refusing

    async def speak(self, connection: ServerConnection) -> None:
        await connection.recv()  # the login
        self.asked.set()
        if self._refusing:
            await connection.send('{"type": "auth_failure", "reason": "unknown user"}')
        await connection.wait_closed()
        self.left.set()

    def answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer all other requests, such as for the version, with 404."""
        if "Upgrade" in request.headers:
            return None
        return connection.respond(HTTPStatus.NOT_FOUND, "")


@pytest.mark.parametrize("refusing", [False, True], ids=["ended", "refused"])
async def test_a_connection_that_is_cancelled_or_refused_while_opening_is_closed(
    refusing: bool,
) -> None:
    there = Mute(refusing=refusing)

    async def receive(_: object) -> None:
        pytest.fail("nothing was said")

    async with serve(
        there.speak,
        "127.0.0.1",
        0,
        subprotocols=[Subprotocol("prefect")],
        process_request=there.answer,
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}):
            listening = asyncio.create_task(event_stream.listen(EventFilter(), receive))
            await asyncio.wait_for(there.asked.wait(), BUSY)
            if not refusing:
                listening.cancel()
            await asyncio.wait_for(there.left.wait(), BUSY)
            listening.cancel()
            await asyncio.wait({listening})
