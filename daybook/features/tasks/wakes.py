"""Wakes of sessions for runs: rows of the outbox, written in the cycle's transaction.

::

    a session    with a connected MCP server       a row of its own, which that server sends
                 else, if there is a `wake_url`    one row for all: a signed request
                 else                              no way: a failed wake

    its row is   delivered                    succeeded: for `wake_cooldown` the session is not
                                              woken for this run
                 pending                      under way: not woken again for this run
                 pending for `WAKE_TIMEOUT`   withdrawn, failed
                 failed, withdrawn            failed: the next cycle may try again at once

A wake is tried once. It does not name the run that the session will get. The woken session claims,
and gets the first run of the queue that fits it at that time.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.delivery import outbox
from daybook.features.tasks import rows
from daybook.features.tasks.model import PRIORITIES
from daybook.features.tasks.policy import SchedulerPolicy
from daybook.features.tasks.states import TaskRunStatus
from daybook.features.tasks.tables import TaskEventRow, TaskRow, TaskRunRow, TaskSessionRow
from daybook.ledger.states import Delivery
from daybook.ledger.tables import OutboxRow, new_id

WAKE_TIMEOUT = timedelta(seconds=60)
"""Time after which a wake is withdrawn, unless a process is sending it."""
_MAX_TIME_UNDER_WAY = 5 * WAKE_TIMEOUT
"""Time after which a wake no longer prevents another wake, even if it is still being sent.

