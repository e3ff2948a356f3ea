"""Delay before the next attempt of a run, which the called service may request.

A run waits as long as its policy says, or as long as the service asked if that is longer. But a run
that waits keeps later due times of its job from running (overlap), so a service must not silence a
job: if the service asks for a time after the job's next due time, after the run's deadline, or in
more than `MAX_REQUESTED_DELAY`, no attempt follows. The run fails at once, with an alert, and the
job runs again when it is due. A wait of at most `SHORT_DELAY` may pass the next due time, because
a job that is due in a moment would otherwise fail because of a wait of a few seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from daybook.http.request import MAX_REQUESTED_DELAY
from daybook.jobs import upcoming
from daybook.policies.policy import Policy
from daybook.runs.claim_requests import Granted
from daybook.schedules import durations
from daybook.schedules.zones import is_known, local_text

SHORT_DELAY = timedelta(minutes=1)
_MAX_SECONDS = timedelta(days=3650).total_seconds()
"""Maximum of a requested delay, so that its end is a date."""


@dataclass(frozen=True)
class RequestedDelay:
    """The delay that a service (``who``) requested, in seconds; 0 if it requested none."""

    who: str = ""
    seconds: float = 0.0

    @classmethod
    def of(cls, who: str, retry_after: float | None) -> RequestedDelay:
        return cls(who, min(max(retry_after or 0.0, 0.0), _MAX_SECONDS))

    def words(self, now: datetime, timezone: str) -> str:
        until = now + timedelta(seconds=self.seconds)
        return f"{self.who} asked to wait until {local_text(until, timezone)}"


NO_DELAY = RequestedDelay()


@dataclass(frozen=True)
class RetryDecision:
    """The time of the next attempt, None if there is none; ``why`` names a requested delay."""

    until: datetime | None
    why: str = ""


def decide(
    granted: Granted, policy: Policy, attempt: int, asked: RequestedDelay, now: datetime
) -> RetryDecision:
    """Return when the attempt after ``attempt`` starts."""
    own, requested = policy.delay(attempt), timedelta(seconds=asked.seconds)
    if requested <= own:
        return RetryDecision(now + own)
    limits = [(now + MAX_REQUESTED_DELAY, f"more than {durations.to_text(MAX_REQUESTED_DELAY)}")]
    if policy.deadline is not None:
        limits.append((granted.queued_at + policy.deadline, "after the deadline of the run"))
    job = granted.job.job if granted.job is not None else None
    if job is not None and job.enabled and is_known(job.schedule.timezone):
        due = upcoming.next_due(job.schedule, job.policy, now)
        if due is not None:
            limits.append((max(due, now + SHORT_DELAY), "after the next due time of the job"))
    until, limit = now + requested, min(limits)
    why = asked.words(now, job.schedule.timezone if job is not None else "UTC")
    if until <= limit[0]:
        return RetryDecision(until, why)
    return RetryDecision(None, f"{why}, which is {limit[1]}")
