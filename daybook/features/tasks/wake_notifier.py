"""Notifications to connected clients when Daybook wakes their task sessions.

::

    a client subscribes ──► Subscription ──► connected_until      a lease, renewed in time
                             │
    a cycle writes a row of ─┴─► claim ──► the client ──► delivered
    the destination queue          └── not accepted: failed; the next cycle may wake it again
    task-session:…

While there are subscriptions, the process polls the ledger for pending rows every second. When the
process renews the lease of a subscription, it ends the subscription if the token was removed, or if
the session was deleted or belongs to another owner. If the process is killed, its sessions count as
connected until their lease ends. A later cycle withdraws the wakes that the process did not send.
Each client is notified in a task of its own. So a client that does not read delays neither another
client nor a renewal.
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
from daybook.ledger.states import Delivery
from daybook.owners import Actor, acting_as
from daybook.timing import TIMING

if TYPE_CHECKING:
    from daybook.delivery.sending import DeliveryResult
    from daybook.ledger.engine import Ledger
    from daybook.ledger.tables import OutboxRow

log = logging.getLogger(__name__)

POLL_INTERVAL_SECONDS = 1.0
"""Interval between two queries for pending rows."""
NOTIFY_TIMEOUT_SECONDS = 10.0
"""Maximum time for a client to accept a notification."""
DISCONNECT_TIMEOUT_SECONDS = 5.0
"""Maximum time to record that a client has disconnected."""
MAX_WAKES_IN_FLIGHT = 2_000
"""Maximum number of wakes that are sent at the same time.

