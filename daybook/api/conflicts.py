"""Operations on conflicts: list, decide.

A job is in conflict if one of its fields was changed both in the ledger and in Prefect, or if its
value in Prefect is invalid.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel

from daybook.api import authorization
from daybook.errors import InvalidInput
from daybook.instants import LocalTime
from daybook.jobs import store
from daybook.json_text import JsonObject
from daybook.ledger.engine import Ledger, open_ledger
from daybook.prefect import import_edits, links, projection

if TYPE_CHECKING:
    from daybook.jobs.store import StoredJob

Side = Literal["ledger", "prefect"]
SIDES: tuple[Side, ...] = ("ledger", "prefect")


class FieldVersions(BaseModel, frozen=True):
    """The two values of a field that was changed in the ledger and in Prefect.

    ``ledger`` is the job's current value, in the form that Prefect stores. ``prefect`` is the value
    that was set in Prefect and that Daybook replaced by the ledger's value. ``invalid`` is the
    reason why that value is invalid, or empty.
    """

    ledger: Any
    prefect: Any
    invalid: str = ""


class Conflict(BaseModel, frozen=True):
    """A job in conflict. ``fields`` has the two values of each field in conflict, by its name.

    ``at`` is the time at which Daybook found the last of these fields.
    """

    job: str
    id: str
    at: LocalTime
    fields: dict[str, FieldVersions]

    @classmethod
    def of(cls, stored: StoredJob, conflict: JsonObject, ledger_id: str) -> Self:
        """Return the view of ``conflict``, which the job's row stores."""
        in_ledger = projection.of_job(stored, ledger_id).as_dict()
        fields = {
            name: FieldVersions(
                ledger=in_ledger.get(name),
                prefect=in_prefect,
                invalid=conflict.get("invalid", {}).get(name, ""),
            )
            for name, in_prefect in conflict["fields"].items()
        }
        at = datetime.fromisoformat(conflict["at"])
        return cls(job=stored.row.name, id=stored.id, at=at, fields=fields)


async def list_conflicts() -> list[Conflict]:
    """Return the conflict of each job that has one. Works without Prefect."""
    async with open_ledger() as ledger, ledger.read() as session:
        found = [
            await store.get_readable(session, each)
            for each in await links.jobs_in_conflict(session)
        ]
        return [
            Conflict.of(each, each.row.conflict, ledger.id)
            for each in found
            if each is not None and each.row.conflict is not None
        ]


def parse_side(given: str) -> Side:
    """Return ``given`` as a `Side`. Raise `InvalidInput`."""
    for each in SIDES:
        if given == each:
            return each
    raise InvalidInput("prefer", f'"{given}" is unknown', f"use {' or '.join(SIDES)}")


async def decide(
    ledger: Ledger, prefer: Side, ref: str | None
) -> tuple[dict[str, str], dict[str, str]]:
    """Decide the conflict of the job ``ref``, or all conflicts if ``ref`` is None, in the ledger.

    Return two mappings. The first maps the id of each job whose conflict was decided to the job's
    name. The second maps the name of each other job to the reason why Prefect's values are invalid.
    If ``ref`` is given, raise `InvalidInput` for invalid values and for a job without a conflict,
    and `NotFound` or `Ambiguous` for the job.
    """
    async with ledger.read() as session:
        ids = await links.jobs_in_conflict(session)
        named = await authorization.find_job(session, ref) if ref else None
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
                    await links.clear_conflict(session, job_id)
            decided[job_id] = names[job_id]
        except InvalidInput as error:
            if named is not None:
                raise
            refused[names[job_id]] = str(error)
    return decided, refused
