"""Draining the outbox: what is due is claimed, sent, and recorded, many at a time.

::

    claim, up to AT_ONCE ─► one task a row: post, or a channel ─► record, several in a transaction
       ▲   fair by lanes                                              │
       └────────────────────── as soon as half of them are free ◄─────┘

What needs Prefect, which knows who signs and what a channel's block holds, waits while it does not
answer: the rows stay pending, and no try of theirs is used up. What goes to a file or the console
goes all the same: an alert that Prefect is away may be among it. Who is stopped records what he
knows and gives back the rest; who is killed leaves leases, and after those each row is sent again
under the same id.
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
from daybook.delivery.callbacks import Post
from daybook.delivery.channels import registry
from daybook.delivery.sending import Tried
from daybook.errors import Unreachable
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Delivery
from daybook.ledger.tables import OutboxRow, RunRow

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

log = logging.getLogger(__name__)

AT_ONCE = 2 * sending.IN_FLIGHT
"""How many are sent at a time by one process: one that hangs leaves half of it to the others."""
TOGETHER = 8
"""How many are recorded in one transaction, where as many end within `GATHERING`."""
GATHERING = 0.02
LOOK = 1.0
"""Seconds after which it is claimed again although nothing ended: what hangs holds up no other."""
MESSAGE_TIMEOUT = 30.0
"""Seconds for one message to a channel; a callback has its destination's."""
LAST_WORDS = 5.0
"""Seconds in which one who is stopped says what he knows."""
AWAY = (Unreachable, httpx.TransportError)
"""What says that Prefect is not to be reached now, for a try that needs it."""
REFUSES = httpx.HTTPStatusError
"""What says that Prefect answered with an error. No way out raises it."""
_LOCAL = frozenset(map(outbox.lane_of_channel, registry.LOCAL))


@dataclass
class Sent:
    """What a drain has done: how many were delivered, failed for good, are to be tried again.

    ``ended`` are the runs of which something was delivered or failed, once each. ``away`` says that
    Prefect was not there for a try that needs it, ``held`` that it answered one with an error.
    """

    delivered: int = 0
    failed: int = 0
    again: int = 0
    ended: dict[str, None] = field(default_factory=dict)
    away: bool = False
    held: bool = False

    def __bool__(self) -> bool:
        return bool(self.delivered or self.failed or self.again)


