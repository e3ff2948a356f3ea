"""Claims of due outbox rows, and the results of sending them.

::

    claim ──► OutboxRow, with lease and fencing token      one transaction, many rows
      │ send                                               no transaction at all
      ▼
    record ──► delivered                                   fenced, one transaction, many rows
          ├──► pending until `next_at`                     a failed attempt; the caller sets it
          ├──► pending as `pending.postpone` stored it      no attempt was made
          └──► failed                                      the last attempt; reported in the inbox
    release ──► pending, as before the claim
    killed ───► the lease expires; the next claim sends the row again under the same id
    retry ────► pending: its attempts and `MAX_DELIVERY_AGE` start over
    its account works again ─► pending and due (`pending.send_now`)

A destination queue (column ``queue``) groups the rows for one destination that may be unavailable
as a whole: a URL, or a chat of a channel. The number of rows that are sent at a time is limited for
each queue, and the queues take turns. So a hanging destination delays the others by one attempt at
most. After `FAILURES_BEFORE_PAUSE` failures in a row, a queue is paused. Its rows then wait,
without using up attempts. After the pause, one row is sent as a probe. A success resets the queue,
and a failed probe doubles the pause, up to `MAX_PAUSE`.

If a destination has accepted nothing for `MAX_DELIVERY_AGE`, each failed attempt also fails the
waiting rows of at least that age: with one probe after each `MAX_PAUSE`, most would never be sent.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain, islice, zip_longest
from typing import Any

from sqlalchemy import ColumnElement, Select, bindparam, func, or_, union_all, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.delivery import outbox
from daybook.delivery.outbox import PENDING
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Delivery
from daybook.ledger.tables import OutboxRow, QueueRow
from daybook.timing import TIMING

log = logging.getLogger(__name__)


MAX_IN_FLIGHT_PER_QUEUE = 32
"""Maximum number of rows of a queue that all processes together send at a time."""
MAX_IN_FLIGHT_AFTER_FAILURE = 4
"""The same maximum after a failed attempt. During a pause it is 0, and for the probe it is 1."""

FAILURES_BEFORE_PAUSE = 5
"""Number of failed attempts in a row after which a queue is paused."""
MIN_PAUSE = timedelta(seconds=30)
MAX_PAUSE = timedelta(minutes=10)

MAX_DELIVERY_AGE = timedelta(hours=24)
"""Age at which a row is no longer retried, even if it has attempts left.

It is also the time without a success after which a queue's waiting rows of this age fail.
"""
MAX_BATCH_SIZE = 500
"""Maximum number of rows that one transaction retries, or marks as failed for one queue."""

CLOCK_SKEW_GRACE = timedelta(minutes=1)
"""Tolerated difference between clocks.

