"""Outbox: callbacks, messages and alerts, stored in the transaction of the run's outcome.

::

    outcome ──► enqueue ─┬─ callback   on_complete | on_fail: the run as JSON
     (outcomes.record)   ├─ message    the job's channel: the answer, or the failure
                         └─ alert      the operator's channel: failures of a job without its own
                              │
                              ▼  one row each; the unique key prevents a second one
                           pending ──► delivered | failed    `daybook.delivery.sending`
                              └──────► suppressed            withdrawn before it was sent

`enqueue_message` stores the other rows: alerts of the keeper and about budgets, questions to a
person, reports of undelivered rows, and messages of features. A run's `delivery` combines the
status of its callbacks and messages. Alerts to the operator, rows of listeners (`listeners`) and
wakes of live agents (`WAKE`) do not count. The inbox is the ledger itself, so its rows need no
sender, and count as delivered when they are due. `alerts` decides when to alert about failures, and
`messages` creates the texts.

A destination queue (column ``queue``) groups the rows for one destination that may be unavailable
as a whole. `daybook.delivery.sending` explains these queues.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from datetime import datetime
from enum import StrEnum
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
from daybook.jobs.notify import CALLBACK_FIELDS, Event, Notify
from daybook.jobs.store import StoredJob
from daybook.ledger.states import Delivery, Status
from daybook.ledger.tables import JobRow, OutboxRow, RevisionRow, RunRow
from daybook.short_text import shorten

if TYPE_CHECKING:
    from daybook.ledger.states import Outcome

INBOX = "inbox"
"""The channel whose messages stay in the ledger."""

FILE = "file"
"""The channel whose chats are files in the home's `out/`."""

CONSOLE = "console"
"""The channel whose messages are printed by the process that sends them."""

BUILTIN_CHANNELS = (INBOX, FILE, CONSOLE)
"""The channels without a Prefect block. `channels.registry.BUILTIN` has their adapters."""


class QueueKind(StrEnum):
    """Kinds of destination queues. Each kind has its own sender (`daybook.delivery.dispatcher`).

    The value is the prefix of the queue's name. The name of the queue of a URL is the URL itself.
    While Prefect is unreachable, rows wait, with the exceptions that `dispatcher` and
    `dispatch_outgoing` list.

    For a new messaging service, add a channel (`daybook.delivery.channels`). A new kind of queue
    needs:

    - its prefix here, rows (as `listeners` enqueues them), and a sender
    - if every keeper and run can send: the sender in `outgoing.dispatch_outgoing`, and the kind in
      `is_outgoing` here; otherwise, a caller that passes the sender to `dispatcher.dispatch`
    - if jobs name the recipient: rows from `_Notifications` here, a field in `jobs.notify`, a line
      in `delivery.views.recipients`, a check for agents in `jobs.limits`, which the sender repeats,
      and a check for operators in `api.preflight` (for edits, `api.jobs` lists the fields) and
      `diagnosis.checks.delivery`
    - if the recipient is an address: the address in `jobs.provenance.target_parts`, and no tokens
      of the address in `execution.artifact`
    """

    URL = ""
    CHANNEL = "channel:"
    LISTENER = "listener:"
    CLIENT = "task-session:"


CALLBACK, MESSAGE, ALERT, LISTENER = "callback", "message", "alert", "listener"
WAKE = "wake"
"""Purpose of a row that wakes a live agent (`daybook.features.tasks.wakes`).

Such a row has only one attempt, because another wake follows.
"""
COUNTED_PURPOSES = (CALLBACK, MESSAGE)
"""The purposes of the rows that count for a run's `delivery`."""

MAX_NAME_BYTES = 400
"""Maximum length of a queue name or key in bytes. PostgreSQL can index at most 2,704 bytes."""


def sql_literal(word: str) -> ColumnElement[str]:
    """Return ``word`` as an SQL literal: a parameter prevents the use of partial indexes."""
    return literal_column(f"'{word}'")


