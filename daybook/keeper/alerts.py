"""Alerts about overdue runs, progress notes about long runs, and pings of the operator's URL.

::

    overdue now                 last alert                     queued
    --------------------------  -----------------------------  ---------------------------------
    in two consecutive cycles   none, or closed                one alert about all overdue runs
                                open, and newly overdue runs   one alert about all overdue runs
                                open, and nothing new          nothing
    nothing                     open                           a note that nothing is overdue;
                                                               closes the alert

Alerts are at least an hour apart. A run that was missed because no process claimed it counts as
overdue until a process claims a later run of its job, but at most for `MISSED_MAX_AGE`. The last
alert is a row of the outbox, and the transaction that queues the next alert reads this row. So a
new leader continues where the last leader stopped, and two leaders at the same time queue an alert
only once. At least one run has to be overdue in two consecutive cycles, because after an outage
many runs are overdue for the few seconds that the auditor needs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import httpx
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook import settings
from daybook.delivery import outbox
from daybook.delivery.alerts import ALERT_INTERVAL
from daybook.duration_text import duration_in_words
from daybook.errors import Unreachable
from daybook.jobs import store
from daybook.jobs.notify import Notify
from daybook.keeper.overview import ReadOverview, read_nothing
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Status
from daybook.ledger.tables import OutboxRow, RunRow
from daybook.runs import overdue
from daybook.runs.overdue import Overdue
from daybook.schedules.schedule import Schedule
from daybook.schedules.zones import display_zone
from daybook.short_text import first_names

log = logging.getLogger(__name__)

MISSED_MAX_AGE = ALERT_INTERVAL + timedelta(minutes=10)
"""How long a missed run counts as overdue: long enough to pass an hourly job's next due time."""
PING_TIMEOUT_SECONDS = 10.0
MAX_LISTED = 20
"""Maximum number of overdue runs that an alert lists."""

OVERDUE_EVENT, ON_TIME_EVENT, PROGRESS_EVENT = "overdue", "on_time", "progress"
"""Names of events. `PROGRESS_EVENT` is also a purpose, which a run's delivery status ignores."""


@dataclass
class AlertState:
    """State between two cycles; ``seen`` has the occurrences overdue in the last cycle."""

    late: overdue.DueTimeCache = field(default_factory=overdue.DueTimeCache)
    seen: set[str] = field(default_factory=set)


@dataclass
class PingState:
    """State between two pings; ``is_stopped`` is true if a finding stopped the last ping."""

    is_stopped: bool = False


@dataclass
class QueuedAlerts:
    """Result of one cycle.

    ``alert`` is the event of the queued alert, or "". ``notes`` is the number of queued notes.
    """

    alert: str = ""
    notes: int = 0

    def __bool__(self) -> bool:
        return bool(self.alert or self.notes)


async def queue_alerts(ledger: Ledger, memory: AlertState) -> QueuedAlerts:
    """Run one cycle: queue the alert and the progress notes that are due, and return a report."""
    queued = QueuedAlerts(await _queue_overdue_alert(ledger, memory))
    queued.notes = await _queue_progress_notes(ledger)
    return queued


# --- the ping


async def ping(
    memory: PingState, read: ReadOverview = read_nothing, *, is_overdue: bool = False
) -> None:
    """Request the operator's `ping_url`, unless a finding that counts is present.

    Do nothing if `ping_url` is not set. The setting `ping_findings` names the findings that count.
    If ``is_overdue``, the finding `late` is present. Log when a finding first stops the ping, and
    when the pings resume. Raise `Unreachable` unless the answer has a 2xx status. The error does
    not contain the URL, because the URL may contain a key.
    """
    loaded = settings.load()
    url, names = loaded.ping_url.get_secret_value(), settings.entries(loaded.ping_findings)
    if not url:
        return
    problems = ["late: a run is overdue"] if is_overdue and (not names or "late" in names) else []
    if not problems:
        found = (await read()).that_count(names)
        problems = [f"{each.check}: {each.message}" for each in found]
    if bool(problems) != memory.is_stopped:
        memory.is_stopped = bool(problems)
        text = f"no pings: {problems[0]}" if problems else "pings again: all findings are clear"
        level = logging.WARNING if problems else logging.INFO
        log.log(level, "%s", text, extra={"action": "ping_stopped" if problems else "pings"})
    if problems:
        return
    try:
        async with httpx.AsyncClient(timeout=PING_TIMEOUT_SECONDS) as client:
            response = await client.get(url)
        problem = "" if response.is_success else f"status {response.status_code}"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        problem = type(error).__name__
    if problem:
        raise Unreachable(f"DAYBOOK_PING_URL does not accept the ping: {problem}")


# --- overdue


async def _queue_overdue_alert(ledger: Ledger, memory: AlertState) -> str:
    async with ledger.read() as session:
        now = ledger.now()
        late = await overdue.find_all(session, memory.late, now, MISSED_MAX_AGE)
        found = [each for each in late if each.overdue_since <= now]
        previous, memory.seen = memory.seen, {each.occurrence for each in found}
        if found and not previous & memory.seen:
            return ""  # overdue in one cycle only
        if not await _due_alert_key(session, found, now):
            return ""
    async with ledger.write() as session:
        key = await _due_alert_key(session, found, now)
        if not key:
            return ""  # another leader has already queued it
        event = OVERDUE_EVENT if found else ON_TIME_EVENT
        subject, body = _alert_text(found, now)
        await outbox.enqueue_message(
            session,
            key=key,
            purpose=outbox.ALERT,
            event=event,
            channel=outbox.operator_channel(),
            subject=subject,
            body=body,
            now=now,
        )
    level = logging.WARNING if found else logging.INFO
    log.log(level, "%s", subject, extra={"action": event})
    return event


