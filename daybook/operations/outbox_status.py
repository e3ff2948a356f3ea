"""State of the outbox, for `status` and `doctor`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from daybook.api import views
from daybook.delivery import history, outbox, sending
from daybook.delivery.alerts import ALERT_EVENTS
from daybook.ledger.engine import Ledger
from daybook.operations.findings import Finding, problem, warning

UNSENT_GRACE = timedelta(seconds=60)
"""Maximum wait of a message that could be sent; a longer one is a problem."""


@dataclass(frozen=True)
class OutboxStatus:
    """State of the outbox at ``now``.

    ``health`` is that of `delivery.sending`; ``last_alert`` the subject of the newest unread alert.
    ``waits_since`` is since when a message that could be sent waits although no process sends any;
    None if none waits long. Calls of listeners are left out: a listener may be absent for a day.
    """

    health: dict[str, Any]
    last_alert: str
    waits_since: datetime | None
    now: datetime

    def as_view(self) -> dict[str, Any]:
        """Return `health` with its instants as text."""
        paused = [
            each
            | {
                "since": views.utc_text(each["since"]),
                "paused_until": views.utc_text(each["paused_until"]),
            }
            for each in self.health["paused"]
        ]
        oldest = views.utc_text(self.health["oldest_pending_at"])
        return self.health | {"oldest_pending_at": oldest, "paused": paused}

    def findings(self, reported: Collection[str] = ()) -> list[Finding]:
        """Report what is not sent, what failed, and unread alerts.

        ``reported`` are the jobs whose failure is reported already: an alert about one is counted,
        but not quoted.
        """
        found = []
        if self.waits_since is not None:
            since = views.utc_text(self.waits_since.replace(microsecond=0))
            message = f"callbacks or messages have waited since {since}, and no process sends them"
            found.append(problem("outbox", message, "daybook keeper, or daybook up"))
        found += [
            problem(
                "outbox",
                f"delivery to {each['lane'].removeprefix('channel:')} failed {each['failures']} "
                f"times in a row, {self._next_attempt(each['paused_until'])}: {each['error']}",
                "check that it responds; daybook callbacks retry ID sends one at once",
            )
            for each in self.health["paused"]
        ]
        if unread := self.health["unread_alerts"]:
            message = f"{unread:,} unread alert" + "s" * (unread > 1)
            if self.last_alert.partition(": ")[0] not in reported:
                message += (
                    f", the last: {self.last_alert}" if unread > 1 else f": {self.last_alert}"
                )
            fix = "daybook inbox shows them; daybook inbox --read marks them as read"
            found.append(warning("outbox", message, fix))
        if failed := self.health["failed"]:
            message = f"{failed:,} " + (
                "callback or message failed" if failed == 1 else "callbacks or messages failed"
            )
            fix = "daybook callbacks list --status failed; daybook callbacks retry --failed"
            found.append(warning("outbox", f"{message} for good", fix))
        return found

    def _next_attempt(self, at: datetime) -> str:
        """Describe the time by this machine's clock; a time that has passed is "now"."""
        if at <= self.now:
            return "the next attempt is due now"
        return f"the next attempt is at {at.astimezone():%Y-%m-%d %H:%M:%S}"


async def read_status(ledger: Ledger) -> OutboxStatus:
    """Read the current state."""
    now, due = ledger.now(), await sending.next_due(ledger, outbox.is_outgoing)
    async with ledger.read() as session:
        health = await sending.health(session, now)
        last_alerts = await history.inbox(session, unread_only=True, events=ALERT_EVENTS, limit=1)
    is_stuck = due is not None and due < now - UNSENT_GRACE and not health["in_flight"]
    return OutboxStatus(
        health, last_alerts[0].subject if last_alerts else "", due if is_stuck else None, now
    )
