"""Selection of the run that a session gets, or of the reason why it gets none.

`matching.refusal_reason` decides. The query omits only runs that this function would always refuse,
so that a claim stays cheap with a long queue. The query reads only the columns that the decision
needs. This module writes nothing.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook import owners
from daybook.features.tasks import matching, model, pause, sessions
from daybook.features.tasks.matching import Candidate, RunRequirements
from daybook.features.tasks.states import TaskRunStatus
from daybook.features.tasks.tables import TaskRow, TaskRunRow, TaskSessionRow

FIRST_BATCH_SIZE = 100
"""Number of runs that are read first. The others are read only if none of the first ones fits."""


async def claim_refusal_reason(
    session: AsyncSession, row: TaskSessionRow, held: TaskRunRow | None, now: datetime
) -> str:
    """Return the reason why the session cannot claim a run; "" if nothing prevents a claim.

    The possible reasons are: the scheduler is paused, the session has expired, or it already holds
    a run. ``held`` is the run that the session holds, or None. A run whose lease has expired does
    not count. `first_fitting` checks whether the session is idle and not prompting.
    """
    paused = await pause.read(session)
    if paused.paused:
        return "the task scheduler is paused" + (f": {paused.reason}" if paused.reason else "")
    if row.expires_at <= now:
        since = (row.expires_at - sessions.SESSION_TIMEOUT).replace(microsecond=0).isoformat()
        hint = "report its state or register it again"
        return f"the session expired: it has been silent since {since}; {hint}"
    if held is not None and (held.lease_until is None or held.lease_until > now):
        return f"the session holds run {held.id[:8]}; complete, fail or release it first"
    return ""


_QUEUED = (col(TaskRunRow.status) == TaskRunStatus.QUEUED) & col(TaskRunRow.finished_at).is_(None)
_REQUIREMENTS = (
    select(
        TaskRunRow.id,
        TaskRow.priority,
        TaskRunRow.queued_at,
        TaskRow.owner,
        TaskRow.workspace,
        TaskRow.channel,
        TaskRow.capabilities,
        TaskRow.paused,
    )  # type: ignore[call-overload]
    .join(TaskRow, col(TaskRow.id) == col(TaskRunRow.task_id))
    .where(_QUEUED)
    .order_by(col(TaskRow.priority), col(TaskRunRow.queued_at), col(TaskRunRow.id))
)
"""Query for the requirements of each queued run, in the order of claims."""


def _requirements(row: Any) -> RunRequirements:
    id_, priority, queued_at, owner, workspace, channel, capabilities, paused = row
    return RunRequirements(
        run_id=id_,
        priority=priority,
        queued_at=queued_at,
        owner=owner,
        workspace=workspace,
        channel=channel,
        capabilities=tuple(capabilities),
        paused=paused,
    )


async def first_fitting(
    session: AsyncSession, candidate: Candidate, lowest: int, now: datetime
) -> str | None:
    """Return the id of the first run, in claim order, that fits the session.

    Return None if none fits. ``lowest`` is the index in `model.PRIORITIES` of the lowest priority
    that counts.

    The database omits runs that can never fit. `matching.refusal_reason` checks the others, once
    for all runs with the same requirements.
    """
    if matching.busy_reason(candidate, now):
        return None
    owners_allowed = [model.ANY_SESSION, model.SESSION_PREFIX + candidate.name]
    if candidate.agent:
        owners_allowed.append(owners.AGENT_PREFIX + candidate.agent)
    candidates = _REQUIREMENTS.where(
        ~col(TaskRow.paused),
        col(TaskRow.priority) <= lowest,
        col(TaskRow.owner).in_(owners_allowed),
        col(TaskRow.workspace).in_({"", candidate.workspace}),
        col(TaskRow.channel).in_({"", candidate.channel}),
    )
    unfit: set[tuple[object, ...]] = set()
    for queue in (candidates.limit(FIRST_BATCH_SIZE), candidates):
        queued = (await session.execute(queue)).all()
        for wanted in map(_requirements, queued):
            requirements = (wanted.owner, wanted.workspace, wanted.channel, wanted.capabilities)
            if requirements in unfit:
                continue
            if not matching.refusal_reason(wanted, candidate, now):
                return wanted.run_id
            unfit.add(requirements)
        if len(queued) < FIRST_BATCH_SIZE:
            break
    return None


async def no_match_reason(
    session: AsyncSession, candidate: Candidate, lowest: int, now: datetime
) -> str:
    """Return the reason why the session gets no run.

    It is busy, no run is queued, or no queued run fits.
    """
    if reason := matching.busy_reason(candidate, now):
        return reason
    first_run = (await session.execute(_REQUIREMENTS.limit(1))).first()
    if first_run is None:
        return "no task is queued"
    count = (await session.execute(select(func.count()).where(_QUEUED))).scalar_one()
    if _requirements(first_run).priority > lowest:
        return f"none of the queued runs ({count:,}) has the priority {model.PRIORITIES[lowest]}"
    reason = matching.refusal_reason(_requirements(first_run), candidate, now)
    return f"none of the queued runs ({count:,}) fits; the first: {reason}"
