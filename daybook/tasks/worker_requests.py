"""The worker that is asked for when a run starves: a run of an agent-prompt job, once a claim.

The job is one that the operator has marked for it, with the tag `task-worker`; its agent's
capabilities cover what the task requires. The request is written in the cycle's transaction, under
a key that follows from the task run and its claim; the keeper makes its Prefect run, as that of
any run that was asked for. What is spawned is no more than a session: it registers, claims and
completes by itself, in a conversation of its own, whichever its job's other runs continue.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook import owners
from daybook.jobs import store
from daybook.jobs.actions import AgentPrompt
from daybook.jobs.store import StoredJob
from daybook.ledger.states import LIVE
from daybook.ledger.tables import JobRow, RunRow
from daybook.ledger.task_tables import TaskEventRow, TaskRow, TaskRunRow
from daybook.runs import claim_requests, claims
from daybook.tasks import model

TAG = "task-worker"
TRIGGER = "api"
SHOWN = 8
"""Letters of the run's id in its worker's name."""
MOST_WORKERS = 3
"""The most that are asked for on behalf of one run, however often it is claimed and given back."""
AT_ONCE = 4
"""So many workers are under way, of all tasks together: each may cost money, and each that ends
makes room for the next.
"""

REQUESTED = "worker_requested"
"""The event of a run for which one was asked for."""

Capable = Mapping[str, Collection[str]]
"""What each agent can do, by its name (`daybook.agents.documents.capabilities`)."""


async def workers(session: AsyncSession) -> list[StoredJob]:
    """The jobs that may be run for a task, by name."""
    asking = select(JobRow.id, JobRow.tags).where(
        col(JobRow.kind) == "agent-prompt", col(JobRow.archived_at).is_(None)
    )
    ids = [id_ for id_, tags in (await session.execute(asking)).tuples() if TAG in tags]
    found = await store.every(session, ids) if ids else []
    return [each for each in found if each.job.enabled]


def choose(jobs_: Iterable[StoredJob], task: TaskRow, capable: Capable) -> StoredJob | None:
    """That whose agent has all that the task requires, and least beside it; None: none has."""
    fits = []
    for stored in jobs_:
        action = stored.job.action
        has = set(capable.get(action.agent, ())) if isinstance(action, AgentPrompt) else set()
        if set(task.capabilities) <= has and _may(stored.row.owner, task.owner):
            fits.append((len(has - set(task.capabilities)), stored.row.name, stored))
    return min(fits, key=lambda each: each[:2])[2] if fits else None


def _may(job_owner: str, task_owner: str) -> bool:
    """Whether a session of that job's run may have the task."""
    if task_owner.startswith(model.BY_SESSION):
        return False  # that one alone
    if not owners.is_agent(task_owner):
        return True
    return not owners.is_agent(job_owner) or job_owner == task_owner


async def ask(
    session: AsyncSession,
    stored: StoredJob,
    task: TaskRow,
    run: TaskRunRow,
    *,
    has: Collection[str],
    now: datetime,
) -> RunRow:
    """Write down the request of a worker whose agent ``has`` these capabilities.

    The same run and claim again gives the same request.
    """
    key = claim_requests.request_key(stored.id, f"task-{run.id}-{run.fence}")
    same = select(RunRow).where(col(RunRow.occurrence) == key)
    row: RunRow | None = (await session.execute(same)).scalar_one_or_none()
    if row is None:
        row = claims.asked_for(stored, key, TRIGGER, now, now)
        prompt = f"{row.parameters['prompt']}\n\n{told(task, run, has)}"
        # Workers of one conversation would wait for each other, and read of each other's tasks.
        alone = {"session": "new", "session_key": ""}
        row.parameters = {**row.parameters, **alone, "prompt": prompt}
        session.add(row)
        await session.flush()
    return row


async def under_way(session: AsyncSession, jobs_: Iterable[StoredJob]) -> int:
    """How many workers were asked for, as runs of these jobs, and have not ended."""
    asked = select(func.count()).where(
        col(RunRow.status).in_(LIVE),
        col(RunRow.job_id).in_([each.id for each in jobs_]),
        col(RunRow.occurrence).like(claim_requests.request_key("%", "task-%")),
    )
    count: int = (await session.execute(asked)).scalar_one()
    return count


async def had_enough(session: AsyncSession, run: TaskRunRow) -> bool:
    """Whether `MOST_WORKERS` were asked for, for this run, by now."""
    if run.fence < MOST_WORKERS:  # one is asked for between two claims
        return False
    its = select(func.count()).where(
        col(TaskEventRow.run_id) == run.id, col(TaskEventRow.event) == REQUESTED
    )
    count: int = (await session.execute(its)).scalar_one()
    return count >= MOST_WORKERS


def name_of(run: TaskRunRow) -> str:
    """What the worker's session is called: another one after each claim of the run."""
    return f"worker-{run.id[:SHOWN]}-{run.fence}"


def told(task: TaskRow, run: TaskRunRow, has: Collection[str]) -> str:
    """What the worker must know beside its job's prompt: whom it registers as, and what it does.

    What the task is about it learns from its claim.
    """
    name = name_of(run)
    given: dict[str, Any] = {
        "name": name,
        "type": "worker",
        "workspace": task.workspace,
        "channel": task.channel,
        "capabilities": sorted({*task.capabilities, *(set(task.preferred) & set(has))}),
    }
    if agent := owners.agent_id(task.owner):
        given["agent"] = agent
    given = {field: value for field, value in given.items() if value}
    # No word of a task is taken for a variable of the prompt.
    words = json.dumps(given, ensure_ascii=False).replace("{{", "{\\u007b")
    return (
        "You are started because a task waits that no session has claimed. Use Daybook's tools:\n"
        f"1. task_session_register with {words}\n"
        f'2. task_next with the session "{name}": you get a task and a token. If there is none, '
        "another session has it: say so, and end.\n"
        "3. Do what the task says. Before the lease is over, task_heartbeat with the token.\n"
        "4. task_complete with the token and what came of it; if it cannot be done, task_fail with "
        "the token and why."
    )
