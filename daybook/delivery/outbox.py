"""What is told of a run, written down in the transaction of its outcome (requirements 30-34).

::

    outcome ──► ask ──┬─ callback   on_complete | on_fail: the run as JSON
     (outcomes.write) ├─ message    the job's channel: the answer, or what went wrong
                      └─ alert      the operator's channel: failures of a job without one of its own
                           │
                           ▼  one row each, once: its key says what is told whom of what
                        pending ──► delivered | failed       `daybook.delivery.sending`
                           └──────► suppressed               withdrawn before it was sent

A run's `delivery` is that of its callbacks and messages together; an alert to the operator does
not count, nor does a listener, which has rows of its own here (`listeners`), nor the wake of a task
session (`daybook.tasks.wakes`). The inbox is the ledger itself: what goes there is delivered as it
is written. When failures are told of stands in `alerts`, the words in `wording`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import ValidationError
from sqlalchemy import ColumnElement, case, func, literal_column, or_, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook import settings
from daybook.delivery import alerts, messages
from daybook.errors import InvalidInput
from daybook.jobs import provenance
from daybook.jobs.notify import Event, Notify
from daybook.jobs.store import StoredJob
from daybook.ledger.states import Delivery, Status
from daybook.ledger.tables import JobRow, OutboxRow, RevisionRow, RunRow

if TYPE_CHECKING:
    from daybook.ledger.states import Outcome

INBOX = "inbox"
"""The channel that the ledger is itself."""

FILE = "file"
"""The channel whose conversations are files in the home's `out/`."""

_OF_CHANNEL = "channel:"
_OF_LISTENER = "listener:"
_OF_TASK_SESSION = "task-session:"

CALLBACK, MESSAGE, ALERT, LISTENER = "callback", "message", "alert", "listener"
WAKE = "wake"
"""A task session is woken (`daybook.tasks.wakes`): one try, as the next cycle is the next."""
COUNTED = (CALLBACK, MESSAGE)
"""The purposes that make up a run's delivery."""

LONGEST_NAME = 400
"""Bytes of a lane, and of a key: PostgreSQL takes no more than 2,704 into an index."""


def literal(word: str) -> ColumnElement[str]:
    """A word of ours as a partial index has it: with a parameter in its place none is used."""
    return literal_column(f"'{word}'")


PENDING = col(OutboxRow.status) == literal(Delivery.PENDING)
UNSENT = (
    PENDING
    & (col(OutboxRow.attempts) == 0)
    & col(OutboxRow.retried_at).is_(None)
    & col(OutboxRow.lease_until).is_(None)
)
"""Nobody has seen it: what it says may still be changed."""
UNREAD = (col(OutboxRow.address) == literal(INBOX)) & col(OutboxRow.read_at).is_(None)
"""Of the inbox; to be delivered there it may still have to wait."""

EVENTS: dict[Status, Event] = {
    Status.SUCCEEDED: "completed",
    Status.FAILED: "failed",
    Status.TIMED_OUT: "failed",
    Status.UNKNOWN: "failed",
    Status.CANCELLED: "cancelled",
    Status.MISSED: "missed",
}
"""The event of each outcome that is one."""

_WORST = (Delivery.FAILED, Delivery.PENDING, Delivery.DELIVERED, Delivery.SUPPRESSED)


async def ask(
    session: AsyncSession,
    row: RunRow,
    outcome: Outcome,
    stored: StoredJob | None,
    now: datetime,
    *,
    late: bool,
    paused: bool = False,
) -> None:
    """Write down who is told of the outcome that ``row`` has just got.

    ``stored`` is the job with what the outcome has changed in it. ``late`` says that it corrects
    an `unknown`, ``paused`` that the job was switched off for its failures.
    """
    event = EVENTS.get(row.state)
    if event is None:
        return
    asking = _Asking(session, row, outcome.output, stored, now, late=late)
    held_back = await asking.event(event, paused=paused)
    if held_back and row.delivery == Delivery.NOT_REQUESTED:
        row.delivery = Delivery.SUPPRESSED
        session.add(row)
    if asking.asked:
        await refresh(session, row.id)


