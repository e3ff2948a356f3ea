"""Rules of a restore: nothing that may have happened since the backup happens again.

The ledger does not contain the events between the backup and the restore. So the restore assumes
that each run that was due by the restore has happened (`docs/promise.md`, rule 18)::

    in the backup                                  after the restore
    a due time without a row                       missed
    waiting, without an attempt                    missed, unless it is due later
    waiting after an attempt, claimed, running     unknown
    a message that was not delivered               failed, and can be retried by hand; a message to
                                                   a built-in channel, such as the inbox, stays
    work of a feature that was not done            paused, until the operator resumes it
    everything that has ended                      unchanged

One transaction makes all of these changes. The outcomes that a restore records start no other job.
Of their messages, Daybook sends only those to built-in channels: the restore records the callbacks
and all other messages as failed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from sqlalchemy import ColumnElement
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.delivery import outbox
from daybook.errors import UnreadableJob
from daybook.feature import features
from daybook.ledger import states
from daybook.ledger.states import HELD, Delivery, Outcome, Status
from daybook.ledger.tables import OutboxRow, RunRow
from daybook.runs import audit, outcomes, restored
from daybook.runs.restored import Restore

_C, _R = Status.CLAIMED, Status.RUNNING
FENCE_STEP = 1_000_000
"""The number by which a restore raises a fencing token.

It is larger than the number of times that a run can have been claimed since the backup.
"""


@dataclass(frozen=True)
class Recorded:
    """Numbers of changes by a restore.

    ``missed`` and ``unknown`` are the numbers of due times and runs that now have this outcome.
    ``messages`` is the number of messages that are now failed, and ``paused`` has the numbers of
    what features have paused, by the names of the features.
    """

    missed: int = 0
    unknown: int = 0
    messages: int = 0
    paused: dict[str, int] = field(default_factory=dict)


async def record(session: AsyncSession, restore: Restore) -> Recorded:
    """Apply the rules of this module to a restored ledger, in its write transaction ``session``.

    If this function is called again with a later ``restore``, it also applies the rules to
    everything that has become due in the meantime. Return the numbers of changes.
    """
    await restored.write(session, restore)
    unknown = await _end_begun(session, restore)
    missed = await _end_waiting(session, restore)
    for mark in await audit.watermarks(session):
        with suppress(UnreadableJob):  # the audit decides once the job can be read
            missed += await audit.miss_until(session, mark.job_id, restore.at)
    return Recorded(
        missed=missed,
        unknown=unknown,
        messages=await _fail_messages(session, restore),
        paused=await _pause(session, restore),
    )


async def _end_begun(session: AsyncSession, restore: Restore) -> int:
    """Record as unknown each run that has had an attempt or whose process could start an attempt.

    Return the number of these runs.
    """
    retrying = (col(RunRow.status) == Status.WAITING) & (col(RunRow.attempts) > 0)
    found = await _runs(session, col(RunRow.status).in_(HELD) | retrying)
    for row in found:
        # Record the transitions that the run may have made since the backup.
        for step in {Status.WAITING: (_C, _R), Status.CLAIMED: (_R,)}.get(row.state, ()):
            states.check_transition(row.id, row.state, step)
            row.status = step
        await _end(session, row, Status.UNKNOWN, restore)
    return len(found)


async def _end_waiting(session: AsyncSession, restore: Restore) -> int:
    """Record as missed the waiting runs that were due by the restore. Return their number.

    These include the runs that are started by outcomes which this restore has recorded.
    """
    waiting = (col(RunRow.status) == Status.WAITING) & (col(RunRow.due) <= restore.at)
    found = await _runs(session, waiting)
    for row in found:
        if row.state is Status.WAITING:  # the end of another run may have ended this run
            await _end(session, row, Status.MISSED, restore)
    return len(found)


async def _runs(session: AsyncSession, where: ColumnElement[bool]) -> Sequence[RunRow]:
    in_order = select(RunRow).where(where).order_by(col(RunRow.due), col(RunRow.id))
    return (await session.execute(in_order)).scalars().all()


async def _end(session: AsyncSession, row: RunRow, status: Status, restore: Restore) -> None:
    row.fence += FENCE_STEP  # a process of the old ledger must not record a late outcome
    row.holder = ""
    await outcomes.record(session, row, Outcome(status, restore.reason), restore.at)


async def _fail_messages(session: AsyncSession, restore: Restore) -> int:
    """Fail the callbacks, messages, listener calls and wakes that are not known to be delivered.

    Messages to built-in channels, such as the inbox, stay pending, because they do not leave this
    machine. Return the number of failed messages.
    """
    pending = select(OutboxRow).where(outbox.PENDING)
    found = [
        row
        for row in (await session.execute(pending)).scalars().all()
        if not outbox.is_builtin_queue(row.queue)
    ]
    for row in found:
        row.status, row.finished_at = Delivery.FAILED, restore.at
        row.error = f"{restore.reason}; it may have been delivered before"
        row.fence, row.holder, row.lease_until = row.fence + FENCE_STEP, "", None
        session.add(row)
    run_ids = {row.run_id for row in found if row.run_id and row.purpose in outbox.COUNTED_PURPOSES}
    await outbox.refresh_deliveries(session, run_ids)
    return len(found)


async def _pause(session: AsyncSession, restore: Restore) -> dict[str, int]:
    """Let features pause their work (`Feature.restored`). Return the numbers by feature."""
    found = {
        each.name: await each.load(each.restored)(session, restore)
        for each in features()
        if each.restored
    }
    return {name: count for name, count in found.items() if count is not None}