PENDING = col(OutboxRow.status) == sql_literal(Delivery.PENDING)
UNSENT = (
    PENDING
    & (col(OutboxRow.attempts) == 0)
    & col(OutboxRow.retried_at).is_(None)
    & col(OutboxRow.lease_until).is_(None)
)
"""The row is not being sent, and has no recorded attempt, so its text may still be changed."""
IN_INBOX = (col(OutboxRow.address) == sql_literal(INBOX)) & (col(OutboxRow.purpose) != LISTENER)
"""The row belongs to the inbox. Listeners are excluded, because one may have the name `inbox`."""
UNREAD = IN_INBOX & col(OutboxRow.read_at).is_(None)
"""Unread rows of the inbox, including pending rows."""

OUTCOME_EVENTS: dict[Status, Event] = {
    Status.SUCCEEDED: "completed",
    Status.FAILED: "failed",
    Status.TIMED_OUT: "failed",
    Status.UNKNOWN: "failed",
    Status.CANCELLED: "cancelled",
    Status.MISSED: "missed",
}
"""The event that each outcome causes. Other outcomes cause no event."""

_WORST_FIRST = (Delivery.FAILED, Delivery.PENDING, Delivery.DELIVERED, Delivery.SUPPRESSED)


async def enqueue(
    session: AsyncSession,
    row: RunRow,
    outcome: Outcome,
    stored: StoredJob | None,
    now: datetime,
    *,
    late: bool,
    paused: bool = False,
) -> None:
    """Enqueue the notifications about the outcome that ``row`` just got.

    ``stored`` is the job after the outcome has changed it. ``late`` is true if the outcome corrects
    an `unknown`. ``paused`` is true if the job was paused because of its failures.
    """
    event = OUTCOME_EVENTS.get(row.state)
    if event is None:
        return
    notifications = _Notifications(session, row, outcome.output, stored, now, late=late)
    held_back = await notifications.event(event, paused=paused)
    if held_back and row.delivery == Delivery.NOT_REQUESTED:
        row.delivery = Delivery.SUPPRESSED
        session.add(row)
    if notifications.enqueued:
        await refresh_delivery(session, row.id)


async def update_range(session: AsyncSession, row: RunRow, stored: StoredJob | None) -> None:
    """Update unsent and unread rows after ``row`` was extended to more due times."""
    event = OUTCOME_EVENTS.get(row.state)
    of_run = select(OutboxRow).where(
        col(OutboxRow.run_id) == row.id,
        col(OutboxRow.event) == event,
        col(OutboxRow.purpose) != LISTENER,
        or_(UNSENT, UNREAD),
    )
    for queued in (await session.execute(of_run)).scalars().all() if event else ():
        if queued.purpose == CALLBACK:
            queued.body = messages.callback_body(
                row, stored.row if stored else None, queued.event, None
            )
        else:
            template = notify_of(row.parameters, stored).template
            queued.body = messages.message(row, stored, event or "missed", None, template)
        session.add(queued)