async def extended(session: AsyncSession, row: RunRow, stored: StoredJob | None) -> None:
    """``row`` stands for more due times than were told of: what is unsent, or unread, says so."""
    event = EVENTS.get(row.state)
    of_run = select(OutboxRow).where(
        col(OutboxRow.run_id) == row.id,
        col(OutboxRow.event) == event,
        col(OutboxRow.purpose) != LISTENER,
        or_(UNSENT, UNREAD),
    )
    for told in (await session.execute(of_run)).scalars().all() if event else ():
        if told.purpose == CALLBACK:
            told.body = messages.callback(row, stored.row if stored else None, told.event, None)
        else:
            template = notify_of(row.parameters, stored).template
            told.body = messages.message(row, stored, event or "missed", None, template)
        session.add(told)


async def tell(
    session: AsyncSession,
    *,
    key: str,
    purpose: str,
    event: str,
    channel: str,
    chat_id: str = "",
    subject: str,
    body: str,
    run_id: str | None = None,
    job_id: str | None = None,
    now: datetime,
) -> OutboxRow | None:
    """Write down one message to a channel; None when one with this key was asked for before.

    An alert is the operator's; any other one goes where the job's owner chose.
    """
    job = await session.get(JobRow, job_id) if job_id and purpose != ALERT else None
    chat_id = chat_of(Notify.model_construct(channel=channel, chat_id=chat_id), job)
    row = OutboxRow(
        key=key,
        purpose=purpose,
        event=event,
        run_id=run_id,
        job_id=job_id,
        owner=job.owner if job else "user",
        lane=lane_of_channel(channel, chat_id),
        address=channel,
        chat_id=chat_id,
        subject=subject,
        body=messages.bounded(body),
        next_at=now,
        created_at=now,
    )
    asked = await put(session, row)
    if asked is not None and run_id is not None and purpose in COUNTED:
        await refresh(session, run_id)
    return asked


async def refresh(session: AsyncSession, run_id: str) -> None:
    """Bring the run's `delivery` up to date with its callbacks and messages."""
    await refresh_all(session, [run_id])


async def refresh_all(session: AsyncSession, run_ids: Collection[str]) -> None:
    """The same for several runs; a run that asked for nothing keeps what it has."""
    if not run_ids:
        return
    await session.flush()
    order = case(
        {each.value: number for number, each in enumerate(_WORST)}, value=col(OutboxRow.status)
    )
    worst = (
        select(func.min(order))
        .where(col(OutboxRow.run_id) == col(RunRow.id), col(OutboxRow.purpose).in_(COUNTED))
        .correlate(RunRow)
        .scalar_subquery()
    )
    names = {number: each.value for number, each in enumerate(_WORST)}
    delivery = case(names, value=worst, else_=col(RunRow.delivery))
    changed = update(RunRow).where(col(RunRow.id).in_(run_ids)).values(delivery=delivery)
    await session.execute(changed.execution_options(synchronize_session=False))
    for known in list(session.identity_map.values()):
        if isinstance(known, RunRow) and known.id in run_ids:
            await session.refresh(known, ["delivery"])


def operators_channel() -> str:
    """Where alerts go of jobs that have no channel of their own."""
    try:
        return settings.load().alert_channel
    except InvalidInput:  # no outcome is lost for a setting that is not legal
        return INBOX


def lane_of_url(url: str) -> str:
    """What may be away as a whole: the address without its query, nor who asks."""
    try:
        parts = urlsplit(url)
    except ValueError:  # no outcome is lost for an address that is none
        return short(url.partition("?")[0])
    return short(f"{parts.scheme.lower()}://{parts.netloc.rpartition('@')[2].lower()}{parts.path}")


def lane_of_channel(channel: str, chat_id: str = "") -> str:
    """The same of a channel; each of its conversations is on its own."""
    return short(f"{_OF_CHANNEL}{channel}" + (f"/{chat_id}" if chat_id else ""))


def is_of_channel(lane: str) -> bool:
    """Whether it is a channel's lane; any other is that of an address."""
    return lane.startswith(_OF_CHANNEL)


def lane_of_listener(name: str) -> str:
    """That of a listener: it is told of one outcome at a time."""
    return short(f"{_OF_LISTENER}{name}")


def is_of_listener(lane: str) -> bool:
    """Whether it is a listener's: who sends messages does not call it."""
    return lane.startswith(_OF_LISTENER)


def lane_of_task_session(session_id: str) -> str:
    """That of a task session to which an MCP server is connected: that server notifies it."""
    return f"{_OF_TASK_SESSION}{session_id}"


