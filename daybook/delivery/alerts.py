"""Rules for alerts about a job's failures, to avoid both silence and bursts.

::

    last alert    open   a failure now                        a success now
    ------------  -----  -----------------------------------  ------------------------------------
    never         no     alert at once; open                  nothing
    an hour ago   no     alert at once; open                  nothing
    less          no     alert when the hour is over; open    nothing
    an hour ago   yes    alert again, with the count          one recovery message; closed
    less          yes    suppressed: known to fail            an unsent alert is withdrawn; one
                                                              recovery message, unless it was the
                                                              first alert; closed

`jobs.alerted_at` is the time of the last alert. This time is in the future if the alert waits until
the hour is over. `jobs.alert_open` is true from an alert until the job succeeds. So a job that
alternates between failure and success causes at most one alert and one recovery message an hour. A
failure after a recovery message is reported, unless the job succeeds before the hour is over. The
message that a job was paused is always sent at once.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from daybook.ledger.tables import JobRow

ALERT_INTERVAL = timedelta(hours=1)
"""Minimum interval between two alerts about a job's failures."""

ALERT_EVENTS = frozenset(
    {
        *("failed", "missed", "paused", "overdue", "undelivered", "needs_attention", "budget"),
        "approval",
    }
)
"""Events that need attention from any recipient. All other events only inform."""


def next_alert_at(job: JobRow, now: datetime) -> datetime | None:
    """Return the time at which to alert about a failure at ``now``.

    Return None if the last alert is still open and less than `ALERT_INTERVAL` old.
    """
    last = job.alerted_at
    if (
        last is None or now >= last + ALERT_INTERVAL or last > now + ALERT_INTERVAL
    ):  # there was no alert, the hour is over, or the clock was set back
        return now
    return None if job.alert_open else last + ALERT_INTERVAL


def record_alert(job: JobRow, at: datetime) -> None:
    """Record an alert that is sent at ``at``. From then on, the job's alert is open."""
    job.alerted_at, job.alert_open = at, True


def withdraw_alert(job: JobRow) -> None:
    """Withdraw the last alert, which was not sent. The hour counts from the previous alert again.

    If there was none, it counts from an hour before, so the next failure causes an alert at once.
    """
    if job.alerted_at is not None:
        job.alerted_at -= ALERT_INTERVAL
    job.alert_open = False
