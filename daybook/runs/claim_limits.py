"""The operator's limits that a claim enforces (`daybook.jobs.limits`).

They are checked against what the run would do, whatever was stored or edited in Prefect and
whatever was allowed when the job was written. A run without limits costs no query here.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, or_, select

from daybook import owners
from daybook.errors import InvalidInput, one_line
from daybook.jobs import limits
from daybook.jobs.limits import AgentLimits
from daybook.jobs.store import StoredJob
from daybook.ledger.states import Status
from daybook.ledger.tables import RunRow
from daybook.runs import claim_requests
from daybook.runs.claim_requests import ClaimRequest
from daybook.schedules import durations

log = logging.getLogger(__name__)

USER_JOBS_OFF_REASON = "user jobs are switched off"

_BY_CLOCK = ("schedule", "catch_up")
"""The triggers of runs that nobody requested by hand."""

_NOT_RUN = (Status.SKIPPED, Status.MISSED)


def switched_off(row: RunRow, stored: StoredJob, rules: AgentLimits) -> str:
    """Return why the job of a person or an agent does not fire; empty if it does."""
    if rules.user_jobs or row.attempts or row.trigger not in _BY_CLOCK:
        return ""
    is_exempt = stored.row.owner == owners.PLUGIN or stored.row.kind == "heartbeat"
    return "" if is_exempt else USER_JOBS_OFF_REASON


def violation(row: RunRow, stored: StoredJob, offer: ClaimRequest, now: datetime) -> str:
    """Return why a run of an agent's job exceeds its owner's limits; empty if it does not.

    Nothing that an agent wrote into Prefect raises here: if it cannot be checked, it is refused.
    """
    owner = stored.row.owner
    owner_limits = offer.rules.for_owner(owner)
    if owner_limits is None:
        return ""
    try:
        job = stored.job.with_parameters(row.parameters)
        limits.check(job, owner, owner_limits, now)
    except InvalidInput as error:
        return f"limits: {error}"
    except (ValueError, OverflowError):  # its message may contain the unreadable value
        return "limits: parameters: cannot be read"
    return ""


async def too_soon(
    session: AsyncSession, row: RunRow, stored: StoredJob, offer: ClaimRequest, now: datetime
) -> str:
    """Return why a run of an agent's job comes too soon after another; empty if it does not.

    Only a new run is checked, before it may wait for its turn: waiting would bypass the limit.
    """
    owner_limits = offer.rules.for_owner(stored.row.owner)
    if owner_limits is None or row.status or _is_regular(row):
        return ""
    try:
        await _check_pace(session, row, owner_limits.min_interval, now)
    except InvalidInput as error:
        return f"limits: {error}"
    return ""


def log_refusal(row: RunRow, stored: StoredJob, why: str) -> None:
    """Log that a run was refused."""
    owner, name = stored.row.owner, stored.row.name
    fields = {"action": "limit_refused", "owner": owner, "job": name, "run": row.id}
    log.warning(
        'refused run %s of the job "%s" (%s): %s', row.id, name, owner, one_line(why), extra=fields
    )


def _is_regular(row: RunRow) -> bool:
    """Return whether the row is a due time of the job's schedule, not merely labelled so in
    Prefect.
    """
    return row.job_id is not None and row.occurrence == claim_requests.due_key(row.job_id, row.due)


async def _check_pace(
    session: AsyncSession, row: RunRow, min_interval: timedelta, now: datetime
) -> None:
    """Raise `InvalidInput` if another run came within the minimum interval.

    Applies to runs that Prefect created: by hand, or by a schedule of its own. Runs requested from
    Daybook have their row before the claim and are not checked.
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
            f"another run came less than {durations.to_text(min_interval)} earlier",
            "use `daybook run` to start one now",
        )