If a pause or lease exceeds its maximum by more than this difference, it was written before the
clock was set back, and counts as over.
"""

GONE_STATUS = 410
"""The status by which a recipient refuses all later requests to this URL."""

MAX_RECORDED_ATTEMPTS = 12

MAX_QUEUES_PER_QUERY = 100
"""Maximum number of queues whose rows one statement reads."""

_IN_ORDER = col(OutboxRow.next_at), col(OutboxRow.created_at)
"""Order of the rows of a queue. Rows that were postponed until the same instant keep theirs."""


@dataclass(frozen=True)
class DeliveryResult:
    """The result of sending one row: delivered, pending (retried at ``next_at``), or failed.

    ``seconds`` is the duration of the attempt. ``note`` is stored with the row. ``went_out`` is
    false if a failure concerns this row only, for example because Daybook refused to send it. Such
    a failure does not count for the queue, because other rows of the queue may be sent.
    With ``is_postponed``, no attempt was made: the row keeps what `pending.postpone` has stored,
    and waits for the reason ``error``.
    """

    id: str
    fence: int
    status: Delivery
    next_at: datetime | None
    seconds: float
    status_code: int | None = None
    error: str = ""
    note: str = ""
    went_out: bool = True
    is_postponed: bool = False


# --- claim


async def claim(
    ledger: Ledger,
    holder: str,
    *,
    most: int,
    run_id: str | None = None,
    wanted: Callable[[str], bool] | None = None,
) -> list[OutboxRow]:
    """Claim at most ``most`` due rows, of one run or of all runs. Return them for sending.

    ``wanted`` returns whether the caller can send to the queue with this name now. The returned
    rows are detached from the session. With ``run_id``, they are ordered by `next_at`; otherwise
    the queues take turns. Due rows of the inbox are marked as delivered and are not returned. Raise
    `LedgerUnreachable`.
    """
    async with ledger.write() as session:
        now = ledger.now()
        await _deliver_to_inbox(session, now)
        queues = await _load_queues(session)
        room = _Capacity(queues, await in_flight(session, now), now, wanted)
        if run_id is None:
            chosen = await _choose_in_turns(session, room, most, now)
        else:
            chosen = await _choose_of_run(session, room, run_id, most, now)
        if not chosen:
            return []
        update_claimed = update(OutboxRow).where(col(OutboxRow.id).in_(chosen))
        await session.execute(
            update_claimed.values(
                holder=holder, fence=OutboxRow.fence + 1, lease_until=now + TIMING.delivery_lease
            ),
            execution_options={"synchronize_session": False},
        )
        rows = select(OutboxRow).where(col(OutboxRow.id).in_(chosen))
        rows_by_id = {row.id: row for row in (await session.execute(rows)).scalars()}
        session.expunge_all()
        return [rows_by_id[each] for each in chosen]


class _Capacity:
    """The number of further rows that may be sent at the same time, by queue."""

    def __init__(
        self,
        queues: dict[str, QueueRow],
        flying: dict[str, int],
        now: datetime,
        wanted: Callable[[str], bool] | None = None,
    ) -> None:
        self._queues, self._flying, self._now, self._wanted = queues, flying, now, wanted

    def of(self, queue: str) -> int:
        if self._wanted is not None and not self._wanted(queue):
            return 0
        most = self._most(self._queues.get(queue))
        if outbox.is_ordered_queue(queue):
            most = min(most, 1)
        return most - self._flying.get(queue, 0)

    def _most(self, state: QueueRow | None) -> int:
        if state is None:
            return MAX_IN_FLIGHT_PER_QUEUE
        if state.paused_until is None:
            return MAX_IN_FLIGHT_AFTER_FAILURE
        return 0 if _paused_until(state, self._now) else 1


def _paused_until(state: QueueRow | None, now: datetime) -> datetime | None:
    """Return the end of the queue's pause. Return None if the queue is not paused."""
    until = state.paused_until if state else None
    return until if until and now < until <= now + MAX_PAUSE + CLOCK_SKEW_GRACE else None


def _leased(now: datetime) -> ColumnElement[bool]:
    """Return the condition that a process is sending the row."""
    leased = col(OutboxRow.lease_until)
    return (leased > now) & (leased <= now + TIMING.delivery_lease + CLOCK_SKEW_GRACE)


def _free(now: datetime) -> ColumnElement[bool]:
    """Return the condition that the row is pending and no process is sending it."""
    return PENDING & or_(col(OutboxRow.lease_until).is_(None), ~_leased(now))


def retryable() -> ColumnElement[bool]:
    """Return the condition that the row failed, and is no wake, which a later cycle replaces."""
    failed = col(OutboxRow.status) == outbox.sql_literal(Delivery.FAILED)
    return failed & (col(OutboxRow.purpose) != outbox.WAKE)


