"""Search in jobs, runs, answers, sessions and agents, for the page of results."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel
from sqlalchemy import select as select_columns
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from daybook import api
from daybook.api import authorization
from daybook.instants import UtcTime
from daybook.ledger.engine import reading
from daybook.ledger.tables import JobRow, RunRow, SessionRow
from daybook.markdown import headline
from daybook.short_text import clip

Kind = Literal["job", "run", "session", "agent"]

MAX_OF_KIND = 8
"""Maximum number of results of a kind."""
MAX_SEARCHED = 2_000
"""Number of the newest answers, and of the last used sessions, in which a text is searched.

So a search takes a bounded time, however many runs the ledger has.
"""
MAX_TEXT = 200
_ID = re.compile(r"[0-9a-f]{4,32}")


class SearchResult(BaseModel, frozen=True):
    """A result: an object with its ``id``, and a text ``about`` it.

    ``at`` is the end of a run and the last use of a session; None for other kinds.
    """

    kind: Kind
    id: str
    name: str
    about: str = ""
    at: UtcTime | None = None


async def find(text: str) -> list[SearchResult]:
    """Return what contains ``text``, up to `MAX_OF_KIND` of each kind.

    Upper and lower case are equal; on SQLite, only those of ASCII letters.

    Search the names and descriptions of jobs, names of agents, titles and ids of sessions, answers,
    and the ids of runs that begin with it. Of answers and sessions, only the newest `MAX_SEARCHED`
    are searched. A text that is blank, or longer than `MAX_TEXT`, has no results. Works without
    Prefect. Raise `InvalidInput` for an agent.
    """
    authorization.require_operator()
    wanted = text.strip()
    if not wanted or len(wanted) > MAX_TEXT:
        return []
    async with reading() as session:
        found = await _jobs(session, wanted)
        if _ID.fullmatch(wanted.lower()):
            found += await _runs_by_id(session, wanted.lower())
        found += await _answers(session, wanted)
        found += await _sessions(session, wanted)
    names = await api.agents.stored_names()
    matches = [name for name in names if wanted.casefold() in name.casefold()]
    found += [
        SearchResult(kind="agent", id=name, name=name) for name in sorted(matches)[:MAX_OF_KIND]
    ]
    return list({(each.kind, each.id): each for each in found}.values())


async def _jobs(session: AsyncSession, wanted: str) -> list[SearchResult]:
    job = JobRow
    matches = [col(each).icontains(wanted, autoescape=True) for each in (job.name, job.description)]
    query = (
        select_columns(col(job.id), col(job.name), col(job.description))
        .where(col(job.archived_at).is_(None), matches[0] | matches[1])
        .order_by(matches[0].desc(), col(job.name))
        .limit(MAX_OF_KIND)
    )
    rows = (await session.execute(query)).tuples()
    return [SearchResult(kind="job", id=id, name=name, about=about) for id, name, about in rows]


async def _runs_by_id(session: AsyncSession, wanted: str) -> list[SearchResult]:
    run = RunRow
    query = (
        select_columns(col(run.id), col(JobRow.name), col(run.finished_at), col(run.status))
        .outerjoin(JobRow, col(JobRow.id) == col(run.job_id))
        .where(col(run.id) >= wanted, col(run.id) < wanted + "g")
        .limit(MAX_OF_KIND)
    )
    return [
        SearchResult(
            kind="run", id=id, name=name or f"Run {id[:8]}", about=f"{status}, {id}", at=at
        )
        for id, name, at, status in (await session.execute(query)).tuples()
    ]


async def _answers(session: AsyncSession, wanted: str) -> list[SearchResult]:
    run = RunRow
    newest = (
        select_columns(col(run.id))
        .where(col(run.finished_at).is_not(None))
        .order_by(col(run.finished_at).desc())
        .limit(MAX_SEARCHED)
        .subquery()
    )
    query = (
        select_columns(col(run.id), col(JobRow.name), col(run.finished_at), col(run.output))
        .join(newest, newest.c.id == col(run.id))
        .outerjoin(JobRow, col(JobRow.id) == col(run.job_id))
        .where(col(run.output).icontains(wanted, autoescape=True))
        .order_by(col(run.finished_at).desc())
        .limit(MAX_OF_KIND)
    )
    return [
        SearchResult(
            kind="run",
            id=id,
            name=name or f"Run {id[:8]}",
            about=_line(output or "", wanted),
            at=at,
        )
        for id, name, at, output in (await session.execute(query)).tuples()
    ]


def _line(output: str, wanted: str) -> str:
    """Return the first line of an answer that contains the text, or else its headline."""
    lines = (each for each in output.splitlines() if wanted.casefold() in each.casefold())
    return clip(next(lines, headline(output)).strip(), MAX_TEXT)


async def _sessions(session: AsyncSession, wanted: str) -> list[SearchResult]:
    of = SessionRow
    newest = (
        select_columns(col(of.id))
        .order_by(col(of.updated_at).desc())
        .limit(MAX_SEARCHED)
        .subquery()
    )
    matches = [col(each).icontains(wanted, autoescape=True) for each in (of.title, of.id)]
    query = (
        select_columns(col(of.id), col(of.title), col(of.agent), col(of.updated_at))
        .join(newest, newest.c.id == col(of.id))
        .where(matches[0] | matches[1])
        .order_by(col(of.updated_at).desc())
        .limit(MAX_OF_KIND)
    )
    return [
        SearchResult(kind="session", id=id, name=title or id, about=agent, at=at)
        for id, title, agent, at in (await session.execute(query)).tuples()
    ]
