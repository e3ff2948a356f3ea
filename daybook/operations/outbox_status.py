"""State of the outbox, for `status` and `doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from daybook.api import views
from daybook.delivery import history, outbox, sending
from daybook.delivery.alerts import ALERT_EVENTS
from daybook.ledger.engine import Ledger

UNSENT_GRACE = timedelta(seconds=60)
"""How long a message that could be sent may wait before that is reported as a problem."""


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

    def unread_alerts(self) -> str:
        """Return `2 unread alerts, the last: brief: failed`; empty if there are none."""
        count = self.health["unread_alerts"]
        if not count:
            return ""
        label = "an unread alert" if count == 1 else f"{count} unread alerts, the last"
        return f"{label}: {self.last_alert}"

    def unsent_problem(self) -> str:
        """Describe that messages wait which no process sends; empty if none do."""
        if self.waits_since is None:
            return ""
        since = views.utc_text(self.waits_since.replace(microsecond=0))
        return f"callbacks or messages wait since {since}, and nobody sends them"

    def paused_destinations(self) -> list[str]:
        """Describe each paused destination: its name, how often it failed, and the next try."""
        return [
            f"{each['lane'].removeprefix('channel:')} took nothing {each['failures']} times in a "
            f"row, {self._next_try(each['paused_until'])}: {each['error']}"
            for each in self.health["paused"]
        ]

    def _next_try(self, at: datetime) -> str:
        """Describe the time by this machine's clock; a time that has passed is "now"."""
        if at <= self.now:
            return "the next try is due now"
        return f"the next try is at {at.astimezone():%Y-%m-%d %H:%M:%S}"


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