def is_of_task_session(lane: str) -> bool:
    """Whether it is a task session's: only who is connected to that can send there."""
    return lane.startswith(_OF_TASK_SESSION)


def is_sent(lane: str) -> bool:
    """Whether it is for who sends callbacks and messages: listeners and sessions have others."""
    return not (is_of_listener(lane) or is_of_task_session(lane))


def short(name: str) -> str:
    """``name`` as an index takes it: of a long one the beginning, and a digest of the whole."""
    data = name.encode()
    if len(data) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(data).hexdigest()
    return f"{data[: LONGEST_NAME - len(digest) - 3].decode(errors='ignore')}…{digest}"


def chat_of(notify: Notify, job: JobRow | None) -> str:
    """Which conversation of its channel a job has; of `file`, where it names none, its own file."""
    if notify.channel == FILE and not notify.chat_id and job is not None:
        return f"{job.slug}.md"
    return notify.chat_id


def notify_of(parameters: Mapping[str, object], stored: StoredJob | None) -> Notify:
    """What a run's own parameters say of it; where they say nothing, what its job says.

    What cannot be read says nothing: a run that another version wrote down must not stop whoever
    looks after all runs.
    """
    try:
        return Notify.model_validate(parameters["notify"])
    except (KeyError, ValidationError):
        return stored.job.notify if stored else Notify()


async def put(session: AsyncSession, row: OutboxRow) -> OutboxRow | None:
    """Write ``row`` down; None when one with its key was asked for before."""
    row.key = short(row.key)
    known = select(OutboxRow.id).where(col(OutboxRow.key) == row.key)
    if (await session.execute(known)).first() is not None:
        return None
    # Others may be called so too: a listener, or a task session.
    if is_of_channel(row.lane) and row.address == INBOX and row.next_at <= row.created_at:
        row.status, row.finished_at = Delivery.DELIVERED, row.created_at
    session.add(row)
    await session.flush()
    return row


