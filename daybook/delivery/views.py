"""Models of deliveries, of the outbox, and of runs with deliveries, as `daybook.api` returns them.

`--json` prints the same fields in the same order. Instants are in UTC.
"""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, Field

from daybook.delivery.alerts import ALERT_EVENTS
from daybook.delivery.outbox import CALLBACK, WAKE, queue_of_url
from daybook.instants import UtcTime
from daybook.jobs.notify import CALLBACK_FIELDS, EVENTS, Notify
from daybook.ledger.states import Delivery
from daybook.ledger.tables import JobRow, OutboxRow, QueueRow
from daybook.ledger.views import Approval, Run, RunFile, RunSource, Step, columns


class Notification(BaseModel, frozen=True):
    """A callback, message, alert, listener call or wake. ``job`` is None if it concerns no job.

    ``to`` is a channel, a listener, a client of MCP or an address. The query
    of an address is omitted, because it may contain tokens. ``next_at`` is None unless the delivery
    is pending.
    """

    id: str
    purpose: str
    event: str
    job: str | None
    job_removed: bool
    run_id: str | None
    to: str
    chat_id: str = Field(repr=False)
    status: str
    attempts: int
    next_at: UtcTime | None
    created_at: UtcTime
    finished_at: UtcTime | None
    error: str | None
    note: str

    @classmethod
    def of(cls, row: OutboxRow, job: JobRow | None, **more: object) -> Self:
        """Return the notification. ``more`` are the fields that a subclass adds."""
        return cls.model_validate(
            columns(cls, row)
            | {
                "job": job.name if job else None,
                "job_removed": bool(job and job.archived_at),
                "to": row.queue if row.purpose in (CALLBACK, WAKE) else row.address,
                "next_at": row.next_at if row.status == Delivery.PENDING else None,
            }
            | more
        )


class DeliveryAttempt(BaseModel, frozen=True):
    """One attempt to deliver a notification. It took ``seconds``, and was recorded at ``at``."""

    at: UtcTime
    seconds: float | None = None
    status_code: int | None = None
    error: str | None = None


class NotificationDetails(Notification, frozen=True):
    """A notification with its content and its last attempts, oldest first.

    ``paused_until`` is the end of the last pause of the destination queue; it may be in the past.
    It is None if the queue was not paused since its last success, if the delivery is not pending,
    and in `daybook.api.run_life`, which does not read the queues.
    """

    subject: str
    body: str = Field(repr=False)
    tries: list[DeliveryAttempt]
    paused_until: UtcTime | None


class InboxMessage(BaseModel, frozen=True):
    """A message in the inbox. ``alert`` is True if its event is in `ALERT_EVENTS`."""

    id: str
    event: str
    alert: bool
    job: str | None
    job_removed: bool
    run_id: str | None
    subject: str
    text: str = Field(repr=False)
    created_at: UtcTime
    read_at: UtcTime | None

    @classmethod
    def of(cls, row: OutboxRow, job: JobRow | None) -> Self:
        return cls.model_validate(
            columns(cls, row)
            | {
                "alert": row.event in ALERT_EVENTS,
                "job": job.name if job else None,
                "job_removed": bool(job and job.archived_at),
                "text": row.body,
            }
        )


class PausedQueue(BaseModel, frozen=True):
    """A destination queue that is paused, or that has had no success since its last pause.

    ``failures`` is the number of failures in a row, the first of them at ``since``. ``error`` is
    the last error.
    """

    queue: str
    failures: int
    since: UtcTime
    paused_until: UtcTime
    error: str

    @classmethod
    def of(cls, row: QueueRow) -> Self:
        return cls.model_validate(columns(cls, row))


class OutboxHealth(BaseModel, frozen=True):
    """State of the outbox, with the unread messages and alerts of the inbox.

    ``in_flight`` is the number of rows that are being sent. ``unread`` includes ``unread_alerts``,
    the messages whose event is in `ALERT_EVENTS`. Wakes of connected sessions do not count as
    pending, because each ends within a minute. No wake counts as failed. ``oldest_pending_at`` is
    the instant since which a row should have been sent; None if none is due.
    """

    pending: int
    oldest_pending_at: UtcTime | None
    in_flight: int
    failed: int
    paused: list[PausedQueue]
    unread: int
    unread_alerts: int


class ListedRun(Run, frozen=True):
    """A run. ``alert`` is the delivery status of the operator's alert about the run, or None."""

    alert: str | None


class RunDetails(ListedRun, frozen=True):
    """A run with the callbacks, messages, alerts and listener calls about it."""

    deliveries: list[Notification]


class RunWithSteps(RunDetails, frozen=True):
    """A run with its deliveries, the steps of its agent, and the approvals of calls and answers.

    ``tools`` are the names of the tools that the model had in its last request that got a response.
    ``sources`` are the pages that the run has read, and ``files`` the files that it has written
    with its tools, until retention removes the texts of its steps.
    """

    steps: list[Step]
    approvals: list[Approval]
    tools: list[str]
    sources: list[RunSource]
    files: list[RunFile]


def recipients(notify: Notify, alert_channel: str) -> dict[str, list[str]]:
    """Return the recipients of each event of a job: `{"completed": ["inbox"], "failed": [...], …}`.

    Omit an event without a recipient. The operator receives a job's failures if the job's channel
    does not receive them.
    """
    channel = notify.channel
    if channel and notify.chat_id:
        channel += f" (chat {notify.chat_id})"
    by_event: dict[str, list[str]] = {}
    for event in EVENTS:
        notified = event in notify.events and not notify.silent
        callback = notify.callbacks[CALLBACK_FIELDS[event]]
        targets = [channel] if notified and channel else []
        if event == "failed" and not targets:
            targets = [alert_channel]
        targets += [queue_of_url(callback)] if notified and callback else []
        if targets:
            by_event[event] = targets
    return by_event
