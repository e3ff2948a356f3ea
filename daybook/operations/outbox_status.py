"""How the outbox is, for whoever asks how this Daybook is: `status` and `doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from daybook.api import views
from daybook.delivery import history, outbox, sending
from daybook.delivery.alerts import ALARMING
from daybook.ledger.engine import Ledger

PATIENCE = timedelta(seconds=60)
"""How long what could be sent may wait before it is said that nobody sends it."""


@dataclass(frozen=True)
class Told:
    """`health` is that of `ledger.sending`; `last_alert` the subject of the newest unread one.

    `waits_since` is since when something could have been sent and nobody sends anything; None where
    nothing waits long. A listener may be away for a day: what waits for one is left out there.
    """

    health: dict[str, Any]
    last_alert: str
    waits_since: datetime | None
    now: datetime

    def as_view(self) -> dict[str, Any]:
        """As `health`, its instants in words."""
        paused = [
            each
            | {
                "since": views.utc(each["since"]),
                "paused_until": views.utc(each["paused_until"]),
            }
            for each in self.health["paused"]
        ]
        oldest = views.utc(self.health["oldest_pending_at"])
        return self.health | {"oldest_pending_at": oldest, "paused": paused}

    def unread(self) -> str:
        """`2 unread alerts, the last: brief: failed`; empty for none."""
        count = self.health["unread_alerts"]
        if not count:
            return ""
        what = "an unread alert" if count == 1 else f"{count} unread alerts, the last"
        return f"{what}: {self.last_alert}"

    def nobody_sends(self) -> str:
        """That something waits which could be sent; empty where nothing does."""
        if self.waits_since is None:
            return ""
        since = views.utc(self.waits_since.replace(microsecond=0))
        return f"callbacks or messages wait since {since}, and nobody sends them"

    def away(self) -> list[str]:
        """Describe each destination that takes nothing: which, how often, and the next try."""
        return [
            f"{each['lane'].removeprefix('channel:')} took nothing {each['failures']} times in a "
            f"row, {self._next_try(each['paused_until'])}: {each['error']}"
            for each in self.health["paused"]
        ]

    def _next_try(self, at: datetime) -> str:
        """Say when, by this machine's clock; a time that has passed is "now"."""
        if at <= self.now:
            return "the next try is due now"
        return f"the next try is at {at.astimezone():%Y-%m-%d %H:%M:%S}"


async def look(ledger: Ledger) -> Told:
    """How it is now."""
    now, due = ledger.now(), await sending.next_due(ledger, outbox.is_sent)
    async with ledger.read() as session:
        health = await sending.health(session, now)
        newest = await history.inbox(session, unread_only=True, events=ALARMING, limit=1)
    waits = due is not None and due < now - PATIENCE and not health["in_flight"]
    return Told(health, newest[0].subject if newest else "", due if waits else None, now)
