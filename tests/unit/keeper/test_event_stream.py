"""Prefect's stream of events, at a server that opens it and goes no further."""

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
    """It lets everybody in, and says nothing; or, ``refusing``, that they may not."""

    def __init__(self, *, refusing: bool) -> None:
        self.asked, self.left = asyncio.Event(), asyncio.Event()
        self._refusing = refusing

    async def speak(self, connection: ServerConnection) -> None:
        await connection.recv()  # who it is
        self.asked.set()
        if self._refusing:
            await connection.send('{"type": "auth_failure", "reason": "nobody knows you"}')
        await connection.wait_closed()
        self.left.set()

    def answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """What else is asked, such as for its version."""
        if "Upgrade" in request.headers:
            return None
        return connection.respond(HTTPStatus.NOT_FOUND, "")


@pytest.mark.parametrize("refusing", [False, True], ids=["ended", "refused"])
async def test_what_comes_no_further_than_its_opening_is_closed(refusing: bool) -> None:
    there = Mute(refusing=refusing)

    async def heard(_: object) -> None:
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
            listening = asyncio.create_task(event_stream.listen(EventFilter(), heard))
            await asyncio.wait_for(there.asked.wait(), BUSY)
            if not refusing:
                listening.cancel()
            await asyncio.wait_for(there.left.wait(), BUSY)
            listening.cancel()
            await asyncio.wait({listening})
