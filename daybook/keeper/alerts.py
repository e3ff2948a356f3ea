"""Alarm: what is overdue is told to the operator; that a run is long at work to who wants to know.

::

    overdue now                     told before                          told now
    ------------------------------  -----------------------------------  ---------------------------
    in two looks, one after other   never, or over since                 all of it, in one alert
                                    and something is overdue since       all of it, an hour after
                                    and nothing new since                nothing
    nothing                         and not that it is over              that it is over, once

Overdue is also what was missed because nobody came for it, until somebody comes for that job. At
most one alert an hour, however things change. What was told last stands in the outbox and is
read in the transaction that tells more: a new leader goes on where the last one was, and two at
once tell it once. One look alone is not believed: after a standstill much is overdue that the audit
judges in the next seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.delivery import outbox
from daybook.delivery.alerts import QUIET
from daybook.jobs import store
from daybook.jobs.notify import Notify
from daybook.jobs.store import StoredJob
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Status
from daybook.ledger.tables import OutboxRow, RunRow
from daybook.runs import overdue
from daybook.runs.overdue import Overdue
from daybook.schedules.descriptions import span
from daybook.schedules.schedule import zone

log = logging.getLogger(__name__)

MISSED_FOR = QUIET + timedelta(minutes=10)
"""So long what nobody came for counts: of a job that is due each hour, until the next one does."""
LISTED = 20
"""So many of what is overdue are listed."""

OVERDUE, ON_TIME, PROGRESS = "overdue", "on_time", "progress"
"""The events of what is told here; the last one is also its purpose, and no part of a delivery."""


@dataclass
class Memory:
    """What a leader keeps from look to look: also what was overdue in the last one."""

    late: overdue.Memory = field(default_factory=overdue.Memory)
    seen: set[str] = field(default_factory=set)


@dataclass
class Told:
    """What was told: of what is overdue, or that nothing is; and notes of runs at work."""

    alert: str = ""
    notes: int = 0

    def __bool__(self) -> bool:
        return bool(self.alert or self.notes)


async def alarm(ledger: Ledger, memory: Memory) -> Told:
    """One look at what is overdue, and one at what is at work."""
    told = Told(await _overdue(ledger, memory))
    told.notes = await _progress(ledger)
    return told


# --- overdue


async def _overdue(ledger: Ledger, memory: Memory) -> str:
    async with ledger.read() as session:
        now = ledger.now()
        late = await overdue.look(session, memory.late, now, MISSED_FOR)
        found = [each for each in late if each.overdue_since <= now]
        before, memory.seen = memory.seen, {each.occurrence for each in found}
        if found and not before & memory.seen:
            return ""  # of one look
        if not await _to_tell(session, found, now):
            return ""
    async with ledger.write() as session:
        key = await _to_tell(session, found, now)
        if not key:
            return ""  # another leader has told it meanwhile
        event = OVERDUE if found else ON_TIME
        subject, body = _in_words(found, now)
        await outbox.tell(
            session,
            key=key,
            purpose=outbox.ALERT,
            event=event,
            channel=outbox.operators_channel(),
            subject=subject,
            body=body,
            now=now,
        )
    level = logging.WARNING if found else logging.INFO
    log.log(level, "%s", subject, extra={"action": event})
    return event


async def _to_tell(session: AsyncSession, found: Sequence[Overdue], now: datetime) -> str:
    """The key of what is to be told now; empty when that is nothing."""
    last = await _last_alert(session, now)
    over = f"{last.key}:over" if last else ""
    is_open = last is not None and not await _is_known(session, over)
    if not found:
        return over if is_open else ""
    if last is not None and now - last.created_at < QUIET:
        return ""
    new = not is_open or any(last and each.overdue_since > last.created_at for each in found)
    return f"overdue:{now.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}" if new else ""


async def _last_alert(session: AsyncSession, now: datetime) -> OutboxRow | None:
    alerts = (
        select(OutboxRow)
        .where(
            col(OutboxRow.job_id).is_(None),
            col(OutboxRow.event) == OVERDUE,
            col(OutboxRow.created_at) <= now,  # one of the future is of a clock set back since
        )
        .order_by(col(OutboxRow.created_at).desc())
        .limit(1)
    )
    return (await session.execute(alerts)).scalar_one_or_none()


async def _is_known(session: AsyncSession, key: str) -> bool:
    known = select(OutboxRow.id).where(col(OutboxRow.key) == key)
    return (await session.execute(known)).first() is not None


def _in_words(found: Sequence[Overdue], now: datetime) -> tuple[str, str]:
    if not found:
        return "nothing is overdue any more", "What was overdue has begun, or has its outcome."
    names = list(dict.fromkeys(each.stored.row.name for each in found))
    others = f" and {len(names) - 1} more" if len(names) > 1 else ""
    lines = ["It was due, and nothing has begun:"]
    lines += [f"- {_line(each, now)}" for each in found[:LISTED]]
    if len(found) > LISTED:
        lines.append(f"- and {len(found) - LISTED} more")
    lines.append("What keeps it: daybook status")
    return f"overdue: {names[0]}{others}", "\n".join(lines)


def _line(each: Overdue, now: datetime) -> str:
    due = _local(each.due, each.stored)
    why = f": {each.why}" if each.why else ""
    return f"{each.stored.row.name}, due {due}, {span(now - each.due)} ago{why}"


# --- progress


async def _progress(ledger: Ledger) -> int:
    """Tell of each run that is at work for so long again as its job says; how many were told.

    Who was not looked after for longer is told once, of the whole time.
    """
    async with ledger.read() as session:
        running = select(RunRow).where(col(RunRow.status) == Status.RUNNING)
        rows = (await session.execute(running)).scalars().all()
        due = await _unknown(session, await _wanted(session, rows, ledger.now()))
    if not due:
        return 0
    async with ledger.write() as session:
        now, told = ledger.now(), 0
        for run_id in due.values():
            row = await session.get(RunRow, run_id)
            if row is None or row.state is not Status.RUNNING:
                continue  # it has ended meanwhile
            for key in await _wanted(session, [row], now):
                told += await _tell(session, row, key, now)
        return told


async def _wanted(session: AsyncSession, rows: Iterable[RunRow], now: datetime) -> dict[str, str]:
    """The keys of the notes that are due of these runs, each with its run's id."""
    keys = {}
    for row in rows:
        every = (await _notify(session, row)).progress
        if every and row.started_at and (nth := (now - row.started_at) // every) > 0:
            keys[f"progress:{row.id}:{nth}"] = row.id
    return keys


async def _unknown(session: AsyncSession, keys: dict[str, str]) -> dict[str, str]:
    if not keys:
        return {}
    told = select(OutboxRow.key).where(col(OutboxRow.key).in_(keys))
    known = set((await session.execute(told)).scalars())
    return {key: run_id for key, run_id in keys.items() if key not in known}


async def _notify(session: AsyncSession, row: RunRow) -> Notify:
    """Whom this run tells of its progress; nobody, where that has no end to go to."""
    stored = await store.get(session, row.job_id) if row.job_id else None
    said = outbox.notify_of(row.parameters, stored)
    return said if said.channel and not said.silent else Notify()


async def _tell(session: AsyncSession, row: RunRow, key: str, now: datetime) -> bool:
    stored = await store.get(session, row.job_id) if row.job_id else None
    said, name = await _notify(session, row), stored.row.name if stored else row.kind
    since = row.started_at or now
    lines = [
        f"{name} is still at work, since {_local(since, stored)} ({span(now - since)})",
        f"daybook show {row.id[:12]}",
    ]
    put = await outbox.tell(
        session,
        key=key,
        purpose=PROGRESS,
        event=PROGRESS,
        channel=said.channel,
        chat_id=said.chat_id,
        subject=f"{name}: still at work",
        body="\n".join(lines),
        run_id=row.id,
        job_id=row.job_id,
        now=now,
    )
    return put is not None


def _local(instant: datetime, stored: StoredJob | None) -> str:
    local = instant.astimezone(zone(stored.job.schedule.timezone)) if stored else instant
    return local.isoformat(timespec="seconds")