async def drain(
    ledger: Ledger,
    client: PrefectClient,
    holder: str,
    *,
    run_id: str | None = None,
    hurried: bool = False,
    claims_for: float | None = None,
    sent: Sent | None = None,
) -> Sent:
    """Send what is due, all or that of one run, until nothing is left that may be sent now.

    Who is ``hurried`` may be cut short, and begins nothing that arrives twice then: a callback has
    an id by which it is known, a message to a channel has none. After ``claims_for`` seconds
    nothing is begun. ``holder`` is the name of this process in leases. What is done is written to
    ``sent`` where it is given, so that it is known when this raises. Raises `LedgerUnreachable`.
    """
    async with Post(client, ledger.now) as post:
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
        post: Post,
        sent: Sent | None,
        *,
        hurried: bool,
    ) -> None:
        self._ledger, self._client, self._holder, self._post = ledger, client, holder, post
        self._hurried = hurried
        self.sent = Sent() if sent is None else sent
        self._under_way: dict[asyncio.Task[None], OutboxRow] = {}
        self._tried: list[tuple[OutboxRow, Tried]] = []
        self._unsent: list[OutboxRow] = []
        self._open = True
        self._shut: set[str] = set()
        self._recording: asyncio.Task[None] | None = None
        self._stirred = asyncio.Event()

    async def work(self, run_id: str | None, claims_for: float | None) -> None:
        began = time.monotonic()
        while True:
            if claims_for is not None and time.monotonic() - began > claims_for:
                self._open = False
            if self._open and len(self._under_way) <= AT_ONCE // 2:
                await self._claim(run_id)
            if not (self._under_way or self._tried or self._unsent):
                return
            await self._gather()
            await self._record()

    async def _claim(self, run_id: str | None) -> None:
        """Begin what may be begun."""
        most = AT_ONCE - len(self._under_way)
        rows = await sending.claim(
            self._ledger, self._holder, most=most, run_id=run_id, wanted=self._wanted
        )
        self._unsent += rows  # until they are begun, so that who is stopped gives them back
        shown = await self._flow_runs(rows)
        # First what needs nobody else.
        for row in sorted(rows, key=lambda row: not _needs_nobody(row.lane)):
            self._unsent.remove(row)
            self._begin(row, shown.get(row.run_id or ""))

    def _wanted(self, lane: str) -> bool:
        if lane in self._shut or not outbox.is_sent(lane):
            return False
        too_long = self._hurried and outbox.is_of_channel(lane)
        return _needs_nobody(lane) or not (too_long or self.sent.away)

    def _put_off(self, row: OutboxRow, error: Exception) -> None:
        """Nothing was sent: Prefect was asked for what sending needs, and did not say it."""
        self._shut.add(row.lane)
        if isinstance(error, REFUSES):
            self.sent.held, told = True, f"Prefect answered {error.response.status_code}"
        else:
            self.sent.away, told = True, str(error)
        log.warning("not sent yet: %s", told, extra={"action": "outbox_away"})

    def _begin(self, row: OutboxRow, url: str | None) -> None:
        task = asyncio.create_task(self._one(row, url))
        self._under_way[task] = row
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        row = self._under_way.pop(task)
        if task.cancelled():
            self._unsent.append(row)
        self._stirred.set()

    async def _flow_runs(self, rows: Sequence[OutboxRow]) -> dict[str, str]:
        """Of messages: where in Prefect's UI the rest can be read, by run."""
        runs = {row.run_id for row in rows if row.purpose != outbox.CALLBACK and row.run_id}
        if not runs:
            return {}
        of_runs = select(RunRow.id, RunRow.flow_run_id).where(col(RunRow.id).in_(runs))
        async with self._ledger.read() as session:
            found = (await session.execute(of_runs)).all()
        address = ui_address()
        if address is None:
            return {}
        return {run: f"{address}/runs/flow-run/{flow_run}" for run, flow_run in found if flow_run}

    # --- one row

    async def _one(self, row: OutboxRow, url: str | None) -> None:
        try:
            posted = row.purpose in (outbox.CALLBACK, outbox.WAKE)
            tried = await (self._post.send(row) if posted else self._tell(row, url))
        except (*AWAY, REFUSES) as error:
            self._unsent.append(row)
            self._put_off(row, error)
        except Exception as error:
            # Its words may hold anything, an address with its query as well.
            what = type(error).__name__
            log.error("%s could not be sent: %s", row.id, what, extra={"action": "outbox_error"})
            self._tried.append((row, _failed(row, self._ledger, what, 0.0)))
        else:
            self._tried.append((row, tried))

    async def _tell(self, row: OutboxRow, url: str | None) -> Tried:
        began, ends = time.perf_counter(), False
        try:
            async with asyncio.timeout(MESSAGE_TIMEOUT):
                await channels.send(self._client, row, url)
        except channels.NotDelivered as error:
            told, ends = str(error), not error.temporary
        except TimeoutError:
            told = f"no end within {MESSAGE_TIMEOUT:g} s; it may have arrived"
        else:
            told = ""
        seconds = time.perf_counter() - began
        if not told:
            return Tried(row.id, row.fence, Delivery.DELIVERED, None, seconds)
        return _failed(row, self._ledger, told, seconds, ends=ends)

    # --- writing it down

    async def _gather(self) -> None:
        """Wait until something ended, and a moment for what ends with it."""
        if not (self._tried or self._unsent or await self._stirs(LOOK)):
            return
        until = time.monotonic() + GATHERING
        while self._under_way and len(self._tried) < TOGETHER:
            if not await self._stirs(until - time.monotonic()):
                return

    async def _stirs(self, within: float) -> bool:
        """Whether one more ends within so many seconds."""
        self._stirred.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._stirred.wait()
        return self._stirred.is_set()

    async def _record(self) -> None:
        """Write down what came of the tries, to the end even where this drain is stopped."""
        if self._recording is None:
            self._recording = asyncio.create_task(self._write())
        await asyncio.shield(self._recording)
        self._recording = None

    async def _write(self) -> None:
        # What cannot be written is not tried again here: its lease runs out.
        tried, self._tried = self._tried, []
        unsent, self._unsent = self._unsent, []
        if tried:
            await sending.record(self._ledger, [each for _, each in tried])
        for row, each in tried:
            self._count(row, each)
        if unsent:
            await sending.release(self._ledger, unsent)

    def _count(self, row: OutboxRow, tried: Tried) -> None:
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
        """Say what is known and give back the rest, whatever ended the work."""
        if not (self._under_way or self._tried or self._unsent or self._recording):
            return
        with anyio.CancelScope(shield=True), suppress(TimeoutError, Unreachable):
            async with asyncio.timeout(LAST_WORDS):
                tasks = list(self._under_way)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                if self._recording is not None:
                    await self._record()
                await self._record()


def _needs_nobody(lane: str) -> bool:
    """Whether it is that of a channel that no block says anything of."""
    return lane.partition("/")[0] in _LOCAL


def _failed(
    row: OutboxRow, ledger: Ledger, told: str, seconds: float, *, ends: bool = False
) -> Tried:
    once = ends or row.purpose == outbox.WAKE
    again = None if once else backoff.next_try(row, ledger.now(), None, backoff.TRIES)
    status = Delivery.FAILED if again is None else Delivery.PENDING
    # What is refused for good says nothing of its lane: others may send there.
    return Tried(row.id, row.fence, status, again, seconds, error=told, went_out=not ends)


def ui_address() -> str | None:
    """Where Prefect's UI is; None where none is known."""
    from prefect.settings import get_current_settings

    found = (home.here().running() or {}).get("ui_url") or get_current_settings().ui_url
    return str(found).rstrip("/") if found else None