class _Asking:
    """What is told of one outcome."""

    def __init__(
        self,
        session: AsyncSession,
        row: RunRow,
        output: str | None,
        stored: StoredJob | None,
        now: datetime,
        *,
        late: bool,
    ) -> None:
        self.session, self.row, self.output, self.now = session, row, output, now
        self.stored, self.job = stored, stored.row if stored else None
        self.notify = notify_of(row.parameters, stored)
        self.corrects = Status.UNKNOWN.value if late else None
        self.asked = False

    async def event(self, event: Event, *, paused: bool) -> bool:
        """Returns whether something that the job asks for is held back."""
        notify = self.notify
        url = notify.on_complete if event == "completed" else notify.on_fail
        wanted = event in notify.events
        held_back = wanted and notify.silent and bool(url or notify.channel)
        wanted = wanted and not notify.silent
        if wanted and url:
            await self._callback(event, url)
        if event == "failed":
            told = await self._alert(paused=paused)
            held_back |= wanted and bool(notify.channel) and not told
        elif wanted and notify.channel:
            told = await self._message(event)
            held_back |= not told
        if event == "completed" and self.stored and self.stored.row.alert_open:
            await self._recovered(self.stored)
        return held_back

    async def _callback(self, event: Event, url: str) -> None:
        what = "on_complete" if event == "completed" else "on_fail"
        body = messages.callback(self.row, self.job, event, self.corrects)
        row = self._new(CALLBACK, what, event, body=body, at=self.now)
        row.lane, row.address = lane_of_url(url), url
        row.writer = await self._writer(what)
        await self._put(row)

    async def _writer(self, what: str) -> str:
        """Who wrote that address, in the revision that the run acted with."""
        if self.job is None:
            return ""
        acted = (self.job.id, self.row.revision or self.job.revision)
        revision = await self.session.get(RevisionRow, acted)
        return provenance.writer(
            revision.written_by if revision else {}, self.job.created_by, (what,)
        )

    async def _message(self, event: Event) -> bool:
        """Returns whether it is told; an answer that says nothing, or nothing new, is not."""
        notify, digest = self.notify, ""
        if event == "completed":
            said = messages.answer(self.row, self.output)
            digest = hashlib.sha256(said.encode()).hexdigest()
            if not said or (notify.only_changed and await self._said_last() == digest):
                return False
        subject = messages.subject(self.row, self.job, self.corrects)
        body = messages.message(self.row, self.stored, event, self.output, notify.template)
        row = self._new(MESSAGE, "channel", event, subject=subject, body=body, at=self.now)
        chat_id = chat_of(notify, self.job)
        row.lane = lane_of_channel(notify.channel, chat_id)
        row.address, row.chat_id, row.digest = notify.channel, chat_id, digest
        await self._put(row)
        return True

    async def _said_last(self) -> str | None:
        """The digest of the last answer that arrived there, or is on its way."""
        if self.job is None:
            return None
        last = (
            select(OutboxRow.digest)
            .where(
                col(OutboxRow.job_id) == self.job.id,
                col(OutboxRow.address) == self.notify.channel,
                col(OutboxRow.chat_id) == chat_of(self.notify, self.job),
                col(OutboxRow.digest) != "",
                col(OutboxRow.status) != Delivery.FAILED,
            )
            .order_by(col(OutboxRow.created_at).desc())
            .limit(1)
        )
        found: str | None = (await self.session.execute(last)).scalar_one_or_none()
        return found

    async def _alert(self, *, paused: bool) -> bool:
        """Tell of a failure, or of the pause that it led to; returns whether it is told."""
        subject = messages.subject(self.row, self.job, self.corrects)
        own = self._is_own()
        template = self.notify.template if own else ""
        body = messages.message(self.row, self.stored, "failed", self.output, template)
        if self.stored is None:
            if own:
                await self._to_channel("channel", "failed", subject, body, self.now)
            return own
        job = self.stored.row
        at: datetime | None = self.now
        if paused:
            await self._withdraw()
            subject, body = messages.paused(self.row, self.stored)
            event, what = "paused", "paused"
        else:
            at, event, what = alerts.when(job, self.now), "failed", "channel" if own else "alert"
        if at is not None:
            await self._to_channel(what, event, subject, body, at)
            alerts.told(job, at)
            self.session.add(job)
        return at is not None

    async def _recovered(self, stored: StoredJob) -> None:
        """Tell once that the job's failures are over."""
        if not await self._withdraw():
            subject, body = messages.recovered(self.row, stored)
            await self._to_channel("recovered", "recovered", subject, body, self.now)
            stored.row.alert_open = False
        self.session.add(stored.row)

    async def _withdraw(self) -> bool:
        """Take back the alert that waits for its hour; returns whether there was one."""
        assert self.job is not None
        waits = select(OutboxRow).where(
            col(OutboxRow.job_id) == self.job.id,
            PENDING,
            col(OutboxRow.event) == "failed",
            col(OutboxRow.purpose) != CALLBACK,
            col(OutboxRow.attempts) == 0,
            col(OutboxRow.next_at) > self.now,
            col(OutboxRow.next_at) > col(OutboxRow.created_at),
        )
        found = (await self.session.execute(waits)).scalars().all()
        for row in found:
            row.status, row.finished_at = Delivery.SUPPRESSED, self.now
            row.note = "withdrawn: what came after it was told in its place"
            alerts.withdrawn(self.job, row.next_at)
            self.session.add(row)
            if row.run_id is not None and row.purpose in COUNTED:
                await refresh(self.session, row.run_id)
        return bool(found)

    def _is_own(self) -> bool:
        """Whether the job's own channel gets its alerts, rather than the operator's."""
        notify = self.notify
        return bool(notify.channel) and "failed" in notify.events and not notify.silent

    async def _to_channel(
        self, what: str, event: str, subject: str, body: str, at: datetime
    ) -> None:
        own = self._is_own()
        channel = self.notify.channel if own else operators_channel()
        chat_id = chat_of(self.notify, self.job) if own else ""
        row = self._new(MESSAGE if own else ALERT, what, event, subject=subject, body=body, at=at)
        row.lane, row.address, row.chat_id = lane_of_channel(channel, chat_id), channel, chat_id
        await self._put(row)

    async def _put(self, row: OutboxRow) -> None:
        await put(self.session, row)
        self.asked = True

    def _new(
        self, purpose: str, what: str, event: str, *, subject: str = "", body: str, at: datetime
    ) -> OutboxRow:
        corrects = f":{self.corrects}" if self.corrects else ""
        return OutboxRow(
            key=f"run:{self.row.id}:{what}{corrects}",
            purpose=purpose,
            event=event,
            run_id=self.row.id,
            job_id=self.row.job_id,
            owner=self.job.owner if self.job else "user",
            lane="",
            address="",
            subject=subject,
            body=body,
            next_at=at,
            created_at=self.now,
        )
