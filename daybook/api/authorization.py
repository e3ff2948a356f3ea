"""What the one for whom a verb works may see and change (requirement 41).

The operator, and a program of his, sees every job. An agent sees its own, and the runs of those; of
any other one it is told what it would be told of one that there is not. What it may not do is
logged, as `limit_refused`.
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
from daybook.runs.history import Run

log = logging.getLogger(__name__)

TRIGGERS = {"cli": "manual", "api": "api", "mcp": "mcp", "run": "mcp"}
"""The trigger of a run that is asked for, by what asks for it; an agent's tools are one way."""


def owner() -> str | None:
    """Whose jobs are seen; None where all are."""
    actor = owners.current()
    its = limits.of_owner(actor.owner)
    return None if its is None or its.all_jobs else actor.owner


def trigger() -> str:
    """That of a run which is asked for now."""
    return TRIGGERS.get(owners.current().via, "api")


async def job(session: AsyncSession, ref: str, *, archived: bool = False) -> StoredJob:
    """As `jobs.find`."""
    with _looked_for("job", ref):
        return await store.find(session, ref, archived=archived, owner=owner())


async def every(session: AsyncSession) -> list[StoredJob]:
    """As `jobs.every`."""
    whose = owner()
    return [each for each in await store.every(session) if whose in (None, each.row.owner)]


async def run(session: AsyncSession, ref: str) -> Run:
    """As `history.find`."""
    with _looked_for("run", ref):
        return await history.find(session, ref, owner=owner())


async def live_run(session: AsyncSession, ref: str) -> Run:
    """As `history.find_live`."""
    with _looked_for("run", ref):
        return await history.find_live(session, ref, owner=owner())


async def logged_run(session: AsyncSession, ref: str) -> Run:
    """As `history.find_logged`."""
    with _looked_for("run", ref):
        return await history.find_logged(session, ref, owner=owner())


async def recent(session: AsyncSession, job_id: str | None, limit: int) -> list[Run]:
    """As `history.recent`."""
    return list(await history.recent(session, job_id, limit, owner=owner()))


def check(job: Job, whose: str, now: datetime, *, changes: bool = True) -> None:
    """Raise `InvalidInput` for a job of ``whose`` that is beyond its owner's limits.

    Or beyond those of the agent that works on it, where it ``changes`` what the job does.
    """
    actor = owners.current().owner
    for each in filter(owners.is_agent, dict.fromkeys((whose, actor) if changes else (whose,))):
        with telling(each, job.name):
            limits.check(job, each, limits.of_owner(each), now)


async def check_count(session: AsyncSession, whose: str, name: str) -> None:
    """Raise `InvalidInput` if ``whose`` has as many jobs as it may; in the writing transaction."""
    its = limits.of_owner(whose)
    if its is None:
        return
    with telling(whose, name):
        if await store.count_of(session, whose) >= its.jobs:
            most = f"{its.jobs} are the most that {whose} may have"
            raise InvalidInput("jobs", most, "remove one first")


@contextmanager
def telling(whose: str, name: str) -> Iterator[None]:
    """Log what is refused inside to a job of an agent."""
    try:
        yield
    except InvalidInput as error:
        if owners.is_agent(whose):
            about = {"action": "limit_refused", "owner": whose, "job": name, "field": error.field}
            log.warning('%s, job "%s": %s', whose, name, one_line(error), extra=about)
        raise


@contextmanager
def _looked_for(noun: str, ref: str) -> Iterator[None]:
    try:
        yield
    except NotFound as error:
        actor = owners.current()
        if actor.is_agent:
            about = {"action": "limit_refused", "owner": actor.owner, noun: one_line(ref)}
            log.warning("%s: %s among its own", actor.owner, one_line(error), extra=about)
        raise
