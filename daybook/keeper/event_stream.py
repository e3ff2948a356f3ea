"""Prefect's stream of events: heard within milliseconds, as long as it does not break.

Events can only shorten a wait. What a scheduler inserts and what is edited of a schedule emits
none, and with several servers and messaging in memory those of the others never arrive.
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

LONGEST_WAIT = 30.0
"""Seconds: the longest pause before a broken stream is opened again."""
CLOSED_WITHIN = 1.0

Heard = Callable[[Event], Awaitable[None]]


async def listen(only: EventFilter, heard: Heard) -> NoReturn:
    """Call ``heard`` with each such event, until cancelled."""
    wait = 1.0
    while True:
        began = time.monotonic()
        hearing = asyncio.create_task(_hear(only, heard))
        try:
            await asyncio.wait({hearing})
        finally:
            # Closing a stream may wait for the server's answer, and must not hold up who stops:
            # asked a second time it lets go.
            while not hearing.done():
                hearing.cancel()
                await asyncio.wait({hearing}, timeout=CLOSED_WITHIN)
        # Whoever listens looks by itself too.
        why = None if hearing.cancelled() else hearing.exception()
        log.info("no events: %r", why, extra={"action": "events_away"})
        wait = 1.0 if time.monotonic() - began > LONGEST_WAIT else min(wait * 2, LONGEST_WAIT)
        await asyncio.sleep(wait)


async def _hear(only: EventFilter, heard: Heard) -> None:
    stream = get_events_subscriber(filter=only, reconnection_attempts=0)
    async with AsyncExitStack() as stack:
        # Before it is opened: Prefect leaves open what is ended, or refused, while it is.
        stack.push_async_exit(stream)
        await stream.__aenter__()
        async for event in stream:
            await heard(event)
