"""State of the outbox, for `status` and `doctor`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from daybook import settings
from daybook.delivery import history, sending
from daybook.delivery.alerts import ALERT_EVENTS
from daybook.delivery.outbox import is_outgoing
from daybook.delivery.views import OutboxHealth
from daybook.finding import Finding, FindingAction, problem, warning
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import JobRow
from daybook.schedules.zones import time_with_zone

READ_ALERTS = "daybook inbox shows them; daybook inbox --read marks them as read"
UNSENT_GRACE = timedelta(seconds=60)
"""Time that a message that can be sent may wait. A longer wait is a problem."""


@dataclass(frozen=True)
class OutboxStatus:
    """State of the outbox at ``now``.

    ``last_alert`` is the subject of the newest unread alert, or empty. It says if its job has
    recovered since. If a message has waited longer than `UNSENT_GRACE` and no process sends
    messages, ``waits_since`` is the time at which the oldest such message became due; otherwise it
    is None. ``waits_since`` ignores wakes of live agents. It also ignores calls to listeners,
    because a listener may be absent for a day.
    """

    health: OutboxHealth
    last_alert: str
    waits_since: datetime | None
    now: datetime

    def findings(self, reported: Collection[str] = ()) -> list[Finding]:
        """Return the findings about the outbox.

        They report callbacks and messages that no process sends, paused destinations, unread
        alerts, and deliveries that failed permanently. ``reported`` are the names of the jobs whose
        failure the caller already reports. The findings count an alert about such a job, but do not
        contain its text.
        """
        found = []
        if self.waits_since is not None:
            since = time_with_zone(self.waits_since, settings.load().timezone, self.now)
            title = (
                f"Callbacks or messages have been waiting since {since}, and no process sends them"
            )
            found.append(problem("outbox", title, "daybook keeper, or daybook up", kind="outbox"))
        found += [
            problem(
                "outbox",
                f"Delivery to {each.queue.removeprefix('channel:')} failed {each.failures} "
                f"times in a row, {self._next_attempt(each.paused_until)}: {each.error}",
                "check that it responds; daybook callbacks retry ID sends one at once",
                kind="outbox",
            )
            for each in self.health.paused
        ]
        if unread := self.health.unread_alerts:
            message = f"{unread:,} unread alert" + "s" * (unread > 1)
            if self.last_alert.partition(": ")[0] not in reported:
                message += (
                    f", the last: {self.last_alert}" if unread > 1 else f": {self.last_alert}"
                )
            found.append(
                warning("outbox", message, READ_ALERTS, kind="inbox", action=FindingAction.READ)
            )
        if failed := self.health.failed:
            message = f"{failed:,} " + (
                "callback or message" if failed == 1 else "callbacks or messages"
            )
            fix = "daybook callbacks list --status failed; daybook callbacks retry --failed"
            message += " failed permanently"
            found.append(warning("outbox", message, fix, kind="outbox", action=FindingAction.RETRY))
        return found

    def _next_attempt(self, at: datetime) -> str:
        """Describe the time of the next attempt in this machine's zone. A past time means "now"."""
        if at <= self.now:
            return "the next attempt is due now"
        return f"the next attempt is at {at.astimezone():%Y-%m-%d %H:%M:%S}"


async def read_status(ledger: Ledger) -> OutboxStatus:
    """Return the current state of the outbox."""
    now, due = ledger.now(), await sending.next_due(ledger, is_outgoing)
    async with ledger.read() as session:
        health = await history.health(session, now)
        last_alert = await _last_alert(session)
    is_stuck = due is not None and due < now - UNSENT_GRACE and not health.in_flight
    return OutboxStatus(health, last_alert, due if is_stuck else None, now)


async def _last_alert(session: AsyncSession) -> str:
    alerts = await history.inbox(session, unread_only=True, events=ALERT_EVENTS, limit=1)
    if not alerts:
        return ""
    alert = alerts[0]
    job = await session.get(JobRow, alert.job_id) if alert.job_id else None
    has_recovered = alert.event in ("failed", "paused") and job is not None and not job.alert_open
    return alert.subject + (" (it has recovered since)" if has_recovered else "")
