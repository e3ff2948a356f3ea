"""When a job's failures are told of (requirement 34): so that none is silent, and no storm comes.

::

    told last     open   a failure now                        a success now
    ------------  -----  -----------------------------------  ------------------------------------
    never         no     told at once; open                   nothing
    an hour ago   no     told at once; open                   nothing
    less          no     told when the hour is over; open     nothing
    an hour ago   yes    told once more, with their count     one recovery note; no longer open
    less          yes    held back: it is known to fail       one recovery note; no longer open;
                                                              what was not sent yet is withdrawn

`jobs.alerted_at` is when it was told last, or will be; `jobs.alert_open` whether a recovery is
owed. So a job that fails and succeeds by turns has one alert and one recovery an hour, and one
whose last word was a recovery does not fail unheard. That a job was paused is told always.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from daybook.ledger.tables import JobRow

QUIET = timedelta(hours=1)
"""How long after a failure was told of the next one is."""

ALARMING = frozenset({"failed", "missed", "paused", "overdue", "undelivered", "needs_attention"})
"""The events of what somebody should look at, whoever it was told to; the rest is good to know."""


def when(job: JobRow, now: datetime) -> datetime | None:
    """When a failure of ``now`` is told of; None: it is known that the job fails."""
    last = job.alerted_at
    if last is None or now >= last + QUIET or last > now + QUIET:  # the clock was set back
        return now
    return None if job.alert_open else last + QUIET


def told(job: JobRow, at: datetime) -> None:
    """A failure is told of at ``at``."""
    job.alerted_at, job.alert_open = at, True


def withdrawn(job: JobRow, at: datetime) -> None:
    """What was to be told at ``at`` is not: the hour counts from what was told before."""
    job.alerted_at, job.alert_open = at - QUIET, False