async def _choose_in_turns(
    session: AsyncSession, room: _Capacity, most: int, now: datetime
) -> list[str]:
    first = [each for each in await _first_of_queues(session, now) if each[1] <= now]
    open_queues = [(queue, id_) for queue, _, id_ in sorted(first, key=lambda each: each[1])]
    open_queues = [(queue, id_) for queue, id_ in open_queues if room.of(queue) > 0]
    if not open_queues or len(open_queues) >= most:
        return [id_ for _, id_ in open_queues[:most]]
    turns: dict[str, list[str]] = {queue: [] for queue, _ in open_queues}
    share = 2 * -(-most // len(turns))  # if some queues have fewer rows, others may send more
    for start in range(0, len(turns), MAX_QUEUES_PER_QUERY):
        batch = islice(turns, start, start + MAX_QUEUES_PER_QUERY)
        due = [_due_in_queue(queue, now, min(room.of(queue), share)).subquery() for queue in batch]
        found = union_all(*(select(each.c.queue, each.c.id, each.c.next_at) for each in due))
        rows = sorted((await session.execute(found)).tuples(), key=lambda row: row[2])
        for queue, id_, _ in rows:
            turns[queue].append(id_)
    in_turns = chain.from_iterable(zip_longest(*turns.values()))
    return [each for each in in_turns if each is not None][:most]


def _due_in_queue(queue: str, now: datetime, most: int) -> Select[tuple[str, str, datetime]]:
    return (
        select(OutboxRow.queue, OutboxRow.id, OutboxRow.next_at)
        .where(_free(now), col(OutboxRow.queue) == queue, col(OutboxRow.next_at) <= now)
        .order_by(*_IN_ORDER)
        .limit(most)
    )


async def _choose_of_run(
    session: AsyncSession, room: _Capacity, run_id: str, most: int, now: datetime
) -> list[str]:
    due = (
        select(OutboxRow.id, OutboxRow.queue)
        .where(_free(now), col(OutboxRow.run_id) == run_id, col(OutboxRow.next_at) <= now)
        .order_by(*_IN_ORDER, col(OutboxRow.id))
    )
    chosen: list[str] = []
    per_queue: dict[str, int] = defaultdict(int)
    for id_, queue in (await session.execute(due)).tuples():
        per_queue[queue] += 1
        if per_queue[queue] <= room.of(queue):
            chosen.append(id_)
    return chosen[:most]


async def _first_of_queues(
    session: AsyncSession, now: datetime
) -> Sequence[tuple[str, datetime, str]]:
    """Return the earliest free row of each queue: queue, `next_at`, id.

    The query goes from queue to queue in the index, so a queue with ten thousand rows costs as much
    as a queue with one row.
    """
    queue = col(OutboxRow.queue)
    queues = select(func.min(queue).label("queue")).where(PENDING).cte("found", recursive=True)
    following = select(func.min(queue)).where(PENDING, queue > queues.c.queue).scalar_subquery()
    queues = queues.union_all(select(following).where(queues.c.queue.is_not(None)))
    earliest = (
        select(OutboxRow.id)
        .where(_free(now), queue == queues.c.queue)
        .order_by(*_IN_ORDER)
        .limit(1)
        .correlate(queues)
        .scalar_subquery()
    )
    joined = select(queues.c.queue, OutboxRow.next_at, OutboxRow.id).join(
        OutboxRow, col(OutboxRow.id) == earliest
    )
    return (await session.execute(joined)).tuples().all()


async def _load_queues(session: AsyncSession) -> dict[str, QueueRow]:
    return {row.queue: row for row in (await session.execute(select(QueueRow))).scalars()}


async def in_flight(session: AsyncSession, now: datetime) -> dict[str, int]:
    """Return the number of rows that processes are sending, by queue."""
    leased = (
        select(OutboxRow.queue, func.count()).where(_leased(now)).group_by(col(OutboxRow.queue))
    )
    return dict((await session.execute(leased)).tuples().all())


async def _deliver_to_inbox(session: AsyncSession, now: datetime) -> None:
    """Mark the due rows of the inbox as delivered, because they need no sender."""
    due = select(OutboxRow).where(
        PENDING,
        col(OutboxRow.queue) == outbox.queue_of_channel(outbox.INBOX),
        col(OutboxRow.next_at) <= now,
    )
    rows = (await session.execute(due)).scalars().all()
    for row in rows:
        row.status, row.finished_at = Delivery.DELIVERED, now
        session.add(row)
    await outbox.refresh_deliveries(session, {row.run_id for row in rows if row.run_id})


async def next_due(ledger: Ledger, wanted: Callable[[str], bool] | None = None) -> datetime | None:
    """Return when a row of a ``wanted`` queue, by default any, may first be claimed; or None."""
    return min((await due_times_by_queue(ledger, wanted)).values(), default=None)


async def due_times_by_queue(
    ledger: Ledger, wanted: Callable[[str], bool] | None = None
) -> dict[str, datetime]:
    """Return the time as in `next_due` for each wanted queue with pending rows. Write nothing."""
    async with ledger.read() as session:
        now = ledger.now()
        pending = await session.execute(select(OutboxRow.id).where(PENDING).limit(1))
        if pending.first() is None:
            return {}
        queues = await _load_queues(session)
        room = _Capacity(queues, await in_flight(session, now), now, wanted)
        leases = (
            select(OutboxRow.queue, func.min(OutboxRow.lease_until))
            .where(_leased(now))
            .group_by(col(OutboxRow.queue))
        )
        times: dict[str, datetime] = {}
        for queue, until in (await session.execute(leases)).tuples():
            if wanted is not None and not wanted(queue):
                continue
            times[queue] = max(until, _paused_until(queues.get(queue), now) or until)
        for queue, at, _ in await _first_of_queues(session, now):
            if wanted is not None and not wanted(queue):
                continue
            opens = max(at, _paused_until(queues.get(queue), now) or at)
            if (
                opens > now or room.of(queue) > 0
            ):  # else the rows that are being sent must end first
                times[queue] = min(opens, times.get(queue, opens))
    return times


# --- record


async def record(ledger: Ledger, tried: Sequence[DeliveryResult]) -> None:
    """Record the results. Skip rows that were claimed again or are no longer pending."""
    if not tried:
        return
    async with ledger.write() as session:
        await _Recording(session, ledger.now(), await _load_queues(session)).write(tried)


class _Recording:
    """One transaction of `record`."""

    def __init__(self, session: AsyncSession, now: datetime, queues: dict[str, QueueRow]) -> None:
        self.session, self.now, self.queues = session, now, queues
        self.changed: set[str] = set()
        self.down: dict[str, str] = {}
        self.failed: dict[str, list[str]] = defaultdict(list)

    async def write(self, tried: Sequence[DeliveryResult]) -> None:
        rows = await self._known(tried)
        changes, runs = [], set()
        for each in tried:
            row = rows.pop(each.id, None)
            if row is None or row.fence != each.fence or row.status != Delivery.PENDING:
                log.warning(
                    "Ignoring the result of %s: another process has claimed it",
                    each.id,
                    extra={"action": "sending_refused"},
                )
                continue
            changes.append(self._change(row, each))
            if each.went_out and not each.is_postponed:
                self._update_queue(row.queue, each)
            if row.run_id is not None and row.purpose in outbox.COUNTED_PURPOSES:
                runs.add(row.run_id)
            if each.status is Delivery.FAILED and row.purpose != outbox.WAKE:
                self.failed[row.queue].append(each.error or "")
        if changes:
            await _update_many(self.session, changes)
        await self._save_queues()
        for queue in self.down:
            runs |= await self._give_up(queue)
        for queue, errors in self.failed.items():
            await self._report_undelivered(queue, errors[-1])
        await outbox.refresh_deliveries(self.session, runs)

    async def _known(self, tried: Sequence[DeliveryResult]) -> dict[str, Any]:
        """Return the rows of the results, by id, without their bodies."""
        columns = ("id", "fence", "status", "attempts", "tries", "queue", "run_id", "purpose")
        rows = select(*(getattr(OutboxRow, name) for name in (*columns, "note", "next_at"))).where(
            col(OutboxRow.id).in_([each.id for each in tried])
        )
        return {row.id: row for row in await self.session.execute(rows)}

    def _change(self, row: Any, each: DeliveryResult) -> dict[str, Any]:
        last = {
            "at": self.now.isoformat(),
            "seconds": round(each.seconds, 3),
            "status_code": each.status_code,
            "error": each.error,
        }
        ended = each.status is not Delivery.PENDING
        is_attempt = not each.is_postponed
        tries = [*row.tries, last] if is_attempt else row.tries
        return {
            "row_id": row.id,
            "status": each.status.value,
            "attempts": row.attempts + is_attempt,
            "tries": tries[-MAX_RECORDED_ATTEMPTS:],
            "next_at": row.next_at if each.is_postponed else each.next_at or self.now,
            "finished_at": self.now if ended else None,
            "error": None if each.status is Delivery.DELIVERED else each.error,
            "note": each.note or row.note,
            "holder": "",
            "lease_until": None,
        }

    def _update_queue(self, queue: str, each: DeliveryResult) -> None:
        """Update the queue's state after an attempt. A 410 (gone) resets it like a success."""
        state = self.queues.setdefault(queue, QueueRow(queue=queue, since=self.now))
        self.changed.add(queue)
        if each.status is Delivery.DELIVERED or each.status_code == GONE_STATUS:
            state.failures, state.paused_until = 0, None
            self.down.pop(queue, None)
            return
        if not state.failures or state.since > self.now:  # the first failure; a clock set back
            state.since = self.now
        state.error = each.error
        if state.since <= self.now - MAX_DELIVERY_AGE:
            self.down[queue] = each.error
        # During a pause, only rows that were already being sent when it started can fail. Do not
        # count them.
        if _paused_until(state, self.now) is None:
            state.failures += 1
            if state.failures >= FAILURES_BEFORE_PAUSE:
                longer = MIN_PAUSE * 2 ** min(state.failures - FAILURES_BEFORE_PAUSE, 10)
                state.paused_until = self.now + min(longer, MAX_PAUSE)

    async def _save_queues(self) -> None:
        for state in (self.queues[queue] for queue in self.changed):
            if state.failures:
                self.session.add(state)
            elif state in self.session:
                await self.session.delete(state)

    async def _give_up(self, queue: str) -> set[str]:
        """Fail the old rows of an unavailable queue. Return the runs whose `delivery` changes."""
        started = func.coalesce(OutboxRow.retried_at, OutboxRow.created_at)
        old_rows = (
            select(OutboxRow.id, OutboxRow.run_id, OutboxRow.purpose)
            .where(_free(self.now), col(OutboxRow.queue) == queue)
            .where(started <= self.now - MAX_DELIVERY_AGE)
            .order_by(col(OutboxRow.next_at))
            .limit(MAX_BATCH_SIZE)
        )
        rows = (await self.session.execute(old_rows)).tuples().all()
        if not rows:
            return set()
        last_error, since = self.down[queue], self.queues[queue].since.replace(microsecond=0)
        update_failed = update(OutboxRow).where(col(OutboxRow.id).in_([each[0] for each in rows]))
        await self.session.execute(
            update_failed.values(
                status=Delivery.FAILED,
                finished_at=self.now,
                error=f"gave up: nothing has been accepted since {since.isoformat()}: {last_error}",
                holder="",
                lease_until=None,
            ),
            execution_options={"synchronize_session": False},
        )
        self.failed[queue].append(last_error)
        return {
            run_id for _, run_id, purpose in rows if run_id and purpose in outbox.COUNTED_PURPOSES
        }

    async def _report_undelivered(self, queue: str, error: str) -> None:
        """Report in the inbox, in one message an hour, how many rows of the queue failed."""
        hour = self.now.replace(minute=0, second=0, microsecond=0)
        failed = select(func.count()).where(
            col(OutboxRow.status) == Delivery.FAILED,
            col(OutboxRow.queue) == queue,
            col(OutboxRow.finished_at) >= hour,
        )
        count = (await self.session.execute(failed)).scalar_one()
        key = outbox.bounded_name(f"undelivered:{queue}:{hour:%Y-%m-%dT%H}")
        subject = f"undelivered: {count:,} to {queue}"
        body = f"Last error: {error}\ndaybook callbacks list --status failed"
        existing = select(OutboxRow).where(col(OutboxRow.key) == key)
        row: OutboxRow | None = (await self.session.execute(existing)).scalar_one_or_none()
        if row is not None:
            row.subject, row.body, row.read_at = subject, body, None
            self.session.add(row)
            return
        await outbox.enqueue_message(
            self.session,
            key=key,
            purpose=outbox.ALERT,
            event="undelivered",
            channel=outbox.INBOX,
            subject=subject,
            body=body,
            now=self.now,
        )


async def _update_many(session: AsyncSession, changes: list[dict[str, Any]]) -> None:
    """Update many rows in one statement. Each of ``changes`` has `row_id` and the same columns."""
    names = [name for name in changes[0] if name != "row_id"]
    table = OutboxRow.__table__  # type: ignore[attr-defined]
    statement = (
        update(table)
        .where(table.c.id == bindparam("row_id"))
        .values({name: bindparam(f"new_{name}", type_=table.c[name].type) for name in names})
    )
    given = [
        {"row_id": each["row_id"], **{f"new_{name}": each[name] for name in names}}
        for each in changes
    ]
    await (await session.connection()).execute(statement, given)


async def release(ledger: Ledger, rows: Iterable[OutboxRow]) -> None:
    """Release rows that this process claimed but did not send."""
    claimed = [(row.id, row.fence) for row in rows]
    async with ledger.write() as session:
        for id_, fence in claimed:
            update_row = update(OutboxRow).where(
                PENDING, col(OutboxRow.id) == id_, col(OutboxRow.fence) == fence
            )
            await session.execute(
                update_row.values(holder="", lease_until=None),
                execution_options={"synchronize_session": False},
            )


async def retry(ledger: Ledger, ids: Collection[str] | None = None) -> int:
    """Retry the rows ``ids``, or all failed rows if ``ids`` is None.

    Return the number of rows changed. Failed rows become pending again. Pending rows of ``ids``
    become due now, unless a process is sending them. For all these rows, the number of attempts
    starts again at 0, and `MAX_DELIVERY_AGE` counts from now. The results of earlier attempts stay.
    Failed wakes are not retried. The pauses of the retried rows' queues end, because the caller
    expects the destinations to respond again.
    """
    which = retryable()
    if ids is None:
        async with ledger.read() as session:
            ids = (await session.execute(select(OutboxRow.id).where(which))).scalars().all()
    else:
        which |= _free(ledger.now())
    all_, count = list(ids), 0
    for start in range(0, len(all_), MAX_BATCH_SIZE):
        batch = all_[start : start + MAX_BATCH_SIZE]
        count += await _retry(ledger, which & col(OutboxRow.id).in_(batch))
    return count


async def _retry(ledger: Ledger, which: ColumnElement[bool]) -> int:
    async with ledger.write() as session:
        now = ledger.now()
        found = select(OutboxRow.id, OutboxRow.queue, OutboxRow.run_id).where(which)
        rows = (await session.execute(found)).tuples().all()
        update_rows = update(OutboxRow).where(col(OutboxRow.id).in_([id_ for id_, _, _ in rows]))
        end_pauses = update(QueueRow).where(
            col(QueueRow.queue).in_({queue for _, queue, _ in rows}),
            col(QueueRow.paused_until) > now,
        )
        for statement in (
            update_rows.values(
                status=Delivery.PENDING,
                attempts=0,
                next_at=now,
                retried_at=now,
                finished_at=None,
                holder="",
                lease_until=None,
            ),
            end_pauses.values(paused_until=now),
        ):
            await session.execute(statement, execution_options={"synchronize_session": False})
        await outbox.refresh_deliveries(session, {run_id for _, _, run_id in rows if run_id})
        return len(rows)
