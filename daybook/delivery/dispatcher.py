"""Dispatcher of the outbox: claims due rows, sends them concurrently and records the results.

::

    claim up to MAX_IN_FLIGHT ─► one task a row: callback or channel ─► record, several together
       ▲   fair between queues                                             │
       └────────────────────── when half of them are free ◄────────────────┘

Rows that need Prefect, which holds the signing secrets and the channel blocks, wait while Prefect
does not respond: they stay pending and lose no attempt. Rows for a file or the console are sent
anyway, because they may hold the alert that Prefect is unreachable. A dispatcher that is stopped
records its results and releases the other rows. One that is killed leaves leases; when they
expire, each row is sent again under the same id.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio
import httpx
from sqlmodel import col, select

from daybook import home
from daybook.delivery import backoff, channels, outbox, sending
from daybook.delivery.callbacks import CallbackSender
from daybook.delivery.channels import registry
from daybook.delivery.sending import DeliveryResult
from daybook.errors import Unreachable
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Delivery
from daybook.ledger.tables import OutboxRow, RunRow

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

log = logging.getLogger(__name__)

MAX_IN_FLIGHT = 2 * sending.MAX_IN_FLIGHT_PER_QUEUE
"""Rows that one process sends at a time; a hanging queue occupies at most half of them."""
MAX_BATCH_SIZE = 8
"""Results recorded in one transaction, if so many arrive within `BATCH_WAIT_SECONDS`."""
BATCH_WAIT_SECONDS = 0.02
POLL_INTERVAL_SECONDS = 1.0
"""Interval between claims while no attempt ends: a hanging attempt delays no other row."""
MESSAGE_TIMEOUT_SECONDS = 30.0
"""Timeout of one message to a channel; a callback has its destination's."""
SHUTDOWN_GRACE_SECONDS = 5.0
"""Time in which a stopped dispatcher records its results."""
PREFECT_UNREACHABLE_ERRORS = (Unreachable, httpx.TransportError)
"""Errors that mean that Prefect is unreachable, for an attempt that needs it."""
PREFECT_STATUS_ERROR = httpx.HTTPStatusError
"""The error that means that Prefect responded with an error; guarded requests never raise it."""
_BUILTIN_QUEUES = frozenset(map(outbox.queue_of_channel, registry.BUILTIN))


@dataclass
class DispatchResult:
    """The result of dispatching: the number of rows delivered, failed for good, and to be retried.

    ``ended`` are the runs with a delivered or failed row, once each. ``away`` is true if Prefect
    was unreachable for an attempt that needs it, ``held`` if Prefect responded to one with an
    error.
    """

    delivered: int = 0
    failed: int = 0
    again: int = 0
    ended: dict[str, None] = field(default_factory=dict)
    away: bool = False
    held: bool = False

    def __bool__(self) -> bool:
        return bool(self.delivered or self.failed or self.again)


async def dispatch(
    ledger: Ledger,
    client: PrefectClient,
    holder: str,
    *,
    run_id: str | None = None,
    hurried: bool = False,
    claims_for: float | None = None,
    sent: DispatchResult | None = None,
) -> DispatchResult:
    """Send all due rows, or those of one run, until no more can be sent now.

    If ``hurried``, the process may be cut short: it starts no message to a channel that needs
    Prefect, because the message could arrive twice. A callback can be repeated: its id identifies
    it. After ``claims_for`` seconds no attempt is started. ``holder`` is the name of this process
    in leases. The result is also written to ``sent`` if given, so the caller has it if this raises.
    Raises `LedgerUnreachable`.
    """
    async with CallbackSender(client, ledger.now) as post:
        draining = _Drain(ledger, client, holder, post, sent, hurried=hurried)
        try:
            await draining.work(run_id, claims_for)
        finally:
            await draining.leave()
    return draining.sent