async def _due_alert_key(session: AsyncSession, found: Sequence[Overdue], now: datetime) -> str:
    """Return the outbox key of the message that is due now, or "".

    The message is an alert, or the note that closes the last alert.
    """
    last = await _last_alert(session, now)
    over, is_open = "", False
    if last is not None:
        over = f"{last.key}:over"
        queued = select(OutboxRow.id).where(col(OutboxRow.key) == over)
        is_open = (await session.execute(queued)).first() is None
    if not found:
        return over if is_open else ""
    if last is not None and now - last.created_at < ALERT_INTERVAL:
        return ""
    # A missed run counts as new from the time at which it was recorded as missed, not from its due
    # time. No alert could list it as missed before.
    known = [
        (each.missed and each.run and each.run.finished_at) or each.overdue_since for each in found
    ]
    new = not is_open or any(last and each >= last.created_at for each in known)
    return f"overdue:{now.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}" if new else ""


async def _last_alert(session: AsyncSession, now: datetime) -> OutboxRow | None:
    alerts = (
        select(OutboxRow)
        .where(
            col(OutboxRow.job_id).is_(None),
            col(OutboxRow.event) == OVERDUE_EVENT,
            col(OutboxRow.created_at) <= now,  # a later row means that the clock was set back
        )
        .order_by(col(OutboxRow.created_at).desc())
        .limit(1)
    )
    return (await session.execute(alerts)).scalar_one_or_none()


def _alert_text(overdue_runs: Sequence[Overdue], now: datetime) -> tuple[str, str]:
    if not overdue_runs:
        return "nothing is overdue any more", "Every overdue run has started or has an outcome."
    names = list(dict.fromkeys(each.job.name for each in overdue_runs))
    lines = ["These runs are due and have not started:"]
    for each in overdue_runs[:MAX_LISTED]:
        due, late = _local_time(each.due, each.job.schedule), duration_in_words(now - each.due)
        why = f": {each.why}" if each.why else ""
        lines.append(f"- {each.job.name}, due {due}, {late} ago{why}")
    if len(overdue_runs) > MAX_LISTED:
        lines.append(f"- and {len(overdue_runs) - MAX_LISTED} more")
    lines.append("To see why: daybook status")
    return f"overdue: {first_names(names, 1)}", "\n".join(lines)


# --- progress


async def _queue_progress_notes(ledger: Ledger) -> int:
    """Queue a note for each run that has run for another progress interval.

    If several intervals have passed since a run's last note, queue only one note. Return the number
    of queued notes.
    """
    async with ledger.read() as session:
        running = select(RunRow).where(col(RunRow.status) == Status.RUNNING)
        rows = (await session.execute(running)).scalars().all()
        due = await _not_queued(session, await _due_note_keys(session, rows, ledger.now()))
    if not due:
        return 0
    async with ledger.write() as session:
        now, queued = ledger.now(), 0
        for run_id in due.values():
            row = await session.get(RunRow, run_id)
            if row is None or row.state is not Status.RUNNING:
                continue  # the run has ended
            for key in await _due_note_keys(session, [row], now):
                queued += await _queue_note(session, row, key, now)
        return queued


async def _due_note_keys(
    session: AsyncSession, rows: Iterable[RunRow], now: datetime
) -> dict[str, str]:
    """Return the keys of all due notes, even of queued notes, each with the id of its run."""
    keys = {}
    for row in rows:
        every = (await _progress_notify(session, row)).progress
        if every and row.started_at and (nth := (now - row.started_at) // every) > 0:
            keys[f"progress:{row.id}:{nth}"] = row.id
    return keys


async def _not_queued(session: AsyncSession, keys: dict[str, str]) -> dict[str, str]:
    if not keys:
        return {}
    queued = select(OutboxRow.key).where(col(OutboxRow.key).in_(keys))
    existing = set((await session.execute(queued)).scalars())
    return {key: run_id for key, run_id in keys.items() if key not in existing}


async def _progress_notify(session: AsyncSession, row: RunRow) -> Notify:
    """Return the recipient and interval of progress notes; an empty `Notify` without recipient."""
    stored = await store.get_readable(session, row.job_id)
    notify = outbox.notify_of(row.parameters, stored)
    return notify if notify.channel and not notify.silent else Notify()


async def _queue_note(session: AsyncSession, row: RunRow, key: str, now: datetime) -> bool:
    stored = await store.get_readable(session, row.job_id)
    notify, name = await _progress_notify(session, row), stored.row.name if stored else row.kind
    since = row.started_at or now
    schedule = stored.job.schedule if stored else None
    lines = [
        f"{name} has been running since {_local_time(since, schedule)} "
        f"({duration_in_words(now - since)})",
        f"daybook show {row.id[:12]}",
    ]
    queued = await outbox.enqueue_message(
        session,
        key=key,
        purpose=PROGRESS_EVENT,
        event=PROGRESS_EVENT,
        channel=notify.channel,
        chat_id=notify.chat_id,
        subject=f"{name}: still running",
        body="\n".join(lines),
        run_id=row.id,
        job_id=row.job_id,
        now=now,
    )
    return queued is not None


def _local_time(instant: datetime, schedule: Schedule | None) -> str:
    local = instant.astimezone(display_zone(schedule.timezone)) if schedule else instant
    return local.isoformat(timespec="seconds")
