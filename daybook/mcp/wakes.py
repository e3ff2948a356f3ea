"""Telling connected clients that task sessions of theirs are woken.

::

    a client subscribes ──► Held ──► connected_until      a lease, renewed in time
                             │
    a cycle writes a row of ─┴─► claim ──► the client ──► delivered
    the lane task-session:…        └── it has gone: failed; the next cycle takes another way

Only while somebody is held is the ledger looked at: each second for what is pending. A client whose
token was removed, or whose session is gone or another's, is let go at the next renewal. Who is
killed leaves sessions that count as connected until their lease is over, and a wake that the cycle
gives up then. One that does not take what it is told delays nobody: each is told by itself, and the
renewals go on beside.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import anyio

from daybook.errors import DaybookError
from daybook.owners import Actor, acting_as
from daybook.timing import TIMING

if TYPE_CHECKING:
    from daybook.delivery.sending import DeliveryResult
    from daybook.ledger.engine import Ledger
    from daybook.ledger.tables import OutboxRow

log = logging.getLogger(__name__)

LOOK = 1.0
"""Seconds between two looks for what is to be told."""
WITHIN = 10.0
"""Seconds in which a client takes what it is told."""
LAST_WORDS = 5.0
"""Seconds in which it is noted that a client has gone."""
AT_ONCE = 100
GONE = "its client has gone"

Opened = Callable[[], "AbstractAsyncContextManager[Ledger]"]
Work = Callable[["Ledger"], Awaitable[None]]


class TooMany(DaybookError):
    """No more clients are held, or no more of this owner."""

    code = "too_many"


@dataclass(eq=False)
class Held:
    """A client that waits to be told of its sessions, of at least one: their URIs by their ids.

    ``allowed`` says whether it may wait on, ``end`` lets it go.
    """

    actor: Actor
    uris: Mapping[str, str]
    tell: Callable[[str], Awaitable[None]]
    allowed: Callable[[], Awaitable[bool]]
    end: Callable[[], None]


class Wakes:
    """Who is told in this process; ``opened`` gives the ledger.

    At most ``most`` at once, and ``share`` of one owner, so that none takes the places of all.
    """

    def __init__(self, opened: Opened, most: int, share: int) -> None:
        self._opened, self._most, self._share = opened, most, share
        self._held: list[Held] = []
        self._at_work: dict[str, asyncio.Task[None]] = {}
        self._telling: set[asyncio.Task[DeliveryResult]] = set()
        self._writes = asyncio.Lock()
        self._name = f"mcp:{socket.gethostname()}:{os.getpid()}"

    @asynccontextmanager
    async def holding(self, held: Held) -> AsyncIterator[None]:
        """Count its sessions as connected inside, and tell it of them.

        Raises `TooMany`, and `LedgerUnreachable`.
        """
        if len(self._held) >= self._most:
            raise TooMany(f"{self._most} clients wait here already; task_next can wait as well")
        if sum(each.actor.owner == held.actor.owner for each in self._held) >= self._share:
            told = (
                f"{self._share} streams of {held.actor.owner} are open already, which is its share"
            )
            raise TooMany(f"{told}; one stream can name several sessions")
        self._held.append(held)
        try:
            with anyio.CancelScope(shield=True):
                async with self._opened() as ledger:
                    await _connected(ledger, held.actor, held.uris, TIMING.subscription_lease)
            for do, every in (
                (self._send, 0.0),
                (self._renew, TIMING.subscription_lease_renewal.total_seconds()),
            ):
                if do.__name__ not in self._at_work:
                    self._at_work[do.__name__] = asyncio.create_task(self._work(do, every))
            yield
        finally:
            self._held.remove(held)
            await self._left(held)

    def end(self) -> None:
        """Let all of them go."""
        for each in list(self._held):
            each.end()

    async def _left(self, held: Held) -> None:
        """Other ways are taken from now on to wake its sessions, and not only once it is missed."""
        with anyio.CancelScope(shield=True), suppress(TimeoutError, DaybookError):
            async with asyncio.timeout(LAST_WORDS), self._writes, self._opened() as ledger:
                if gone := [each for each in held.uris if each not in self._of_sessions()]:
                    await _connected(ledger, held.actor, gone, timedelta(0))

    def _of_sessions(self) -> dict[str, list[Held]]:
        found: dict[str, list[Held]] = {}
        for held in self._held:
            for id_ in held.uris:
                found.setdefault(id_, []).append(held)
        return found

    async def _work(self, do: Work, every: float) -> None:
        """Until nobody is held; it is not cancelled, which might be in the middle of a write."""
        while self._goes_on():
            try:
                async with self._opened() as ledger:
                    await self._again(do, every, ledger)
            except DaybookError as error:
                log.warning("nobody can be woken now: %s", error, extra={"action": "wakes_away"})
            except Exception:
                log.exception("waking failed", extra={"action": "wakes_failed"})
            await asyncio.sleep(LOOK)
        del self._at_work[do.__name__]

    async def _again(self, do: Work, every: float, ledger: Ledger) -> None:
        done = time.monotonic()
        while self._goes_on():
            await asyncio.sleep(LOOK)
            if time.monotonic() - done >= every:
                done = time.monotonic()
                await do(ledger)

    def _goes_on(self) -> bool:
        return bool(self._held or self._telling)

    async def _renew(self, ledger: Ledger) -> None:
        from daybook.tasks import sessions

        for held in list(self._held):
            with acting_as(held.actor):
                async with ledger.read() as session:
                    there = {row.id for row in await sessions.visible_sessions(session)}
            if not there.issuperset(held.uris) or not await held.allowed():
                held.end()
                continue
            async with self._writes:
                if held in self._held:
                    await _connected(ledger, held.actor, held.uris, TIMING.subscription_lease)

    async def _send(self, ledger: Ledger) -> None:
        """Begin to tell what is pending for those that are held now; note what was told."""
        from daybook.delivery import outbox, sending

        lanes = {outbox.queue_of_task_session(id_): id_ for id_ in self._of_sessions()}
        due = await sending.next_due(ledger, lanes.__contains__)
        if due is not None and due <= ledger.now():  # else without a write
            rows = await sending.claim(ledger, self._name, most=AT_ONCE, wanted=lanes.__contains__)
            telling = [self._tell(row, lanes[row.lane]) for row in rows]
            self._telling.update(asyncio.create_task(each) for each in telling)
        if self._telling:  # who takes it at once is noted at once, together
            done, self._telling = await asyncio.wait(self._telling, timeout=LOOK)
            await sending.record(ledger, [each.result() for each in done])

    async def _tell(self, row: OutboxRow, id_: str) -> DeliveryResult:
        """Everybody that is held for the session; delivered if one of them took it."""
        from daybook.delivery.sending import DeliveryResult
        from daybook.ledger.states import Delivery

        began = time.perf_counter()
        held = self._of_sessions().get(id_, ())
        told = any(await asyncio.gather(*(_told(each, id_) for each in held)))
        seconds = time.perf_counter() - began
        if told:
            return DeliveryResult(row.id, row.fence, Delivery.DELIVERED, None, seconds)
        return DeliveryResult(
            row.id, row.fence, Delivery.FAILED, None, seconds, error=GONE, went_out=False
        )


async def _told(held: Held, id_: str) -> bool:
    """Whether it was."""
    try:
        async with asyncio.timeout(WITHIN):
            await held.tell(held.uris[id_])
    except Exception as error:
        log.warning("a client was not told: %r", error, extra={"action": "wake_untold"})
        return False
    return True


async def _connected(ledger: Ledger, actor: Actor, ids: Iterable[str], lease: timedelta) -> None:
    from daybook.tasks import sessions

    with acting_as(actor):
        await sessions.set_connected(ledger, list(ids), ledger.now() + lease)
