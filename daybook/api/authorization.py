"""Access checks for jobs and runs: what the current actor may see and change.

The operator, and the operator's programs, see every job. An agent sees its own jobs and their runs;
for any other job or run it gets the same error as for one that does not exist. Each refusal of an
agent is logged as `limit_refused`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from daybook import owners
from daybook.errors import InvalidInput, NotFound, one_line
from daybook.jobs import limits, store
from daybook.jobs.model import Job
from daybook.jobs.store import StoredJob
from daybook.runs import history
from daybook.runs.history import RunAndJob

log = logging.getLogger(__name__)

TRIGGERS = {"cli": "manual", "api": "api", "mcp": "mcp", "run": "mcp"}
"""The trigger of a requested run, by `Actor.via`. All ways of an agent's tools count as `mcp`."""


def visible_owner() -> str | None:
    """Return the owner whose jobs the actor may see; None if it may see all."""
    actor = owners.current_actor()
    owner_limits = limits.load_limits(actor.owner)
    return None if owner_limits is None or owner_limits.all_jobs else actor.owner


def current_trigger() -> str:
    """Return the trigger of a run that the actor requests now."""
    return TRIGGERS.get(owners.current_actor().via, "api")


async def find_job(session: AsyncSession, ref: str, *, archived: bool = False) -> StoredJob:
    """Find a job as `store.find` does, among those that the actor may see."""
    with _log_not_found("job", ref):
        return await store.find(session, ref, archived=archived, owner=visible_owner())


async def list_jobs(session: AsyncSession) -> list[StoredJob]:
    """Return all jobs that the actor may see."""
    whose = visible_owner()
    return [each for each in await store.all_jobs(session) if whose in (None, each.row.owner)]


async def find_run(session: AsyncSession, ref: str) -> RunAndJob:
    """Find a run as `history.find` does, among those that the actor may see."""
    with _log_not_found("run", ref):
        return await history.find(session, ref, owner=visible_owner())


async def find_live_run(session: AsyncSession, ref: str) -> RunAndJob:
    """Find a live run as `history.find_live` does, among those that the actor may see."""
    with _log_not_found("run", ref):
        return await history.find_live(session, ref, owner=visible_owner())


async def find_logged_run(session: AsyncSession, ref: str) -> RunAndJob:
    """Find a run as `history.find_logged` does, among those that the actor may see."""
    with _log_not_found("run", ref):
        return await history.find_logged(session, ref, owner=visible_owner())


async def recent_runs(session: AsyncSession, job_id: str | None, limit: int) -> list[RunAndJob]:
    """Return runs as `history.recent` does, of the jobs that the actor may see."""
    return list(await history.recent(session, job_id, limit, owner=visible_owner()))


def check_limits(job: Job, whose: str, now: datetime, *, changes: bool = True) -> None:
    """Raise `InvalidInput` if the job exceeds the limits of its owner ``whose``.

    If the actor ``changes`` what the job does, the actor's own limits apply as well.
    """
    actor = owners.current_actor().owner
    for each in filter(owners.is_agent, dict.fromkeys((whose, actor) if changes else (whose,))):
        with log_refusals(each, job.name):
            limits.check(job, each, limits.load_limits(each), now)


async def check_job_count(session: AsyncSession, whose: str, name: str) -> None:
    """Raise `InvalidInput` if ``whose`` already has its maximum number of jobs.

    Call it in the transaction that adds the job: only there is the answer final.
    """
    owner_limits = limits.load_limits(whose)
    if owner_limits is None:
        return
    with log_refusals(whose, name):
        if await store.count_owned(session, whose) >= owner_limits.jobs:
            problem = f"{whose} already has its maximum of {owner_limits.jobs} jobs"
            raise InvalidInput("jobs", problem, "remove one first")


@contextmanager
def log_refusals(whose: str, name: str) -> Iterator[None]:
    """Log each `InvalidInput` raised inside, if ``whose`` is an agent."""
    try:
        yield
    except InvalidInput as error:
        if owners.is_agent(whose):
            extra = {"action": "limit_refused", "owner": whose, "job": name, "field": error.field}
            log.warning('%s, job "%s": %s', whose, name, one_line(error), extra=extra)
        raise


@contextmanager
def _log_not_found(noun: str, ref: str) -> Iterator[None]:
    try:
        yield
    except NotFound as error:
        actor = owners.current_actor()
        if actor.is_agent:
            extra = {"action": "limit_refused", "owner": actor.owner, noun: one_line(ref)}
            log.warning(
                "%s requested an unknown job or run: %s", actor.owner, one_line(error), extra=extra
            )
        raise
