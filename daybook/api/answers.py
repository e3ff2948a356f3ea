"""The latest answers of the last 24 hours: the newest of each job, and the jobs without news."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy
from pydantic import BaseModel, Field
from sqlalchemy import ColumnElement, case, func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from daybook.api import authorization
from daybook.instants import UtcTime
from daybook.jobs import store
from daybook.jobs.notify import is_silent
from daybook.ledger import job_kinds
from daybook.ledger.engine import open_ledger
from daybook.ledger.states import Status
from daybook.ledger.tables import Fact, JobRow, RunRow
from daybook.ledger.views import Run
from daybook.markdown import MAX_HEADLINE, headline
from daybook.short_text import one_line

PERIOD = timedelta(hours=24)
MAX_ANSWERS = 10
MAX_CHARACTERS = 6_000
"""Maximum length of an answer in the list. The page of its run shows a longer answer in full."""
_READ_UNTIL = "answers_read_until"
_END = 200
"""Number of characters at the end of an answer in which its marker of silence has to be."""


class LatestAnswer(BaseModel, frozen=True):
    """The newest answer of a job.

    ``text`` has up to `MAX_CHARACTERS` characters of the answer; ``is_cut`` says if there are more.
    It is Markdown if ``is_markdown``. ``warnings`` are those of the run. ``is_read`` is True if a
    person has marked it, or a later answer, as read.
    """

    run_id: str
    job_id: str
    job: str
    at: UtcTime
    text: str = Field(repr=False)
    is_cut: bool
    is_markdown: bool
    warnings: list[str]
    session_id: str | None
    is_read: bool

    @property
    def headline(self) -> str:
        """Return the first line as text, if the rest can stand without it; else ""."""
        return self._parts[0]

    @property
    def body(self) -> str:
        """Return the text below the headline."""
        return self._parts[1]

    @property
    def is_long(self) -> bool:
        """Return whether the body may have more lines than a list shows."""
        return len(self.body) > 240 or self.body.count("\n") > 4

    @property
    def _parts(self) -> tuple[str, str]:
        line, _, rest = self.text.strip().partition("\n")
        if not self.is_markdown:
            line, rest = "", self.text.strip("\n")
        is_heading = line.startswith("#") or not rest or rest[:1] in "\n\r"
        if len(line) > MAX_HEADLINE or not is_heading or line.startswith(("```", "|", ">", "~~~")):
            return "", self.text.strip()
        return headline(line), rest.strip("\r\n")


@dataclass(frozen=True)
class LatestAnswers:
    """Up to `MAX_ANSWERS` answers, newest first. ``more`` counts the others.

    ``quiet`` are ids and names of the jobs whose newest answer is silent (`notify.is_silent`), and
    ``muted`` those of the muted jobs that have answered (`mute`).
    """

    answers: list[LatestAnswer]
    quiet: list[tuple[str, str]]
    muted: list[tuple[str, str]]
    more: int

    @property
    def unread(self) -> list[LatestAnswer]:
        return [each for each in self.answers if not each.is_read]


def summary(run: Run) -> str:
    """Return one line about the end of a run: why it failed, or the headline of its answer."""
    if run.status != Status.SUCCEEDED and (reasons := run.reasons()):
        return one_line(reasons[0], MAX_HEADLINE)
    if run.output and is_silent(run.output):
        return "nothing to report"
    return headline(run.output) or one_line(run.reason, MAX_HEADLINE)


async def latest() -> LatestAnswers:
    """Return the newest answer of each job that has answered in `PERIOD`. Works without Prefect.

    There are three queries, whatever the number of jobs and runs.
    """
    async with open_ledger() as ledger, ledger.read() as session:
        found = await _newest(session, ledger.now() - PERIOD)
        read_until, muted_jobs = await _marks(session)
        newest = [each for each in found if each.job_id not in muted_jobs]
        shown = [each for each in newest if not each.is_quiet]
        texts = await _texts(session, [each.run_id for each in shown[:MAX_ANSWERS]])
    answers = [
        LatestAnswer(
            run_id=each.run_id,
            job_id=each.job_id,
            job=each.job,
            at=each.at,
            text=texts[each.run_id]["text"],
            is_cut=each.length > MAX_CHARACTERS,
            is_markdown=job_kinds.asks_agent(each.kind),
            warnings=texts[each.run_id]["warnings"] or [],
            session_id=texts[each.run_id]["session_id"],
            is_read=each.at <= read_until,
        )
        for each in shown[:MAX_ANSWERS]
    ]
    quiet = [(each.job_id, each.job) for each in newest if each.is_quiet]
    muted = [(each.job_id, each.job) for each in found if each.job_id in muted_jobs]
    return LatestAnswers(answers, quiet, muted, len(shown) - len(answers))


async def mark_read(until: datetime) -> None:
    """Mark the answers up to ``until`` as read. Raise `InvalidInput` for an agent.

    A later mark stays.
    """
    authorization.require_operator()
    async with open_ledger() as ledger, ledger.write() as session:
        read_until, _ = await _marks(session)
        latest = max(read_until, min(until, ledger.now()))
        await session.merge(Fact(key=_READ_UNTIL, value=latest.isoformat()))


async def mute(ref: str, *, undo: bool = False) -> None:
    """Leave the answers of a job out of `latest`; with ``undo``, return them again.

    The job runs, delivers and alerts as before. Raise `NotFound` and `Ambiguous`, and
    `InvalidInput` for an agent.
    """
    authorization.require_operator()
    async with open_ledger() as ledger, ledger.write() as session:
        stored = await authorization.find_job(session, ref, archived=True)
        key = store.muted_fact(stored.id)
        if undo:
            await session.execute(sqlalchemy.delete(Fact).where(col(Fact.key) == key))
        else:
            await session.merge(Fact(key=key, value=""))


async def _marks(session: AsyncSession) -> tuple[datetime, set[str]]:
    """Return the time until which answers are read, and the ids of the muted jobs."""
    is_mark = (col(Fact.key) == _READ_UNTIL) | col(Fact.key).startswith(store.MUTED_FACT)
    query = sqlalchemy.select(col(Fact.key), col(Fact.value)).where(is_mark)
    facts = dict((await session.execute(query)).tuples().all())
    read = facts.pop(_READ_UNTIL, "")
    until = datetime.fromisoformat(read) if read else datetime.min.replace(tzinfo=UTC)
    return until, {key.removeprefix(store.MUTED_FACT) for key in facts}


@dataclass(frozen=True)
class _Newest:
    """The newest answer of a job, with the end of its text."""

    job_id: str
    job: str
    run_id: str
    kind: str
    at: datetime
    length: int
    end: str

    @property
    def is_quiet(self) -> bool:
        """Return whether the answer is silent. A marker has a line of its own."""
        return is_silent(self.end) and (self.length <= _END or "\n" in self.end.strip("\n"))


async def _newest(session: AsyncSession, since: datetime) -> list[_Newest]:
    run = RunRow
    latest_first = (col(run.finished_at).desc(), col(run.id))
    ranked = (
        sqlalchemy.select(
            col(run.id),
            col(run.job_id),
            func.row_number().over(partition_by=col(run.job_id), order_by=latest_first).label("n"),
        )
        .where(
            col(run.finished_at) >= since,
            # Without `coalesce`, SQLite reads all runs that have succeeded, however old they are.
            func.coalesce(col(run.status), "") == Status.SUCCEEDED,
            col(run.job_id).is_not(None),
            _is_answer(),
        )
        .subquery()
    )
    length = func.length(col(run.output))
    query = (
        sqlalchemy.select(
            col(JobRow.id),
            col(JobRow.name),
            col(run.id),
            col(run.kind),
            col(run.finished_at),
            length,
            func.substr(col(run.output), case((length > _END, length - _END + 1), else_=1)),
        )
        .select_from(ranked)
        .join(run, col(run.id) == ranked.c.id)
        .join(JobRow, col(JobRow.id) == ranked.c.job_id)
        .where(ranked.c.n == 1, col(JobRow.archived_at).is_(None))
        .order_by(*latest_first)
    )
    if (owner := authorization.visible_owner()) is not None:
        query = query.where(col(JobRow.owner) == owner)
    return [_Newest(*each) for each in (await session.execute(query)).tuples()]


def _is_answer() -> ColumnElement[bool]:
    """Return the condition for a run with an answer; that of an agent may be empty."""
    is_of_agent = col(RunRow.kind).in_(job_kinds.ASK_AGENTS) & (col(RunRow.attempts) > 0)
    return col(RunRow.output).is_not(None) & (is_of_agent | (col(RunRow.output) != ""))


async def _texts(session: AsyncSession, run_ids: list[str]) -> dict[str, Any]:
    run = RunRow
    query = sqlalchemy.select(
        col(run.id),
        func.substr(col(run.output), 1, MAX_CHARACTERS).label("text"),
        col(run.warnings),
        col(run.session_id),
    ).where(col(run.id).in_(run_ids))
    return {each["id"]: each for each in (await session.execute(query)).mappings()}
