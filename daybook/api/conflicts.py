"""Conflicts: list and decide fields that were changed in both the ledger and Prefect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from daybook.errors import InvalidInput
from daybook.jobs import store
from daybook.ledger.engine import Ledger, open_ledger
from daybook.prefect import links as records

if TYPE_CHECKING:
    from daybook.jobs.store import StoredJob

Side = Literal["ledger", "prefect"]
SIDES: tuple[Side, ...] = ("ledger", "prefect")


async def list_conflicts() -> list[dict[str, Any]]:
    """Return `{"job", "id", "at", "fields": {name: {"ledger", "prefect"}}}` for each job in
    conflict.

    ``ledger`` is the job's current value, in the form in which Prefect holds it; ``prefect`` is the
    value that lost there at that time. Works without Prefect.
    """
    async with open_ledger() as ledger, ledger.read() as session:
        found = [await store.get(session, each) for each in await records.jobs_in_conflict(session)]
        return [_view(ledger, each) for each in found if each is not None]


def _view(ledger: Ledger, stored: StoredJob) -> dict[str, Any]:
    from daybook.prefect import projection

    conflict = stored.row.conflict or {"at": None, "fields": {}}
    ledger_fields = projection.of_job(stored, ledger.id).as_dict()
    return {
        "job": stored.row.name,
        "id": stored.id,
        "at": conflict["at"],
        "fields": {
            name: {"ledger": ledger_fields[name], "prefect": prefect_value}
            for name, prefect_value in conflict["fields"].items()
        },
    }


def parse_side(given: str) -> Side:
    """Return ``given`` as a `Side`. Raise `InvalidInput`."""
    for each in SIDES:
        if given == each:
            return each
    raise InvalidInput("prefer", f'"{given}" is unknown', f"use {' or '.join(SIDES)}")


async def decide(
    ledger: Ledger, prefer: Side, ref: str | None
) -> tuple[dict[str, str], dict[str, str]]:
    """Decide the conflict of ``ref``, or all conflicts; the ledger has the result afterwards.

    Return the names of the jobs whose conflict is decided, by id; and, by name, the reasons for the
    others: the value in Prefect is not valid for a job. If ``ref`` is given, raise `InvalidInput`
    for such a value, and for a job without a conflict.
    """
    from daybook.prefect import import_edits

    async with ledger.read() as session:
        ids = await records.jobs_in_conflict(session)
        named = await store.find(session, ref) if ref else None
        names = {each.id: each.row.name for each in await store.all_jobs(session, ids)}
    if named is not None:
        if named.id not in ids:
            problem = f"{named.row.name} has no conflict"
            raise InvalidInput("JOB", problem, "`daybook conflicts` lists all conflicts")
        ids = [named.id]
    decided, refused = dict[str, str](), dict[str, str]()
    for job_id in ids:
        try:
            if prefer == "prefect":
                await import_edits.accept_prefect_values(ledger, job_id)
            else:
                async with ledger.write() as session:
                    await records.clear_conflict(session, job_id)
            decided[job_id] = names[job_id]
        except InvalidInput as error:
            if named is not None:
                raise
            refused[names[job_id]] = str(error)
    return decided, refused