This is twice the maximum number of sessions of all clients (`mcp.http.MAX_STREAMS`
× `resources.MAX_URIS`). So clients that do not read cannot block the wakes of other clients.
"""
CLIENT_GONE_REASON = "its client disconnected"

OpenLedger = Callable[[], "AbstractAsyncContextManager[Ledger]"]
Work = Callable[["Ledger"], Awaitable[None]]


class TooManyClients(DaybookError):
    """The maximum number of subscriptions is reached, in total or for one owner."""

    code = "too_many"


@dataclass(eq=False)
class Subscription:
    """A client's subscription to at least one session of its actor.

    ``uris`` has the URIs of the sessions, by session id. ``allowed`` returns whether the client may
    stay subscribed, and ``end`` ends its subscription.
    """

    actor: Actor
    uris: Mapping[str, str]
    notify: Callable[[str], Awaitable[None]]
    allowed: Callable[[], Awaitable[bool]]
    end: Callable[[], None]


class WakeNotifier:
    """The subscriptions of this process, and their notifications. ``opened`` opens the ledger.

    There are at most ``most`` concurrent subscriptions, and at most ``share`` for each owner, so
    that no owner can use all of them.
    """

    def __init__(self, opened: OpenLedger, most: int, share: int) -> None:
        self._opened, self._most, self._most_per_owner = opened, most, share
        self._held: list[Subscription] = []
        self._at_work: dict[str, asyncio.Task[None]] = {}
        self._writes = asyncio.Lock()
        self._name = f"mcp:{socket.gethostname()}:{os.getpid()}"

    @asynccontextmanager
    async def holding(self, held: Subscription) -> AsyncIterator[None]:
        """Count the sessions as connected inside the context, and notify the client of their wakes.

        Raise `TooManyClients` and `LedgerUnreachable`.
        """
        if len(self._held) >= self._most:
            raise TooManyClients(
                f"the maximum of {self._most} clients is reached; call task_next with wait_seconds"
            )
        if sum(each.actor.owner == held.actor.owner for each in self._held) >= self._most_per_owner:
            message = (
                f"{held.actor.owner} already has {self._most_per_owner} open streams, the maximum "
                "for one owner"
            )
            raise TooManyClients(f"{message}; one stream can cover several sessions")
        self._held.append(held)
        try:
            with anyio.CancelScope(shield=True):
                async with self._opened() as ledger:
                    await _set_connected_until(
                        ledger, held.actor, held.uris, TIMING.subscription_lease
                    )
            for work, interval in (
                (self._send, 0.0),
                (self._renew, TIMING.subscription_lease_renewal.total_seconds()),
                (self._restore, 0.0),
            ):
                if work.__name__ not in self._at_work:
                    self._at_work[work.__name__] = asyncio.create_task(self._work(work, interval))
            yield
        finally:
            self._held.remove(held)
            await self._mark_disconnected(held)

    def end(self) -> None:
        """End all subscriptions."""
        for each in list(self._held):
            each.end()

    async def _mark_disconnected(self, held: Subscription) -> None:
        """Mark the sessions as disconnected now, so that no wake is sent over this connection.

        A session stays connected if another subscription of this process covers it. If another
        process covers the session, that process marks it as connected again within seconds
        (`_restore`).
        """
        with anyio.CancelScope(shield=True), suppress(TimeoutError, DaybookError):
            async with (
                asyncio.timeout(DISCONNECT_TIMEOUT_SECONDS),
                self._writes,
                self._opened() as ledger,
            ):
                if ids := [each for each in held.uris if each not in self._by_session()]:
                    await _set_connected_until(ledger, held.actor, ids, timedelta(0))

    def _by_session(self) -> dict[str, list[Subscription]]:
        by_session: dict[str, list[Subscription]] = {}
        for held in self._held:
            for id_ in held.uris:
                by_session.setdefault(id_, []).append(held)
        return by_session

    async def _work(self, do: Work, every: float) -> None:
        """Call ``do`` every ``every`` seconds while there are subscriptions.

        Never cancel this function during a write.
        """
        while self._is_needed():
            try:
                async with self._opened() as ledger:
                    await self._repeat(do, every, ledger)
            except DaybookError as error:
                log.warning("cannot wake clients now: %s", error, extra={"action": "wakes_delayed"})
            except Exception:
                log.exception("waking failed", extra={"action": "wakes_failed"})
            await asyncio.sleep(POLL_INTERVAL_SECONDS)
        del self._at_work[do.__name__]

    async def _repeat(self, do: Work, every: float, ledger: Ledger) -> None:
        done = time.monotonic()
        while self._is_needed():
            await asyncio.sleep(POLL_INTERVAL_SECONDS)
            if time.monotonic() - done >= every:
                done = time.monotonic()
                await do(ledger)

    def _is_needed(self) -> bool:
        return bool(self._held)

    async def _renew(self, ledger: Ledger) -> None:
        from daybook.features.tasks import sessions

        for subscription in list(self._held):
            with acting_as(subscription.actor):
                async with ledger.read() as session:
                    session_ids = {row.id for row in await sessions.visible_sessions(session)}
            if not session_ids.issuperset(subscription.uris) or not await subscription.allowed():
                subscription.end()
                continue
            async with self._writes:
                if subscription in self._held:
                    await _set_connected_until(
                        ledger, subscription.actor, subscription.uris, TIMING.subscription_lease
                    )

    async def _restore(self, ledger: Ledger) -> None:
        """Mark sessions as connected again if another process has marked them as disconnected.

        That process has lost its own connection to a session, but this process is still connected.
        """
        from daybook.features.tasks import sessions

        async with ledger.read() as session:
            missing = await sessions.disconnected(session, self._by_session(), ledger.now())
        for subscription in list(self._held):
            ids = missing.intersection(subscription.uris)
            async with self._writes:
                if ids and subscription in self._held:
                    await _set_connected_until(
                        ledger, subscription.actor, ids, TIMING.subscription_lease
                    )

    async def _send(self, ledger: Ledger) -> None:
        """Deliver the pending rows of the current subscriptions."""
        from daybook.delivery import dispatcher
        from daybook.delivery.outbox import QueueKind

        def accepts(queue: str) -> bool:
            session_id = queue.removeprefix(QueueKind.CLIENT)
            return session_id != queue and any(session_id in each.uris for each in self._held)

        await dispatcher.dispatch(
            ledger,
            self._name,
            {QueueKind.CLIENT: self},
            accepts=accepts,
            most=MAX_WAKES_IN_FLIGHT,
        )

    async def send(self, row: OutboxRow) -> DeliveryResult:
        """Notify all subscribers of the row's session. If any accepts it, the wake is delivered."""
        from daybook.delivery.outbox import QueueKind
        from daybook.delivery.sending import DeliveryResult

        started_at, id_ = time.perf_counter(), row.queue.removeprefix(QueueKind.CLIENT)
        subscriptions = self._by_session().get(id_, ())
        delivered = any(await asyncio.gather(*(_notified(each, id_) for each in subscriptions)))
        seconds = time.perf_counter() - started_at
        status = Delivery.DELIVERED if delivered else Delivery.FAILED
        error = "" if delivered else CLIENT_GONE_REASON
        return DeliveryResult(
            row.id, row.fence, status, None, seconds, error=error, went_out=delivered
        )


async def _notified(held: Subscription, id_: str) -> bool:
    """Notify one client. Return whether the client accepted the notification."""
    try:
        async with asyncio.timeout(NOTIFY_TIMEOUT_SECONDS):
            await held.notify(held.uris[id_])
    except Exception as error:
        log.warning("failed to notify a client: %r", error, extra={"action": "wake_not_delivered"})
        return False
    return True


async def _set_connected_until(
    ledger: Ledger, actor: Actor, ids: Iterable[str], lease: timedelta
) -> None:
    from daybook.features.tasks import sessions

    with acting_as(actor):
        await sessions.set_connected(ledger, list(ids), ledger.now() + lease)
