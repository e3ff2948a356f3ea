"""Requests for a worker when a task run starves. A worker is a run of an agent-prompt job.

The operator marks the job for this with the tag `task-worker`; its agent must have the capabilities
that the task requires. At most one worker is requested between two claims of a task run. The
request is written in the cycle's transaction, under a key derived from the task run and its claim.
The keeper creates its Prefect run, as for any requested run. The worker is an ordinary task
session: it registers, claims and completes by itself, and never shares a conversation with other
runs of the job.
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
from daybook.features.tasks import model
from daybook.features.tasks.tables import TaskEventRow, TaskRow, TaskRunRow
from daybook.jobs import store
from daybook.jobs.actions import AgentPrompt
from daybook.jobs.store import StoredJob
from daybook.ledger.states import LIVE
from daybook.ledger.tables import JobRow, RunRow
from daybook.runs import claim_requests, claims

TAG = "task-worker"
TRIGGER = "api"
RUN_ID_LENGTH = 8
"""Number of characters of the run's id in the name of its worker."""
MAX_WORKERS_PER_RUN = 3
"""Maximum number of workers requested for a task run, for all its claims together."""
MAX_CONCURRENT_WORKERS = 4
"""Maximum number of workers in progress, for all tasks together.

Each worker may cost money. When one worker ends, another may be requested.
"""

REQUESTED = "worker_requested"
"""Event of a task run for which a worker was requested."""

AgentCapabilities = Mapping[str, Collection[str]]
"""The capabilities of each agent, by its references (`agents.documents.capabilities`)."""


async def worker_jobs(session: AsyncSession) -> list[StoredJob]:
    """Return the enabled agent-prompt jobs with the tag `task-worker`, sorted by name."""
    query = select(JobRow.id, JobRow.tags).where(
        col(JobRow.kind) == "agent-prompt", col(JobRow.archived_at).is_(None)
    )
    ids = [id_ for id_, tags in (await session.execute(query)).tuples() if TAG in tags]
    jobs = await store.all_jobs(session, ids) if ids else []
    return [each for each in jobs if each.job.enabled]


def choose(
    jobs_: Iterable[StoredJob], task: TaskRow, capable: AgentCapabilities
) -> StoredJob | None:
    """Return the job whose run can be a worker for the task. Return None if there is no such job.

    A task session of that run may claim the task, and the job's agent exists and has all required
    capabilities. If several jobs qualify, return the job whose agent has the fewest other
    capabilities.
    """
    fits = []
    for stored in jobs_:
        action = stored.job.action
        if not isinstance(action, AgentPrompt) or action.agent not in capable:
            continue
        has = set(capable[action.agent])
        if set(task.capabilities) <= has and _may_claim(stored.row.owner, action.agent, task.owner):
            fits.append((len(has - set(task.capabilities)), stored.row.name, stored))
    return min(fits, key=lambda each: each[:2])[2] if fits else None


def _may_claim(job_owner: str, agent: str, task_owner: str) -> bool:
    """Return whether a task session of a run of this job may claim the task.

    The run registers the session as the job's owner if this is an agent, otherwise as ``agent``
    (`execution.agent_request.actor_of`), and an agent can register a session only for itself.
    """
    if task_owner.startswith(model.SESSION_PREFIX):
        return False  # only the named session may claim the task
    if not owners.is_agent(task_owner):
        return True
    if owners.is_agent(job_owner):
        return job_owner == task_owner
    return owners.agent_id(task_owner) == agent.rpartition("/")[2]


async def request_worker(
    session: AsyncSession,
    stored: StoredJob,
    task: TaskRow,
    run: TaskRunRow,
    *,
    has: Collection[str],
    now: datetime,
) -> RunRow:
    """Store the request for a worker whose agent ``has`` these capabilities. Return its row.

    A repeated request for the same task run and claim returns the row of the first request.
    """
    key = claim_requests.request_key(stored.id, f"task-{run.id}-{run.fence}")
    same = select(RunRow).where(col(RunRow.occurrence) == key)
    row: RunRow | None = (await session.execute(same)).scalar_one_or_none()
    if row is None:
        row = claims.new_requested_row(stored, key, TRIGGER, now, now)
        prompt = f"{row.parameters['prompt']}\n\n{worker_instructions(task, run, has)}"
        # Workers that share a conversation would wait for each other, and see each other's tasks.
        own_conversation = {"session": "new", "session_key": ""}
        row.parameters = {**row.parameters, **own_conversation, "prompt": prompt}
        session.add(row)
        await session.flush()
    return row


async def count_under_way(session: AsyncSession, jobs_: Iterable[StoredJob]) -> int:
    """Return the number of live workers that were requested as runs of these jobs."""
    query = select(func.count()).where(
        col(RunRow.status).in_(LIVE),
        col(RunRow.job_id).in_([each.id for each in jobs_]),
        col(RunRow.occurrence).like(claim_requests.request_key("%", "task-%")),
    )
    count: int = (await session.execute(query)).scalar_one()
    return count


async def has_max_workers(session: AsyncSession, run: TaskRunRow) -> bool:
    """Return whether `MAX_WORKERS_PER_RUN` workers have been requested for this task run."""
    if run.fence < MAX_WORKERS_PER_RUN:  # at most one worker is requested between two claims
        return False
    query = select(func.count()).where(
        col(TaskEventRow.run_id) == run.id, col(TaskEventRow.event) == REQUESTED
    )
    count: int = (await session.execute(query)).scalar_one()
    return count >= MAX_WORKERS_PER_RUN


def session_name(run: TaskRunRow) -> str:
    """Return the name of the worker's session. It is a new name after each claim of the run."""
    return f"worker-{run.id[:RUN_ID_LENGTH]}-{run.fence}"


def worker_instructions(task: TaskRow, run: TaskRunRow, has: Collection[str]) -> str:
    """Return the instructions to append to the job's prompt: how to register, and the next steps.

    The worker gets the content of the task with its claim.
    """
    name = session_name(run)
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
    # A text of a task must not be interpreted as a variable of the prompt.
    arguments_json = json.dumps(given, ensure_ascii=False).replace("{{", "{\\u007b")
    return (
        "You were started because no session has claimed a queued task. Use Daybook's tools:\n"
        f"1. task_session_register with {arguments_json}\n"
        f'2. task_next with the session "{name}": you get a task and a token. If there is none, '
        "another session has it: report that and stop.\n"
        "3. Do the task. Before the lease expires, call task_heartbeat with the token.\n"
        "4. task_complete with the token and the result; if the task cannot be done, task_fail "
        "with the token and the reason."
    )