async def enqueue_message(
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
    """Enqueue one message to a channel. Return its row, or None if a row with this key exists.

    An alert belongs to the operator. Any other message belongs to the job's owner, whose limits the
    sender checks. `chat_id_of` returns the chat id of such a message.
    """
    job = await session.get(JobRow, job_id) if job_id and purpose != ALERT else None
    chat_id = chat_id_of(Notify.model_construct(channel=channel, chat_id=chat_id), job)
    row = OutboxRow(
        key=key,
        purpose=purpose,
        event=event,
        run_id=run_id,
        job_id=job_id,
        owner=job.owner if job else "user",
        queue=queue_of_channel(channel, chat_id),
        address=channel,
        chat_id=chat_id,
        subject=subject,
        body=shorten(body, messages.MAX_MESSAGE_LENGTH),
        next_at=now,
        created_at=now,
    )
    stored = await put(session, row)
    if stored is not None and run_id is not None and purpose in COUNTED_PURPOSES:
        await refresh_delivery(session, run_id)
    return stored


async def refresh_delivery(session: AsyncSession, run_id: str) -> None:
    """Update the run's `delivery` from its callbacks and messages."""
    await refresh_deliveries(session, [run_id])


async def refresh_deliveries(session: AsyncSession, run_ids: Collection[str]) -> None:
    """Update the `delivery` of these runs. Runs without callbacks and messages stay unchanged."""
    if not run_ids:
        return
    await session.flush()
    order = case(
        {each.value: number for number, each in enumerate(_WORST_FIRST)},
        value=col(OutboxRow.status),
    )
    worst = (
        select(func.min(order))
        .where(
            col(OutboxRow.run_id) == col(RunRow.id), col(OutboxRow.purpose).in_(COUNTED_PURPOSES)
        )
        .correlate(RunRow)
        .scalar_subquery()
    )
    names = {number: each.value for number, each in enumerate(_WORST_FIRST)}
    delivery = case(names, value=worst, else_=col(RunRow.delivery))
    changed = update(RunRow).where(col(RunRow.id).in_(run_ids)).values(delivery=delivery)
    await session.execute(changed.execution_options(synchronize_session=False))
    for known in list(session.identity_map.values()):
        if isinstance(known, RunRow) and known.id in run_ids:
            await session.refresh(known, ["delivery"])


def operator_channel() -> str:
    """Return the channel for alerts to the operator.

    If the setting is invalid, return the inbox.
    """
    try:
        return settings.load().alert_channel
    except InvalidInput:  # an invalid setting must not prevent the recording of an outcome
        return INBOX


def queue_of_url(url: str) -> str:
    """Return the queue of a URL: scheme, host, port and path, without credentials or query."""
    try:
        parts = urlsplit(url)
    except ValueError:  # an invalid URL must not prevent the recording of an outcome
        return bounded_name(url.partition("?")[0])
    return bounded_name(
        f"{parts.scheme.lower()}://{parts.netloc.rpartition('@')[2].lower()}{parts.path}"
    )


def queue_of_channel(channel: str, chat_id: str = "") -> str:
    """Return the queue of a channel. Each chat of the channel has its own queue."""
    return bounded_name(f"{QueueKind.CHANNEL}{channel}" + (f"/{chat_id}" if chat_id else ""))


def queue_of_listener(name: str) -> str:
    """Return the queue of a listener, which gets one outcome at a time."""
    return bounded_name(f"{QueueKind.LISTENER}{name}")


def queue_of_client(session_id: str) -> str:
    """Return the queue of a connected client's task session, which its MCP server sends."""
    return f"{QueueKind.CLIENT}{session_id}"


def kind_of_queue(queue: str) -> QueueKind:
    """Return the kind of the queue with this name."""
    prefixed = (kind for kind in QueueKind if kind is not QueueKind.URL)
    return next((kind for kind in prefixed if queue.startswith(kind)), QueueKind.URL)


def is_ordered_queue(queue: str) -> bool:
    """Return whether the rows are sent one at a time: to a listener, or to one chat of a channel.

    So a person reads them in their order.
    """
    kind = kind_of_queue(queue)
    is_chat = kind is QueueKind.CHANNEL and "/" in queue and not is_builtin_queue(queue)
    return kind is QueueKind.LISTENER or is_chat


def is_outgoing(queue: str) -> bool:
    """Return whether the rows of the queue leave Daybook: callbacks, and messages to channels."""
    return kind_of_queue(queue) in (QueueKind.URL, QueueKind.CHANNEL)


def is_builtin_queue(queue: str) -> bool:
    """Return whether the queue belongs to a built-in channel, which needs no Prefect block."""
    return queue.partition("/")[0] in _BUILTIN_QUEUES


def bounded_name(name: str) -> str:
    """Return ``name``. If it is longer than `MAX_NAME_BYTES`, return its beginning and a digest."""
    data = name.encode()
    if len(data) <= MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(data).hexdigest()
    return f"{data[: MAX_NAME_BYTES - len(digest) - 3].decode(errors='ignore')}…{digest}"


_BUILTIN_QUEUES = frozenset(map(queue_of_channel, BUILTIN_CHANNELS))


def chat_id_of(notify: Notify, job: JobRow | None) -> str:
    """Return the chat id for the job's channel; by default, for `file`, the job's own file."""
    if notify.channel == FILE and not notify.chat_id and job is not None:
        return f"{job.slug}.md"
    return notify.chat_id


def notify_of(parameters: Mapping[str, object], stored: StoredJob | None) -> Notify:
    """Return the notification settings in the run's parameters, otherwise the job's settings.

    Ignore unreadable settings, perhaps of another version, because this must not stop the process
    that handles all runs.
    """
    try:
        return Notify.model_validate(parameters["notify"])
    except (KeyError, ValidationError):
        return stored.job.notify if stored else Notify()


async def put(session: AsyncSession, row: OutboxRow) -> OutboxRow | None:
    """Store and return ``row``. If a row with its key exists, return None.

    A row of the inbox that is due now is stored as delivered.
    """
    row.key = bounded_name(row.key)
    known = select(OutboxRow.id).where(col(OutboxRow.key) == row.key)
    if (await session.execute(known)).first() is not None:
        return None
    # The address of a listener's row is the listener's name, which may also be `inbox`.
    is_inbox = kind_of_queue(row.queue) is QueueKind.CHANNEL and row.address == INBOX
    if is_inbox and row.next_at <= row.created_at:
        row.status, row.finished_at = Delivery.DELIVERED, row.created_at
    session.add(row)
    await session.flush()
    return row


async def suppress(session: AsyncSession, row: OutboxRow, note: str, now: datetime) -> None:
    """Do not send a pending row; ``note`` says why."""
    row.status, row.finished_at, row.note = Delivery.SUPPRESSED, now, note
    session.add(row)
    if row.run_id is not None and row.purpose in COUNTED_PURPOSES:
        await refresh_delivery(session, row.run_id)


class _Notifications:
    """The notifications about one outcome."""

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
        self.enqueued = False

    async def event(self, event: Event, *, paused: bool) -> bool:
        """Enqueue the notifications. Return whether a requested notification was suppressed."""
        notify = self.notify
        field = CALLBACK_FIELDS[event]
        url = notify.callbacks[field]
        wanted = event in notify.events
        held_back = wanted and notify.silent and bool(url or notify.channel)
        wanted = wanted and not notify.silent
        if wanted and url:
            await self._callback(event, field, url)
        if event == "failed":
            enqueued = await self._alert(paused=paused)
            held_back |= wanted and bool(notify.channel) and not enqueued
        elif wanted and notify.channel:
            enqueued = await self._message(event)
            held_back |= not enqueued
        if event == "completed" and self.stored and self.stored.row.alert_open:
            await self._recovered(self.stored)
        return held_back

    async def _callback(self, event: Event, field: str, url: str) -> None:
        body = messages.callback_body(self.row, self.job, event, self.corrects)
        row = self._new(CALLBACK, field, event, body=body, at=self.now)
        row.queue, row.address = queue_of_url(url), url
        row.writer = await self._writer(field)
        await self._put(row)

    async def _writer(self, field: str) -> str:
        """Return the author of the field's URL in the run's revision; "" if the run has no job."""
        if self.job is None:
            return ""
        revision_key = (self.job.id, self.row.revision or self.job.revision)
        revision = await self.session.get(RevisionRow, revision_key)
        return provenance.author_of(
            revision.written_by if revision else {}, self.job.created_by, (field,)
        )

    async def _message(self, event: Event) -> bool:
        """Enqueue the message. Return False if the run's answer must not be sent.

        Do not send an empty or silent answer, nor, with `only_changed`, an unchanged answer.
        """
        notify, digest = self.notify, ""
        if event == "completed":
            answer = messages.answer_text(self.row, self.output)
            digest = hashlib.sha256(answer.encode()).hexdigest()
            if not answer or (notify.only_changed and await self._last_digest() == digest):
                return False
        subject = messages.subject(self.row, self.job, self.corrects)
        body = messages.message(self.row, self.stored, event, self.output, notify.template)
        row = self._new(MESSAGE, "channel", event, subject=subject, body=body, at=self.now)
        chat_id = chat_id_of(notify, self.job)
        row.queue = queue_of_channel(notify.channel, chat_id)
        row.address, row.chat_id, row.digest = notify.channel, chat_id, digest
        await self._put(row)
        return True

    async def _last_digest(self) -> str | None:
        """Return the digest of the last delivered or pending answer to the job's chat, or None."""
        if self.job is None:
            return None
        last = (
            select(OutboxRow.digest)
            .where(
                col(OutboxRow.job_id) == self.job.id,
                col(OutboxRow.address) == self.notify.channel,
                col(OutboxRow.chat_id) == chat_id_of(self.notify, self.job),
                col(OutboxRow.digest) != "",
                col(OutboxRow.status) != Delivery.FAILED,
            )
            .order_by(col(OutboxRow.created_at).desc())
            .limit(1)
        )
        found: str | None = (await self.session.execute(last)).scalar_one_or_none()
        return found

    async def _alert(self, *, paused: bool) -> bool:
        """Enqueue an alert about a failure or the resulting pause.

        Return whether an alert was due.
        """
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
            at, event, what = (
                alerts.next_alert_at(job, self.now),
                "failed",
                "channel" if own else "alert",
            )
        if at is not None:
            await self._to_channel(what, event, subject, body, at)
            alerts.record_alert(job, at)
            self.session.add(job)
        return at is not None

    async def _recovered(self, stored: StoredJob) -> None:
        """Withdraw an unsent alert.

        If there is none, or an earlier alert was sent, enqueue the message that the job has
        recovered.
        """
        if not await self._withdraw() or await self._was_alerted(stored.row.id):
            subject, body = messages.recovered(self.row, stored)
            await self._to_channel("recovered", "recovered", subject, body, self.now)
            stored.row.alert_open = False
        self.session.add(stored.row)

    async def _was_alerted(self, job_id: str) -> bool:
        """Return whether the last message about the job's state says that it fails."""
        query = (
            select(OutboxRow.event)
            .where(
                col(OutboxRow.job_id) == job_id,
                col(OutboxRow.purpose).in_((MESSAGE, ALERT)),
                col(OutboxRow.event).in_(("failed", "paused", "recovered")),
                col(OutboxRow.status) != Delivery.SUPPRESSED,
            )
            .order_by(col(OutboxRow.created_at).desc())
            .limit(1)
        )
        last = (await self.session.execute(query)).scalar_one_or_none()
        return last in ("failed", "paused")

    async def _withdraw(self) -> bool:
        """Withdraw the alert that waits until the hour is over, or that a channel has postponed.

        Return whether there was such an alert.
        """
        assert self.job is not None
        query = select(OutboxRow).where(
            col(OutboxRow.job_id) == self.job.id,
            PENDING,
            col(OutboxRow.event) == "failed",
            col(OutboxRow.purpose) != CALLBACK,
            col(OutboxRow.attempts) == 0,
            col(OutboxRow.next_at) > self.now,
            col(OutboxRow.next_at) > col(OutboxRow.created_at),
        )
        found = (await self.session.execute(query)).scalars().all()
        for row in found:
            note = "withdrawn: a later message replaced it"
            await suppress(self.session, row, note, self.now)
        if found:
            alerts.withdraw_alert(self.job)
        return bool(found)

    def _is_own(self) -> bool:
        """Return whether alerts go to the job's own channel and not to the operator's channel."""
        notify = self.notify
        return bool(notify.channel) and "failed" in notify.events and not notify.silent

    async def _to_channel(
        self, what: str, event: str, subject: str, body: str, at: datetime
    ) -> None:
        own = self._is_own()
        channel = self.notify.channel if own else operator_channel()
        chat_id = chat_id_of(self.notify, self.job) if own else ""
        row = self._new(MESSAGE if own else ALERT, what, event, subject=subject, body=body, at=at)
        row.queue, row.address, row.chat_id = queue_of_channel(channel, chat_id), channel, chat_id
        await self._put(row)

    async def _put(self, row: OutboxRow) -> None:
        await put(self.session, row)
        self.enqueued = True

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
            queue="",
            address="",
            subject=subject,
            body=body,
            next_at=at,
            created_at=self.now,
        )
