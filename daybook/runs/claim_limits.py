"""The operator's limits that a claim enforces (`daybook.jobs.limits`).

The claim checks the parameters that the run would use, not the values that Prefect stores. It uses
the limits as they are now, even if the job was written under other limits. A run without limits
costs no query here.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, or_, select

from daybook import owners
from daybook.errors import InvalidInput
from daybook.jobs import limits
from daybook.jobs.limits import AgentLimits
from daybook.jobs.store import StoredJob
from daybook.ledger.states import Status
from daybook.ledger.tables import RunRow
from daybook.runs import claim_requests
from daybook.runs.claim_requests import ClaimRequest
from daybook.schedules import durations
from daybook.short_text import one_line

log = logging.getLogger(__name__)

USER_JOBS_OFF_REASON = "user jobs are disabled"

_NOT_RUN = (Status.SKIPPED, Status.MISSED)


def switched_off(row: RunRow, stored: StoredJob, rules: AgentLimits) -> str:
    """Return why disabled user jobs forbid an automatic run; empty if the run may start.

    Jobs of plugins, heartbeats, and runs that had an attempt are exempt.
    """
    if rules.user_jobs or row.attempts or not row.started_by.is_automatic:
        return ""
    is_exempt = stored.row.owner == owners.PLUGIN or stored.job.action.ignores_user_jobs
    return "" if is_exempt else USER_JOBS_OFF_REASON


def violation(row: RunRow, stored: StoredJob, request: ClaimRequest, now: datetime) -> str:
    """Return why a run of an agent's job exceeds its owner's limits; empty if it does not.

    Never raise because of values that an agent wrote into Prefect: refuse a run whose values cannot
    be checked.
    """
    owner = stored.row.owner
    owner_limits = request.rules.for_owner(owner)
    if owner_limits is None:
        return ""
    try:
        job = stored.job.with_parameters(row.parameters)
        limits.check(job, owner, owner_limits, now)
    except InvalidInput as error:
        return f"limits: {error}"
    except (ValueError, OverflowError):  # the error's message may contain the unreadable value
        return "limits: parameters: cannot be read"
    return ""


async def too_soon(
    session: AsyncSession, row: RunRow, stored: StoredJob, request: ClaimRequest, now: datetime
) -> str:
    """Return why a run of an agent's job comes too soon after another run; empty if it does not.

    Do not check real due times of the schedule. Check any other run only while it is new, before it
    can wait for its turn: a run that is checked after a wait could bypass the limit.
    """
    owner_limits = request.rules.for_owner(stored.row.owner)
    if owner_limits is None or row.status:
        return ""
    if row.job_id is not None and row.occurrence == claim_requests.due_key(row.job_id, row.due):
        return ""  # a real due time of the schedule, not a run that only has its label in Prefect
    try:
        await _check_pace(session, row, owner_limits.min_interval, now)
    except InvalidInput as error:
        return f"limits: {error}"
    return ""


def log_refusal(row: RunRow, stored: StoredJob, why: str) -> None:
    """Log a warning about the refused run, with ``why`` in one line."""
    owner, name = stored.row.owner, stored.row.name
    fields = {"action": "limit_refused", "owner": owner, "job": name, "run": row.id}
    log.warning(
        'refused run %s of the job "%s" (%s): %s', row.id, name, owner, one_line(why), extra=fields
    )


async def _check_pace(
    session: AsyncSession, row: RunRow, min_interval: timedelta, now: datetime
) -> None:
    """Raise `InvalidInput` if another run of the job was queued or started too recently.

    Too recently means less than ``min_interval`` ago; skipped and missed runs do not count. The
    caller checks only runs created or retried in Prefect, by a user or by a schedule that Daybook
    does not manage. A run that was requested from Daybook has its row before the claim and is not
    checked.
    """
    since = now - min_interval
    recent = (
        select(RunRow.queued_at)
        .where(
            col(RunRow.job_id) == row.job_id,
            col(RunRow.id) != row.id,
            col(RunRow.status).not_in(_NOT_RUN),
            or_(col(RunRow.queued_at) > since, col(RunRow.started_at) > since),
        )
        .limit(1)
    )
    if (await session.execute(recent)).first() is not None:
        raise InvalidInput(
            "schedule",
            f"another run was queued or started less than {durations.to_text(min_interval)} ago",
            "use `daybook run` to start one now",
        )
