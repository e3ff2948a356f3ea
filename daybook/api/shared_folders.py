"""Notes about jobs whose programs work in the same files. Works without Prefect."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import sqlalchemy
from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from daybook.api import authorization
from daybook.execution import folders
from daybook.jobs.actions import DEFAULT_AGENT
from daybook.jobs.model import Job
from daybook.ledger import job_kinds
from daybook.ledger.column_types import valid_json
from daybook.ledger.tables import NEWEST_REVISION, JobRow, RevisionRow
from daybook.runs.folders import overlap
from daybook.short_text import first_names

WAITS = "so their runs wait for each other (--no-exclusive-dir: they do not)"
SHARES = "and exclusive_dir is off, so both may change the same files at once"


async def notes(session: AsyncSession, drafts: Mapping[str, Job]) -> list[str]:
    """Return a note for each of ``drafts`` (by name) whose folder other jobs use too."""
    asking = {
        name: job
        for name, job in drafts.items()
        if job_kinds.asks_agent(job.kind) and not job.policy.repo
    }
    if not asking:
        return []
    of_agents = await folders.of_agents(session)
    given = {
        name: job.policy.work_dir or of_agents.get(_plain_name(job.action.agents()[0][1]), "")
        for name, job in asking.items()
    }
    if not any(given.values()):
        return []
    for name, work_dir, agent in await _stored(session):
        if name not in drafts:
            given[name] = work_dir or of_agents.get(_plain_name(agent or DEFAULT_AGENT), "")
    used = {name: folder for name, folder in given.items() if folder}
    every = sorted(set(used.values()))
    real = await asyncio.gather(*(folders.real_path(each) for each in every))
    paths = dict(zip(every, real, strict=True))
    found = []
    for name, job in asking.items():
        if name not in used:
            continue
        own = paths[used[name]]
        others = sorted(
            other for other in used if other != name and overlap(paths[used[other]], own)
        )
        if others:
            names = first_names(others)
            then = WAITS if job.policy.exclusive_dir else SHARES
            found.append(f"{name} works in the same folder as {names} ({own}), {then}")
    return found


async def _stored(session: AsyncSession) -> list[tuple[str, str | None, str | None]]:
    """Return name, work directory and agent of the live jobs that ask an agent."""
    query = (
        sqlalchemy.select(
            col(JobRow.name),
            valid_json(col(RevisionRow.policy))["work_dir"].as_string(),
            valid_json(col(RevisionRow.action))["agent"].as_string(),
        )
        .join(RevisionRow, NEWEST_REVISION)
        .where(
            col(JobRow.archived_at).is_(None),
            col(JobRow.kind).in_(job_kinds.ASK_AGENTS),
            func.coalesce(valid_json(col(RevisionRow.policy))["repo"].as_string(), "") == "",
        )
    )
    if (owner := authorization.visible_owner()) is not None:
        query = query.where(col(JobRow.owner) == owner)
    return [(name, folder, agent) for name, folder, agent in await session.execute(query)]


def _plain_name(agent: str) -> str:
    return agent.rpartition("/")[2]
