"""Names of Prefect runs: the job and the due time, with the zone's offset.

Prefect's scheduler gives each run a random name of two words, and no setting of the server or of a
deployment changes that. Daybook names the runs that it creates itself, and renames the others.
"""

from __future__ import annotations

import logging
import re
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from sqlmodel import col, select

from daybook.clock import SYSTEM_CLOCK
from daybook.jobs import store
from daybook.jobs.lateness import ON_TIME_GRACE
from daybook.jobs.store import StoredJob
from daybook.json_text import JsonObject
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import JobRow, RunRow
from daybook.prefect import flow_runs
from daybook.prefect.deployments import PAGE_SIZE
from daybook.prefect.projection import ledger_tag
from daybook.schedules.zones import local_text

log = logging.getLogger(__name__)

_RANDOM = re.compile(r"[a-z]+-[a-z]+")
"""Pattern of the random names that Prefect gives to runs."""
_INSTANT = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (?:UTC|[+-]\d\d:\d\d)"
_OURS = re.compile(
    rf".* {_INSTANT}(?: to {_INSTANT}, [\d,]+ due times)?(?: \((?P<given>.*+)(?<=\)))?", re.DOTALL
)
"""A name that Daybook gave; the group ``given`` is the user's earlier name, with its ``)``.

The match never backtracks to find the ``)``, because that would take quadratic time.
"""


def of_due(stored: StoredJob, due: datetime) -> str:
    """Return the name of the run of one due time, or of a run requested for that instant."""
    return f"{stored.row.name} {local_text(due, stored.job.schedule.timezone)}"


def of_row(stored: StoredJob, row: RunRow) -> str:
    """Return the name of the Prefect run that shows ``row``, which may be for several due times."""
    if row.due_to is None:
        return of_due(stored, row.due)
    timezone = stored.job.schedule.timezone
    first, last = local_text(row.due, timezone), local_text(row.due_to, timezone)
    return f"{stored.row.name} {first} to {last}, {row.count:,} due times"


def of_call(kind: str, at: datetime, timezone: str) -> str:
    """Return the name of the flow run of a direct call, which belongs to no job."""
    return f"{kind} {local_text(at, timezone)}"


def of_new(stored: StoredJob, run: FlowRun, ledger_id: str) -> str | None:
    """Return the name of a Prefect run that never started and may have no row yet, or None.

    None also for a run that Daybook created and named, which may be scheduled for another time.
    """
    at, key = run.expected_start_time, run.idempotency_key or ""
    if at is None or run.start_time is not None or key.startswith(f"{ledger_id}:"):
        return None
    return of_due(stored, at)


def is_own_name(name: str) -> bool:
    """Return whether ``name`` has the form of the names that Daybook gives."""
    return _OURS.fullmatch(name) is not None


def new_name(given: str, wanted: str) -> str | None:
    """Return the new name of a run that is named ``given``; None if it need not be renamed.

    A name that a user gave is kept in parentheses.
    """
    match = _OURS.fullmatch(given)
    given_by_person = (
        (match["given"] or "")[:-1] if match else None if _RANDOM.fullmatch(given) else given
    )
    name = f"{wanted} ({given_by_person})" if given_by_person else wanted
    return None if name == given else name


async def rename_run(client: PrefectClient, run: FlowRun, wanted: str) -> bool:
    """Rename ``run`` if `new_name` returns a name for it; return whether a request was sent."""
    name = new_name(run.name, wanted)
    if name is None:
        return False
    try:
        await client.update_flow_run(run.id, name=name)
    except ObjectNotFound:
        return True  # already deleted
    run.name = name
    return True


async def rename_own_run(flow_run: FlowRun, wanted: str) -> None:
    """Rename the flow run that this process executes; log an error instead of raising it."""
    try:
        if new_name(flow_run.name, wanted) is not None:
            async with get_client() as client:
                await rename_run(client, flow_run, wanted)
    except Exception as error:
        log.warning("cannot rename this run: %s", error, extra={"action": "name_failed"})


FIRST_PAGE_SIZE = 10
"""Number of runs that the first request of a pass reads; often none of them is new."""
ID_ORDER_GRACE = timedelta(seconds=60)
"""Time after which Prefect stores no more runs with lower ids than the ids already read."""
MAX_JOBS_PER_QUERY = 200
"""Maximum number of jobs that one query reads for the runs to be named."""

_BY_SCHEDULER = {"type_": ["SCHEDULE"]}
_BY_OTHERS = {"operator": "or_", "is_null_": True, "type_": ["AUTOMATION"]}


@dataclass
class NamingState:
    """State of a keeper between passes.

    - ``newest`` is the highest id that was read among the runs that the scheduler created.
    - ``seen`` are the ids of the runs with other creators that the last pass read.
    - ``unnamed`` are the runs that still need a name, the earliest due first.
    """

    newest: UUID | None = None
    seen: frozenset[UUID] = frozenset()
    unnamed: deque[FlowRun] = field(default_factory=deque)


