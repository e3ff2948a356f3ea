"""Names of Prefect runs: the job and the due time, with the zone's offset.

Prefect's scheduler gives each run a random name of two words, and no setting of the server or of a
deployment changes that. Daybook names the runs that it makes itself, and renames the others.
"""

from __future__ import annotations

import logging
import re
from datetime import datetime

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound

from daybook.jobs.store import StoredJob
from daybook.ledger.tables import RunRow
from daybook.schedules.zones import zone

log = logging.getLogger(__name__)

_RANDOM = re.compile(r"[a-z]+-[a-z]+")
"""A random name of Prefect."""
_INSTANT = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (?:UTC|[+-]\d\d:\d\d)"
_OURS = re.compile(
    rf".* {_INSTANT}(?: to {_INSTANT}, [\d,]+ due times)?(?: \((?P<given>.*+)(?<=\)))?", re.DOTALL
)
"""A name that Daybook gave; ``given`` is the name that a person had given, with ``)``.

``given`` is not shortened to find the ``)``: that would take quadratic time.
"""


def of_due(stored: StoredJob, due: datetime) -> str:
    """Return the name of the run of one due time, or of a run requested for that instant."""
    return f"{stored.row.name} {_local(due, stored.job.schedule.timezone)}"


def of_row(stored: StoredJob, row: RunRow) -> str:
    """Return the name of the Prefect run that shows ``row``, which may be several due times."""
    if row.due_to is None:
        return of_due(stored, row.due)
    timezone = stored.job.schedule.timezone
    first, last = _local(row.due, timezone), _local(row.due_to, timezone)
    return f"{stored.row.name} {first} to {last}, {row.count:,} due times"


def of_call(kind: str, at: datetime, timezone: str) -> str:
    """Return the name of a flow run without a job, which was called directly."""
    return f"{kind} {_local(at, timezone)}"


def of_new(stored: StoredJob, run: FlowRun, ledger_id: str) -> str | None:
    """Return the name of a Prefect run that never started and may have no row yet.

    None for a run that Daybook made, and named, itself: it may be scheduled for another time.
    """
    at, key = run.expected_start_time, run.idempotency_key or ""
    if at is None or run.start_time is not None or key.startswith(f"{ledger_id}:"):
        return None
    return of_due(stored, at)


def is_own_name(name: str) -> bool:
    """Return whether ``name`` has the form of the names that Daybook gives."""
    return _OURS.fullmatch(name) is not None


def new_name(given: str, wanted: str) -> str | None:
    """Return the new name of a run that is named ``given``; None if it has the ``wanted`` name.

    A name that a person gave is kept in parentheses.
    """
    match = _OURS.fullmatch(given)
    given_by_person = (
        (match["given"] or "")[:-1] if match else None if _RANDOM.fullmatch(given) else given
    )
    name = f"{wanted} ({given_by_person})" if given_by_person else wanted
    return None if name == given else name


async def rename_run(client: PrefectClient, run: FlowRun, wanted: str) -> bool:
    """Rename ``run``, with one request if its name differs; return whether there was one."""
    name = new_name(run.name, wanted)
    if name is None:
        return False
    try:
        await client.update_flow_run(run.id, name=name)
    except ObjectNotFound:
        return True  # deleted meanwhile
    run.name = name
    return True


async def rename_own_run(flow_run: FlowRun, wanted: str) -> None:
    """Rename the flow run that this process executes; a failure has no consequence."""
    try:
        if new_name(flow_run.name, wanted) is not None:
            async with get_client() as client:
                await rename_run(client, flow_run, wanted)
    except Exception as error:
        log.warning("not named: %s", error, extra={"action": "name_failed"})


def _local(instant: datetime, timezone: str) -> str:
    local = instant.astimezone(zone(timezone)).isoformat(" ", "seconds")
    return f"{local[:19]} {'UTC' if timezone == 'UTC' else local[19:]}"
