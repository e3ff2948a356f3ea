"""Rules for alerts about a job's failures: never silently, never in bursts.

::

    last alert    open   a failure now                        a success now
    ------------  -----  -----------------------------------  ------------------------------------
    never         no     alert at once; open                  nothing
    an hour ago   no     alert at once; open                  nothing
    less          no     alert when the hour is over; open    nothing
    an hour ago   yes    alert again, with the count          one recovery message; closed
    less          yes    suppressed: known to fail            one recovery message; closed;
                                                              an unsent alert is withdrawn

`jobs.alerted_at` is the time of the last alert, which may be in the future; `jobs.alert_open` is
true while a recovery message is due. So a job that alternates between failure and success gets one
alert and one recovery message an hour, and a failure after a recovery message is not silent. The
message that a job was paused is always sent.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from daybook.ledger.tables import JobRow

ALERT_INTERVAL = timedelta(hours=1)
"""The minimum interval between two alerts of a job."""

ALERT_EVENTS = frozenset(
    {"failed", "missed", "paused", "overdue", "undelivered", "needs_attention"}
)
"""The events that need attention, for any recipient; other events are informative."""


def next_alert_at(job: JobRow, now: datetime) -> datetime | None:
    """Return the time of the alert for a failure at ``now``; None if it is known to fail."""
    last = job.alerted_at
    if (
        last is None or now >= last + ALERT_INTERVAL or last > now + ALERT_INTERVAL
    ):  # the clock was set back
        return now
    return None if job.alert_open else last + ALERT_INTERVAL


def record_alert(job: JobRow, at: datetime) -> None:
    """Record that an alert is sent at ``at``."""
    job.alerted_at, job.alert_open = at, True


def withdraw_alert(job: JobRow, at: datetime) -> None:
    """Withdraw the alert planned for ``at``: the hour counts from the alert before it."""
    job.alerted_at, job.alert_open = at - ALERT_INTERVAL, False