class _Drain:
    def __init__(
        self,
        ledger: Ledger,
        client: PrefectClient,
        holder: str,
        post: CallbackSender,
        sent: DispatchResult | None,
        *,
        hurried: bool,
    ) -> None:
        self._ledger, self._client, self._holder, self._post = ledger, client, holder, post
        self._hurried = hurried
        self.sent = DispatchResult() if sent is None else sent
        self._under_way: dict[asyncio.Task[None], OutboxRow] = {}
        self._tried: list[tuple[OutboxRow, DeliveryResult]] = []
        self._unsent: list[OutboxRow] = []
        self._claiming = True
        self._closed_queues: set[str] = set()
        self._recording: asyncio.Task[None] | None = None
        self._result_arrived = asyncio.Event()

    async def work(self, run_id: str | None, claims_for: float | None) -> None:
        started = time.monotonic()
        while True:
            if claims_for is not None and time.monotonic() - started > claims_for:
                self._claiming = False
            if self._claiming and len(self._under_way) <= MAX_IN_FLIGHT // 2:
                await self._claim(run_id)
            if not (self._under_way or self._tried or self._unsent):
                return
            await self._wait_for_batch()
            await self._record()

    async def _claim(self, run_id: str | None) -> None:
        """Claim rows and start their attempts."""
        most = MAX_IN_FLIGHT - len(self._under_way)
        rows = await sending.claim(
            self._ledger, self._holder, most=most, run_id=run_id, wanted=self._wanted
        )
        self._unsent += rows  # until they are started, so a stop releases them
        run_urls = await self._flow_runs(rows)
        # First the rows that need no Prefect.
        for row in sorted(rows, key=lambda row: not _is_builtin_queue(row.lane)):
            self._unsent.remove(row)
            self._begin(row, run_urls.get(row.run_id or ""))

    def _wanted(self, lane: str) -> bool:
        if lane in self._closed_queues or not outbox.is_dispatched(lane):
            return False
        may_duplicate = self._hurried and outbox.is_channel_queue(lane)
        return _is_builtin_queue(lane) or not (may_duplicate or self.sent.away)

    def _put_off(self, row: OutboxRow, error: Exception) -> None:
        """Close the queue of a row that was not sent, because Prefect did not provide its data."""
        self._closed_queues.add(row.lane)
        if isinstance(error, PREFECT_STATUS_ERROR):
            self.sent.held, problem = True, f"Prefect answered {error.response.status_code}"
        else:
            self.sent.away, problem = True, str(error)
        log.warning("not sent yet: %s", problem, extra={"action": "outbox_away"})

    def _begin(self, row: OutboxRow, url: str | None) -> None:
        task = asyncio.create_task(self._one(row, url))
        self._under_way[task] = row
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        row = self._under_way.pop(task)
        if task.cancelled():
            self._unsent.append(row)
        self._result_arrived.set()

    async def _flow_runs(self, rows: Sequence[OutboxRow]) -> dict[str, str]:
        """Return the URL in Prefect's UI of each message's run, by run id."""
        runs = {row.run_id for row in rows if row.purpose != outbox.CALLBACK and row.run_id}
        if not runs:
            return {}
        query = select(RunRow.id, RunRow.flow_run_id).where(col(RunRow.id).in_(runs))
        async with self._ledger.read() as session:
            pairs = (await session.execute(query)).all()
        address = ui_address()
        if address is None:
            return {}
        return {run: f"{address}/runs/flow-run/{flow_run}" for run, flow_run in pairs if flow_run}

    # --- one attempt

    async def _one(self, row: OutboxRow, url: str | None) -> None:
        try:
            is_callback = row.purpose in (outbox.CALLBACK, outbox.WAKE)
            tried = await (self._post.send(row) if is_callback else self._tell(row, url))
        except (*PREFECT_UNREACHABLE_ERRORS, PREFECT_STATUS_ERROR) as error:
            self._unsent.append(row)
            self._put_off(row, error)
        except Exception as error:
            # The error text may hold anything, such as a URL with its query.
            problem = type(error).__name__
            log.error("%s could not be sent: %s", row.id, problem, extra={"action": "outbox_error"})
            self._tried.append((row, _failed(row, self._ledger, problem, 0.0)))
        else:
            self._tried.append((row, tried))

    async def _tell(self, row: OutboxRow, url: str | None) -> DeliveryResult:
        started, final = time.perf_counter(), False
        try:
            async with asyncio.timeout(MESSAGE_TIMEOUT_SECONDS):
                await channels.send(self._client, row, url)
        except channels.NotDelivered as error:
            problem, final = str(error), not error.temporary
        except TimeoutError:
            problem = f"no end within {MESSAGE_TIMEOUT_SECONDS:g} s; it may have arrived"
        else:
            problem = ""
        seconds = time.perf_counter() - started
        if not problem:
            return DeliveryResult(row.id, row.fence, Delivery.DELIVERED, None, seconds)
        return _failed(row, self._ledger, problem, seconds, ends=final)

    # --- recording

    async def _wait_for_batch(self) -> None:
        """Wait until an attempt ends, and a moment for others that end with it."""
        if not (self._tried or self._unsent or await self._wait_for_result(POLL_INTERVAL_SECONDS)):
            return
        until = time.monotonic() + BATCH_WAIT_SECONDS
        while self._under_way and len(self._tried) < MAX_BATCH_SIZE:
            if not await self._wait_for_result(until - time.monotonic()):
                return

    async def _wait_for_result(self, within: float) -> bool:
        """Return whether another attempt ends within ``within`` seconds."""
        self._result_arrived.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._result_arrived.wait()
        return self._result_arrived.is_set()

    async def _record(self) -> None:
        """Record the results, to the end even if this dispatcher is stopped."""
        if self._recording is None:
            self._recording = asyncio.create_task(self._write())
        await asyncio.shield(self._recording)
        self._recording = None

    async def _write(self) -> None:
        # A result that cannot be written is not written again: its lease expires.
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

    async def leave(self) -> None:
        """Record the results and release the other rows, whatever ended the work."""
        if not (self._under_way or self._tried or self._unsent or self._recording):
            return
        with anyio.CancelScope(shield=True), suppress(TimeoutError, Unreachable):
            async with asyncio.timeout(SHUTDOWN_GRACE_SECONDS):
                tasks = list(self._under_way)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                if self._recording is not None:
                    await self._record()
                await self._record()


def _is_builtin_queue(lane: str) -> bool:
    """Return whether the queue is that of a built-in channel, which needs no Prefect block."""
    return lane.partition("/")[0] in _BUILTIN_QUEUES


def _failed(
    row: OutboxRow, ledger: Ledger, problem: str, seconds: float, *, ends: bool = False
) -> DeliveryResult:
    no_retry = ends or row.purpose == outbox.WAKE
    next_at = (
        None
        if no_retry
        else backoff.next_attempt_at(row, ledger.now(), None, backoff.DEFAULT_ATTEMPTS)
    )
    status = Delivery.FAILED if next_at is None else Delivery.PENDING
    # A row refused for good says nothing about its queue: others may be sent there.
    return DeliveryResult(
        row.id, row.fence, status, next_at, seconds, error=problem, went_out=not ends
    )


def ui_address() -> str | None:
    """Return the address of Prefect's UI, or None if it is not known."""
    from prefect.settings import get_current_settings

    address = (home.current_home().running() or {}).get("ui_url") or get_current_settings().ui_url
    return str(address).rstrip("/") if address else None
