"""Dispatcher of the outbox: claims due rows, sends them concurrently and records the results.

::

    claim rows ─► one task per row: the sender of its queue's kind ─► record, several together
       ▲   fair between queues                                               │
       └────────────────────── when half of them are free ◄──────────────────┘

    QueueKind     sender                              called by
    ------------  ----------------------------------  ------------------------------------------
    URL           `callbacks.CallbackSender`          the keeper, and the process of a run
    CHANNEL       `outgoing.ChannelSender`            the keeper, and the process of a run
    LISTENER      `listener_calls.ListenerSender`     the keeper, programs that listen, direct calls
    CLIENT        a feature's `mcp.resources`         the MCP server that has the connection

Prefect stores the destinations, with their signing secrets, and the channel blocks. While Prefect
does not respond, rows that need them stay pending, and their attempts are not counted. Rows for a
file or the console are sent anyway, because one of them may be the alert that Prefect is
unreachable. A dispatcher that is stopped records its results and releases the other rows. If a
dispatcher is killed, its rows stay leased. When a lease expires, its row is sent again under the
same id.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import httpx

from daybook.delivery import backoff, outbox, sending
from daybook.delivery.outbox import QueueKind
from daybook.delivery.sending import DeliveryResult
from daybook.errors import Unreachable
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Delivery
from daybook.ledger.tables import OutboxRow
from daybook.processes.ending import wait_shielded

log = logging.getLogger(__name__)

MAX_IN_FLIGHT = 2 * sending.MAX_IN_FLIGHT_PER_QUEUE
"""Maximum number of rows that one `dispatch` sends at a time. One queue occupies at most half."""
MAX_BATCH_SIZE = 8
"""Number of results with which a transaction is full, so that it waits for no further result."""
BATCH_WAIT_SECONDS = 0.02
POLL_INTERVAL_SECONDS = 1.0
"""Interval between two claims while no attempt ends. So a hanging attempt delays no other row."""
SHUTDOWN_GRACE_SECONDS = 5.0
"""Time that a stopped dispatcher waits for its attempts to end, and then for their recording."""
PREFECT_UNREACHABLE_ERRORS = (Unreachable, httpx.TransportError)
"""Errors of an attempt which mean that Prefect is unreachable."""
PREFECT_STATUS_ERROR = httpx.HTTPStatusError
"""The error of a response from Prefect with an error status. Guarded requests never raise it."""


class Sender(Protocol):
    """Adapter that sends the rows of one kind of queue.

    A caller of `dispatch` passes its senders. `outgoing` passes senders of callbacks and channels.
    """

    async def send(self, row: OutboxRow) -> DeliveryResult:
        """Make one attempt, which ends within `Timing.delivery_lease`.

        Raise one of `PREFECT_UNREACHABLE_ERRORS`, or `PREFECT_STATUS_ERROR`, if Prefect did not
        provide the data for the attempt. After these errors, no attempt was made, and the row stays
        pending. Any other error counts as a failed attempt.
        """
        ...


@dataclass
class DispatchResult:
    """The numbers of rows that were delivered, that failed permanently, and that will be retried.

    ``ended`` has the id of each run with a delivered or failed row as a key. If an attempt needed
    Prefect, ``prefect_unreachable`` is true if Prefect was unreachable, and ``held`` is true if
    Prefect responded with an error.
    """

    delivered: int = 0
    failed: int = 0
    again: int = 0
    ended: dict[str, None] = field(default_factory=dict)
    prefect_unreachable: bool = False
    held: bool = False

    def __bool__(self) -> bool:
        return bool(self.delivered or self.failed or self.again)


async def dispatch(
    ledger: Ledger,
    holder: str,
    senders: Mapping[QueueKind, Sender],
    *,
    accepts: Callable[[str], bool] = lambda queue: True,
    run_id: str | None = None,
    claims_for: float | None = None,
    most: int = MAX_IN_FLIGHT,
    sent: DispatchResult | None = None,
) -> DispatchResult:
    """Send all due rows that ``senders`` can send. Return when no such row is left.

    ``run_id`` limits this to the rows of one run, ``accepts`` to the queues for which it is true.
    ``holder`` is the name of this process in leases. Start no attempt after ``claims_for`` seconds,
    and send at most ``most`` rows at a time. The result is also in ``sent``, even after an error.
    If no row is due, write nothing. Raise `LedgerUnreachable`.
    """
    dispatcher = _Dispatcher(ledger, holder, senders, accepts=accepts, most=most, sent=sent)
    try:
        await dispatcher.work(run_id, claims_for)
    finally:
        await dispatcher.close()
    return dispatcher.sent


class _Dispatcher:
    def __init__(
        self,
        ledger: Ledger,
        holder: str,
        senders: Mapping[QueueKind, Sender],
        *,
        accepts: Callable[[str], bool],
        most: int,
        sent: DispatchResult | None,
    ) -> None:
        self._ledger, self._holder, self._senders = ledger, holder, senders
        self._caller_accepts, self._most = accepts, most
        self.sent = DispatchResult() if sent is None else sent
        self._under_way: dict[asyncio.Task[None], OutboxRow] = {}
        self._tried: list[tuple[OutboxRow, DeliveryResult]] = []
        self._unsent: list[OutboxRow] = []
        self._claiming, self._last_claim_found_rows = True, False
        self._closed_queues: set[str] = set()
        self._recording: asyncio.Task[None] | None = None
        self._result_arrived = asyncio.Event()

    async def work(self, run_id: str | None, claims_for: float | None) -> None:
        started = time.monotonic()
        while True:
            if claims_for is not None and time.monotonic() - started > claims_for:
                self._claiming = False
            if self._claiming and len(self._under_way) <= self._most // 2:
                await self._claim(run_id)
            if not (self._under_way or self._tried or self._unsent):
                return
            await self._wait_for_batch()
            await self._record()

    async def _claim(self, run_id: str | None) -> None:
        """Claim rows and start their attempts."""
        if not self._last_claim_found_rows:  # if the last claim found rows, there are probably more
            due = await sending.next_due(self._ledger, self._accepts)
            if due is None or due > self._ledger.now():
                return
        rows: list[OutboxRow] = []
        # The claim completes even if this dispatcher is stopped. Then `close` releases the rows.
        task = asyncio.create_task(self._claim_into(rows, run_id))
        later = asyncio.get_running_loop().call_later
        await wait_shielded(task, cancelled=lambda: later(SHUTDOWN_GRACE_SECONDS, task.cancel))
        self._last_claim_found_rows = bool(rows)
        # Send the rows that do not need Prefect first.
        for row in sorted(rows, key=lambda row: not outbox.is_builtin_queue(row.queue)):
            self._unsent.remove(row)
            attempt = asyncio.create_task(self._attempt(row))
            self._under_way[attempt] = row
            attempt.add_done_callback(self._ended)

    async def _claim_into(self, rows: list[OutboxRow], run_id: str | None) -> None:
        most = self._most - len(self._under_way)
        rows += await sending.claim(
            self._ledger, self._holder, most=most, run_id=run_id, wanted=self._accepts
        )
        self._unsent += rows

    def _accepts(self, queue: str) -> bool:
        if outbox.kind_of_queue(queue) not in self._senders or queue in self._closed_queues:
            return False
        waits_for_prefect = self.sent.prefect_unreachable and not outbox.is_builtin_queue(queue)
        return not waits_for_prefect and self._caller_accepts(queue)

    # --- one attempt

    async def _attempt(self, row: OutboxRow) -> None:
        try:
            tried = await self._senders[outbox.kind_of_queue(row.queue)].send(row)
        except (*PREFECT_UNREACHABLE_ERRORS, PREFECT_STATUS_ERROR) as error:
            self._unsent.append(row)
            self._close_queue(row.queue, error)
        except Exception as error:
            # The text of the error may contain anything, such as a URL with its query.
            problem = type(error).__name__
            log.error("Could not send %s: %s", row.id, problem, extra={"action": "outbox_error"})
            self._tried.append((row, backoff.failed(row, self._ledger.now(), problem, 0.0)))
        else:
            self._tried.append((row, tried))

    def _close_queue(self, queue: str, error: Exception) -> None:
        """Stop sending the queue's rows, because Prefect did not provide data for a row."""
        self._closed_queues.add(queue)
        if isinstance(error, PREFECT_STATUS_ERROR):
            self.sent.held, problem = True, f"Prefect answered {error.response.status_code}"
        else:
            self.sent.prefect_unreachable, problem = True, str(error)
        log.warning(
            "Callbacks and messages wait: %s", problem, extra={"action": "delivery_delayed"}
        )

    def _ended(self, attempt: asyncio.Task[None]) -> None:
        row = self._under_way.pop(attempt)
        if attempt.cancelled():
            self._unsent.append(row)
        self._result_arrived.set()

    # --- recording

    async def _wait_for_batch(self) -> None:
        """Wait until an attempt ends, and then briefly for attempts that end soon after it."""
        if not (self._tried or self._unsent or await self._wait_for_result(POLL_INTERVAL_SECONDS)):
            return
        until = time.monotonic() + BATCH_WAIT_SECONDS
        while self._under_way and len(self._tried) < MAX_BATCH_SIZE:
            if not await self._wait_for_result(until - time.monotonic()):
                return

    async def _wait_for_result(self, within: float) -> bool:
        """Wait for another attempt to end. Return whether one ended within ``within`` seconds."""
        self._result_arrived.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._result_arrived.wait()
        return self._result_arrived.is_set()

    async def _record(self) -> None:
        """Record the results. The transaction completes even if this dispatcher is stopped."""
        if self._recording is None:
            self._recording = asyncio.create_task(self._write())
        try:
            await asyncio.shield(self._recording)
        finally:
            if self._recording.done():
                self._recording = None

    async def _write(self) -> None:
        # If a result cannot be written, it is not written later, and the lease of its row expires.
        tried, self._tried = self._tried, []
        unsent, self._unsent = self._unsent, []
        if tried:
            await sending.record(self._ledger, [each for _, each in tried])
        for row, each in tried:
            self._count(row, each)
        if unsent:
            await sending.release(self._ledger, unsent)

    def _count(self, row: OutboxRow, tried: DeliveryResult) -> None:
        match tried.status:
            case Delivery.DELIVERED:
                self.sent.delivered += 1
            case Delivery.FAILED:
                self.sent.failed += 1
            case _:
                self.sent.again += 1
        if tried.error:
            log.info("%s: %s", row.id, tried.error, extra={"action": "not_delivered"})
        if row.run_id and tried.status is not Delivery.PENDING:
            self.sent.ended[row.run_id] = None

    async def close(self) -> None:
        """Record the results and release the unsent rows, even after a cancellation.

        If the results cannot be recorded, the rows are not released, and their leases expire.
        """
        if self._under_way or self._tried or self._unsent or self._recording:
            await wait_shielded(asyncio.create_task(self._close()))

    async def _close(self) -> None:
        # A cancellation does not stop a message to a channel, which would then be sent again.
        to_channels = [
            attempt
            for attempt, row in self._under_way.items()
            if outbox.kind_of_queue(row.queue) is QueueKind.CHANNEL
        ]
        if to_channels:
            await asyncio.wait(to_channels, timeout=SHUTDOWN_GRACE_SECONDS)
        attempts = list(self._under_way)
        for attempt in attempts:
            attempt.cancel()
        if attempts:  # an attempt that does not end keeps its lease, and the others are recorded
            await asyncio.wait(attempts, timeout=SHUTDOWN_GRACE_SECONDS)
        with suppress(TimeoutError):
            async with asyncio.timeout(SHUTDOWN_GRACE_SECONDS):
                for _ in range(2):  # if a recording is in progress, wait for it first
                    with suppress(Unreachable):
                        await self._record()
