"""Lists and histories of jobs with the totals of their last 30 days.

`JobPage` is one page of a filtered list. Only the jobs on this page are read in full, and all of
them with a few queries. So a page of a list of a thousand jobs is as fast as a list of fifty.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

from daybook import settings
from daybook.api import authorization, files, run_lists
from daybook.api.conflicts import Conflict
from daybook.delivery.views import ListedRun, recipients
from daybook.instants import UtcTime
from daybook.jobs import store, summaries
from daybook.jobs.store import StoredJob
from daybook.jobs.summaries import JobSummary
from daybook.jobs.views import FieldChange, ListedJob, changes_between, due_times_of
from daybook.ledger.engine import open_ledger, reading
from daybook.ledger.states import FAILURES, Status
from daybook.runs import daily, history
from daybook.runs.daily import Total
from daybook.schedules.due_times import DueTime
from daybook.schedules.zones import is_known

EXAMPLE_JOB = "first-light"
"""Name of the job that `up` adds to a new home (`deployments/jobs/example.yaml`)."""

PER_PAGE = 50
STATES = ("enabled", "paused", "failing", "running", "conflict", "pending")
"""States by which a list of jobs can be filtered."""
AUTHORS = {"prefect": "Prefect's UI", "daybook": "Daybook"}
"""Values of `Revision.author` for revisions that no `owners.Actor` wrote, by source."""


@dataclass(frozen=True)
class Choice:
    """Filters of a list of jobs; an empty filter selects all jobs.

    ``text`` selects the jobs whose name contains it, in upper or lower case.
    """

    text: str = ""
    tag: str = ""
    state: str = ""
    owner: str = ""
    agent: str = ""


ORDERS: dict[str, Callable[[JobSummary], Any]] = {
    "name": lambda job: (),
    "failures": lambda job: -job.consecutive_failures,
    "last run": lambda job: -(job.last_run_at.timestamp() if job.last_run_at else 0.0),
    "state": lambda job: (job.enabled, job.last_status not in FAILURES),
}
"""Orders of a list of jobs; jobs that one of them does not order are sorted by name."""


@dataclass(frozen=True)
class JobPage:
    """Page ``number`` (from 1) of ``pages`` pages.

    ``matching`` is the number of jobs on all pages, and ``total`` is the number of all jobs.
    ``tags``, ``owners`` and ``agents`` are the values that occur in any job, as choices for the
    filters.
    """

    jobs: list[ListedJob]
    number: int
    pages: int
    matching: int
    total: int
    tags: list[str]
    owners: list[str]
    agents: list[str]


@dataclass
class DayStrip:
    """The outcomes of a job on one day, by status, and their cost in US dollars.

    ``cost_usd`` is None if no cost is known.
    """

    day: date
    counts: dict[str, int] = field(default_factory=dict)
    cost_usd: float | None = None


class Revision(BaseModel, frozen=True):
    """A revision of a job and its changes. The first revision has no changes.

    ``author`` is the agent or the interface that made the revision (`owners.Actor.writer`), or one
    of `AUTHORS`.
    """

    number: int
    effective_from: UtcTime
    author: str
    enabled: bool
    changes: list[FieldChange]


@dataclass(frozen=True)
class JobOverview:
    """The data of the page of one job, all read in one transaction.

    ``runs`` has the live runs first, then the ended runs, latest due time first. ``revisions`` are
    sorted, newest first. ``recipients`` are as in `ChangedJob`. ``due`` is empty if the job is
    disabled or removed. ``definition`` is the job as a jobs file; if no file can contain the job,
    it is a comment with the reason. ``deployment_id`` is the id of the job's deployment in Prefect;
    None if there is no deployment. ``conflict`` is None if the job is not in conflict.
    ``prompt`` is empty for a job that asks no agent.
    """

    job: ListedJob
    recipients: dict[str, list[str]]
    due: list[DueTime]
    runs: list[ListedRun]
    revisions: list[Revision]
    definition: str
    deployment_id: str | None
    conflict: Conflict | None
    prompt: str

    @property
    def last_answer(self) -> ListedRun | None:
        """Return the newest of ``runs`` that has succeeded with a text; None if there is none."""
        ended = (each for each in self.runs if each.status == Status.SUCCEEDED and each.output)
        return next(ended, None)


async def list_page(choice: Choice, number: int = 1, order: str = "name") -> JobPage:
    """Return page ``number`` of the jobs that match ``choice``, sorted by one of `ORDERS`.

    An unknown ``order`` sorts by name. If there are fewer pages, return the last page. Works
    without Prefect.
    """
    async with open_ledger() as ledger, ledger.read() as session:
        now = ledger.now()
        listed = await summaries.read(session, authorization.visible_owner())
        running = await history.running_jobs(session)
        matching = [each for each in listed if matches(each, choice, running)]
        matching.sort(key=ORDERS.get(order, ORDERS["name"]))  # they are sorted by name
        pages = max(1, -(-len(matching) // PER_PAGE))
        number = min(max(1, number), pages)
        shown = matching[(number - 1) * PER_PAGE : number * PER_PAGE]
        stored = await store.read_all(session, [each.id for each in shown]) if shown else []
        jobs = [ListedJob.of(each, now, running=each.id in running, due_times=1) for each in stored]
    return JobPage(
        jobs=jobs,
        number=number,
        pages=pages,
        matching=len(matching),
        total=len(listed),
        tags=sorted({tag for each in listed for tag in each.tags}),
        owners=sorted({each.owner for each in listed}),
        agents=sorted({each.agent for each in listed if each.agent}),
    )


def matches(job: JobSummary, choice: Choice, running: Iterable[str | None]) -> bool:
    """Return whether a job matches all filters.

    ``running`` are the ids of the jobs that run now.
    """
    states = {
        "": True,
        "enabled": job.enabled,
        "paused": not job.enabled,
        "failing": job.consecutive_failures > 0,
        "running": job.id in running,
        "conflict": job.conflict is not None,
        "pending": job.sync_pending,
    }
    return (
        choice.text.casefold() in job.name.casefold()
        and choice.tag in ("", *job.tags)
        and choice.owner in ("", job.owner)
        and choice.agent in ("", job.agent)
        and states.get(choice.state, False)
    )


async def totals(job_ids: Collection[str], days: Sequence[date], tz: ZoneInfo) -> list[Total]:
    """Return the totals of these jobs on ``days``, consecutive days in ``tz``, oldest first."""
    async with reading() as session:
        return await daily.add_up_jobs(session, job_ids, days, tz)


def strips(totals: Iterable[Total], days: Sequence[date]) -> dict[str | None, list[DayStrip]]:
    """Return one `DayStrip` for each of ``days``, for every job that has totals, by job id."""
    position = {day: number for number, day in enumerate(days)}
    found: dict[str | None, list[DayStrip]] = {}
    for each in totals:
        if each.day not in position:
            continue
        if (strip := found.get(each.job_id)) is None:
            strip = found[each.job_id] = [DayStrip(day) for day in days]
        at = strip[position[each.day]]
        at.counts[each.status] = at.counts.get(each.status, 0) + each.count
        if each.priced:
            at.cost_usd = (at.cost_usd or 0.0) + each.cost_usd
    return found


async def names() -> dict[str, str]:
    """Return the names of all jobs, including removed ones, by job id. Works without Prefect."""
    async with reading() as session:
        return await store.all_names(session, authorization.visible_owner())


async def is_new() -> bool:
    """Return whether the home is new: it has at most the example job that `up` adds."""
    return set((await names()).values()) <= {EXAMPLE_JOB}


async def jobs_by_agent() -> dict[str, int]:
    """Return the number of live jobs that name each agent. Works without Prefect."""
    async with reading() as session:
        listed = await summaries.read(session, authorization.visible_owner())
    return Counter(each.agent for each in listed if each.agent)


async def overview(ref: str, *, runs: int, due_times: int) -> JobOverview:
    """Return the data of the page of one job, which may have been removed. Works without Prefect.

    ``runs`` and ``due_times`` are the maximum numbers of runs and due times to return. Raise
    `NotFound`, `Ambiguous`.
    """
    async with open_ledger() as ledger, ledger.read() as session:
        now, stored = ledger.now(), await authorization.find_job(session, ref, archived=True)
        row = stored.row
        running = await history.running_jobs(session)
        has_future = stored.job.enabled and row.archived_at is None
        has_future &= is_known(stored.job.schedule.timezone)
        has_conflict = row.conflict is not None and row.archived_at is None
        return JobOverview(
            job=ListedJob.of(stored, now, running=row.id in running, due_times=1),
            recipients=recipients(stored.job.notify, settings.load().alert_channel),
            due=due_times_of(stored, now, due_times).due if has_future else [],
            runs=await run_lists.of_job(session, row.id, runs),
            revisions=await _revisions(session, row.id),
            definition=files.definition(stored),
            deployment_id=row.deployment_id,
            conflict=Conflict.of(stored, row.conflict or {}, ledger.id) if has_conflict else None,
            prompt=str(stored.job.parameters().get("prompt") or ""),
        )


async def _revisions(session: AsyncSession, job_id: str) -> list[Revision]:
    found = await store.revisions_since(session, job_id, datetime.min.replace(tzinfo=UTC))
    pairs = zip([None, *found], found, strict=False)
    return [_revision(before, after) for before, after in pairs][::-1]


def _revision(before: StoredJob | None, after: StoredJob) -> Revision:
    return Revision(
        number=after.revision.number,
        effective_from=after.revision.effective_from,
        author=AUTHORS.get(after.revision.source, after.revision.source),
        enabled=after.job.enabled,
        changes=[] if before is None else changes_between(before.job, after.job),
    )
