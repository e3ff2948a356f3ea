"""Subscription to Prefect's event stream, which delivers events within milliseconds.

Use events only to shorten a wait. Prefect emits no event when its scheduler inserts runs or when a
user edits a schedule. If several servers use in-memory messaging, a subscriber receives only the
events of its own server.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import NoReturn

from prefect.events import Event
from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventFilter

log = logging.getLogger(__name__)

MAX_RECONNECT_DELAY_SECONDS = 30.0
"""The longest delay before a broken stream is opened again."""
CLOSE_TIMEOUT_SECONDS = 1.0

EventHandler = Callable[[Event], Awaitable[None]]


async def listen(only: EventFilter, handle: EventHandler) -> NoReturn:
    """Call ``handle`` with each event that ``only`` selects, until cancelled.

    If the stream breaks or ``handle`` raises, log the error and open the stream again. Events that
    Prefect emits in between are lost.
    """
    wait = 1.0
    while True:
        started = time.monotonic()
        receiving = asyncio.create_task(_receive(only, handle))
        try:
            await asyncio.wait({receiving})
        finally:
            # Closing a stream may wait for the server's response. This wait must not delay a
            # shutdown, so a second cancellation interrupts it.
            while not receiving.done():
                receiving.cancel()
                await asyncio.wait({receiving}, timeout=CLOSE_TIMEOUT_SECONDS)
        # The end of the stream is not an error, because the callers also poll.
        error = None if receiving.cancelled() else receiving.exception()
        log.info("The event stream ended: %r", error, extra={"action": "events_away"})
        wait = (
            1.0
            if time.monotonic() - started > MAX_RECONNECT_DELAY_SECONDS
            else min(wait * 2, MAX_RECONNECT_DELAY_SECONDS)
        )
        await asyncio.sleep(wait)


async def _receive(only: EventFilter, handle: EventHandler) -> None:
    stream = get_events_subscriber(filter=only, reconnection_attempts=0)
    async with AsyncExitStack() as stack:
        # Registered before the stream is opened, because Prefect does not close a stream whose
        # opening is cancelled or refused.
        stack.push_async_exit(stream)
        await stream.__aenter__()
        async for event in stream:
            await handle(event)