async def name_runs(
    ledger: Ledger, client: PrefectClient, memory: NamingState, *, most_seconds: float = 3.0
) -> int:
    """Name new runs, for at most about ``most_seconds``; return how many requests were sent.

    The next pass names the rest. Leave a run that was due more than `ON_TIME_GRACE` ago to the
    worker, which names each run that it starts or ends. Raise no error if a run was named or
    deleted meanwhile. If Prefect refuses to rename one run (`flow_runs.is_run_error`), log the
    error; raise any other error.
    """
    deadline = time.monotonic() + most_seconds
    await _read_new(client, ledger_tag(ledger.id), memory)
    named, jobs = 0, dict[str, StoredJob | None]()
    too_late = (SYSTEM_CLOCK.now() - ON_TIME_GRACE).timestamp()
    while memory.unnamed and time.monotonic() < deadline:
        run = memory.unnamed[0]
        if _due(run) < too_late:
            memory.unnamed.popleft()
            continue
        if str(run.deployment_id) not in jobs:
            jobs |= await _jobs(ledger, memory.unnamed)
        stored = jobs[str(run.deployment_id)]
        name = stored and of_new(stored, run, ledger.id)
        try:
            named += await rename_run(client, run, name) if name else 0
        except PrefectHTTPStatusError as error:
            if not flow_runs.is_run_error(error):
                raise
            log.warning("cannot rename %s: %s", run.name, error, extra={"action": "name_failed"})
        memory.unnamed.popleft()
    return named


async def _read_new(client: PrefectClient, tag: str, memory: NamingState) -> None:
    others = await _page(client, tag, _BY_OTHERS, PAGE_SIZE)
    new = [run for run in others if run.id not in memory.seen]
    scheduled = await _scheduled(client, tag, memory)
    new += scheduled
    queued = {run.id for run in memory.unnamed}
    new = [run for run in new if run.id not in queued and not is_own_name(run.name)]
    memory.seen = frozenset(run.id for run in others)
    ids = [*(run.id for run in scheduled), *([memory.newest] if memory.newest else [])]
    memory.newest = max(ids, default=None)
    if new:
        memory.unnamed = deque(sorted((*memory.unnamed, *new), key=_due))


async def _scheduled(client: PrefectClient, tag: str, memory: NamingState) -> list[FlowRun]:
    """Return the runs that the scheduler has created since the last pass, and some older ones."""
    runs = dict[UUID, FlowRun]()
    offset, limit = 0, FIRST_PAGE_SIZE
    while True:
        page = await _page(client, tag, _BY_SCHEDULER, limit, offset)
        runs |= {run.id: run for run in page}
        if len(page) < limit or _was_read(page[-1].id, memory.newest):
            return list(runs.values())
        offset, limit = offset + len(page), PAGE_SIZE


def _was_read(flow_run_id: UUID, newest: UUID | None) -> bool:
    """Return whether an earlier pass read this run and all runs with lower ids."""
    if newest is None or flow_run_id > newest:
        return False
    age = time.time() - _made_at(newest)
    return age > ID_ORDER_GRACE.total_seconds() or _made_at(flow_run_id) < _made_at(newest) - 1


def _made_at(flow_run_id: UUID) -> float:
    """Return when an id of UUID version 7 was created, in seconds since 1970."""
    return (flow_run_id.int >> 80) / 1000


def _due(run: FlowRun) -> float:
    at: datetime | None = run.expected_start_time
    return at.timestamp() if at else 0.0


async def _page(
    client: PrefectClient, tag: str, made_by: JsonObject, limit: int, offset: int = 0
) -> list[FlowRun]:
    query = FlowRunFilter.model_validate(
        {
            "tags": {"all_": [tag]},
            # A waiting run has a name of ours: the worker renames a run when it reschedules the
            # run.
            "state": {"name": {"any_": ["Scheduled", "Late"]}},
            "created_by": made_by,
        }
    )
    return await client.read_flow_runs(
        flow_run_filter=query, sort=FlowRunSort.ID_DESC, limit=limit, offset=offset
    )


async def _jobs(ledger: Ledger, runs: Iterable[FlowRun]) -> dict[str, StoredJob | None]:
    """Return the jobs of these runs, by deployment id; None for a deployment without a job.

    The result has at most the first `MAX_JOBS_PER_QUERY` deployments.
    """
    deployments = list(dict.fromkeys(str(run.deployment_id) for run in runs))[:MAX_JOBS_PER_QUERY]
    query = select(JobRow.id).where(col(JobRow.deployment_id).in_(deployments))
    async with ledger.read() as session:
        ids = set((await session.execute(query)).scalars())
        by_deployment = {
            str(each.row.deployment_id): each for each in await store.all_jobs(session, ids)
        }
    return {each: by_deployment.get(each) for each in deployments}