The time counts in addition to `wake_cooldown`.
"""

WOKEN = "woken"
WAKE_EVENT = "task.wake"


@dataclass(frozen=True)
class WakeTarget:
    """Session to wake, with the run for which it is woken, and the reason."""

    task: TaskRow
    run: TaskRunRow
    session: TaskSessionRow
    reason: str

    def as_json(self) -> dict[str, Any]:
        return {
            "session": self.session.name,
            "session_id": self.session.id,
            "agent": self.session.agent,
            "run_id": self.run.id,
            "task_id": self.task.id,
            "title": self.task.title,
            "priority": PRIORITIES[self.task.priority],
            "workspace": self.task.workspace,
            "channel": self.task.channel,
            "reason": self.reason,
        }


@dataclass
class WakeResult:
    """Numbers of arrived and failed wakes, their errors, and the outbox ids of pending wakes."""

    succeeded: int = 0
    failed: int = 0
    errors: list[str] = field(default_factory=list)
    under_way: list[str] = field(default_factory=list)


async def wake_results(
    session: AsyncSession, under_way: Collection[str], now: datetime
) -> WakeResult:
    """Return the results so far of the wakes in the outbox rows ``under_way``.

    First withdraw all wakes that are older than `WAKE_TIMEOUT` and that no process is sending, even
    if no statistics list them.
    """
    results = WakeResult()
    overdue = update(OutboxRow).where(
        col(OutboxRow.purpose) == outbox.WAKE,
        outbox.PENDING,
        col(OutboxRow.created_at) <= now - WAKE_TIMEOUT,
        col(OutboxRow.lease_until).is_(None) | (col(OutboxRow.lease_until) <= now),
    )
    error_text = f"not sent within {WAKE_TIMEOUT.seconds} s"
    values = {
        "status": Delivery.SUPPRESSED,
        "finished_at": now,
        "error": error_text,
        "lease_until": None,
    }
    await session.execute(
        overdue.values(**values), execution_options={"synchronize_session": False}
    )
    if not under_way:
        return results
    counted = (
        select(OutboxRow.id, OutboxRow.status, OutboxRow.error, func.count(col(TaskEventRow.id)))
        .join(TaskEventRow, col(TaskEventRow.outbox_id) == col(OutboxRow.id), isouter=True)
        .where(col(OutboxRow.id).in_(under_way))
        .group_by(col(OutboxRow.id), col(OutboxRow.status), col(OutboxRow.error))
        .order_by(col(OutboxRow.id))
    )
    for id_, status, error, wakes in (await session.execute(counted)).tuples():
        if status == Delivery.PENDING:
            results.under_way.append(id_)
        elif status == Delivery.DELIVERED:
            results.succeeded += wakes
        else:
            results.failed += wakes
            results.errors.append(error or status)
    return results


async def recently_woken(
    session: AsyncSession, now: datetime, cooldown: timedelta, rebuilt_at: datetime | None
) -> set[tuple[str, str]]:
    """Return the (run id, session id) pairs of queued runs for which no wake may be sent now.

    A wake under way prevents another wake. A wake that arrived less than ``cooldown`` ago also does
    so. Wakes up to ``rebuilt_at``, the time of the last rebuild, do not count.
    """
    # If a wake was delivered after now, it was delivered before the clock was set back.
    arrived = (
        (col(OutboxRow.status) == Delivery.DELIVERED)
        & (col(OutboxRow.finished_at) <= now)
        & (col(OutboxRow.finished_at) > now - cooldown)
    )
    oldest = now - cooldown - _MAX_TIME_UNDER_WAY
    since = oldest if rebuilt_at is None else max(oldest, rebuilt_at)
    recent = (
        select(TaskEventRow.run_id, TaskEventRow.session_id)
        .join(TaskRunRow, col(TaskRunRow.id) == col(TaskEventRow.run_id))
        .join(OutboxRow, col(OutboxRow.id) == col(TaskEventRow.outbox_id))
        .where(
            col(TaskRunRow.status) == TaskRunStatus.QUEUED,
            col(TaskRunRow.finished_at).is_(None),
            col(TaskEventRow.event) == WOKEN,
            col(TaskEventRow.at) > since,
            outbox.PENDING | arrived,
        )
    )
    pairs = (await session.execute(recent)).tuples()
    return {(run_id, session_id) for run_id, session_id in pairs if session_id is not None}


def can_be_woken(row: TaskSessionRow, url: str, now: datetime) -> bool:
    """Return whether the session has an MCP connection, or the wake URL ``url`` is set."""
    return bool(url) or _is_connected(row, now)


def _is_connected(row: TaskSessionRow, now: datetime) -> bool:
    return row.connected_until is not None and row.connected_until > now


async def enqueue(
    session: AsyncSession, targets: Sequence[WakeTarget], policy: SchedulerPolicy, now: datetime
) -> list[str]:
    """Add wakes of these sessions to the outbox, with the options in ``policy``.

    Return the row ids. All sessions must be reachable (`can_be_woken`).
    """
    connected = [each for each in targets if _is_connected(each.session, now)]
    others = [each for each in targets if not _is_connected(each.session, now)]
    row_ids = []
    for each in connected:
        queue = outbox.queue_of_client(each.session.id)
        # The address is not the session's name, because a channel may have the same name, such as
        # `inbox`.
        row_ids.append(await _add_row(session, queue, queue, [each], now, actor=policy.actor))
    if others:
        url = policy.wake_url
        queue = outbox.queue_of_url(url)
        row_ids.append(await _add_row(session, queue, url, others, now, actor=policy.actor))
    return row_ids


async def _add_row(
    session: AsyncSession,
    queue: str,
    address: str,
    targets: Iterable[WakeTarget],
    now: datetime,
    *,
    actor: str,
) -> str:
    targets = list(targets)
    body = {
        "event": WAKE_EVENT,
        "at": now.isoformat(),
        "targets": [each.as_json() for each in targets],
    }
    row = OutboxRow(
        key=f"wake:{new_id()}",
        purpose=outbox.WAKE,
        event=WAKE_EVENT,
        queue=queue,
        address=address,
        body=json.dumps(body, ensure_ascii=False),
        next_at=now,
        created_at=now,
    )
    await outbox.put(session, row)
    for each in targets:
        rows.record_event(
            session,
            each.run,
            WOKEN,
            now,
            actor=actor,
            reason=each.reason,
            of=each.session,
            outbox_id=row.id,
        )
    return row.id
