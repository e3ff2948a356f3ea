"""How a job is read from the columns of its two tables, and what makes it unreadable.

A value may be invalid after a fault, an edit by hand, or a downgrade of Daybook. Some JSON columns
are no fields of `Job`; `EMPTY` names them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any

import sqlalchemy
from pydantic import AfterValidator, BaseModel, TypeAdapter, ValidationError
from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from daybook.errors import InvalidInput, UnreadableJob
from daybook.jobs.actions import ACTIONS, AgentPrompt
from daybook.jobs.model import Job
from daybook.jobs.notify import Notify
from daybook.json_text import JsonObject
from daybook.ledger.tables import NEWEST_REVISION, JobRow, RevisionRow
from daybook.names import validate_name
from daybook.policies.policy import Policy
from daybook.schedules.schedule import OnDemand
from daybook.schedules.zones import check_year
from daybook.validation import STORED, from_pydantic, parse_stored


def _check_time(text: str) -> str:
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError("a time needs an offset")
    check_year(instant)  # a later one may overflow in another zone
    return text


Time = Annotated[str, AfterValidator(_check_time)]
Skips = list[Time]


class _Synced(BaseModel):
    foreign: list[str] = []


class _Conflict(BaseModel):
    at: Time
    fields: JsonObject
    invalid: dict[str, str] = {}


class _Columns(BaseModel):
    skips: Skips
    conflict: _Conflict | None
    synced: _Synced | None
    applied: JsonObject | None
    written_by: dict[str, str]


EMPTY: Mapping[str, Callable[[], Any]] = {
    "skips": list,
    "conflict": lambda: None,
    "synced": lambda: None,
    "applied": lambda: None,
    "written_by": dict,
}
"""For each column, a function that returns the value without content."""

_SKIPS = TypeAdapter[Any](Skips)
_TAGS = TypeAdapter[Any](list[str])
_CONFLICT = TypeAdapter[Any](_Conflict | None)


VERSIONED_FIELDS = Job.model_fields.keys() & RevisionRow.model_fields.keys()
"""Fields of `Job` that belong to a revision."""
JOB_COLUMNS = {
    name: "meta" if name == "metadata" else name
    for name in Job.model_fields
    if name not in VERSIONED_FIELDS
}
"""Columns of the job's row for the fields that belong to no revision, by field."""
_READ: dict[str, tuple[type[JobRow] | type[RevisionRow], str]] = {
    **{name: (RevisionRow, name) for name in (*VERSIONED_FIELDS, "written_by")},
    **{name: (JobRow, column) for name, column in JOB_COLUMNS.items()},
    **{name: (JobRow, name) for name in EMPTY if name != "written_by"},
}
"""All columns that have to be valid before a job is used, by field: the table and the column."""

UNREADABLE_INTERVAL_SECONDS = 600.0
"""Seconds after which `unreadable` reads all jobs again, because a fault leaves no other trace."""
MAX_IDS_PER_QUERY = 200
"""Maximum number of ids in one query. With more ids, a caller reads all jobs and filters them."""


def read_job(row: JobRow, revision: RevisionRow) -> Job:
    """Return the job of the two rows; raise `UnreadableJob`."""
    values = {
        name: getattr(row if table is JobRow else revision, column)
        for name, (table, column) in _READ.items()
    }
    return _read(row.id, values)


def _read(job_id: str, values: Mapping[str, Any]) -> Job:
    """Return the job with these stored values by field; raise `UnreadableJob`."""
    try:
        _Columns.model_validate({name: values[name] for name in EMPTY})
        fields = {name: values[name] for name in Job.model_fields}
        fields["policy"] = parse_stored(Policy, values["policy"])
        fields["notify"] = parse_stored(Notify, values["notify"])
        # Without the kind, pydantic would validate the action as each of the kinds.
        if values["kind"] in ACTIONS:
            action = ACTIONS[values["kind"]]
            fields["action"] = action.model_validate(values["action"], context=STORED)
        return Job.model_validate(fields, context=STORED)
    except ValidationError as error:
        invalid = from_pydantic(error.errors()[0])
        raise UnreadableJob(values["name"], job_id, invalid.field, invalid.problem) from None


def stand_in(row: JobRow) -> Job:
    """Return a disabled job without due times, for code that lists a job that cannot be read."""
    try:
        name = validate_name(row.name, stored=True)
    except InvalidInput:
        name = f"job-{row.id[:8]}"
    return Job(
        name=name,
        kind="agent-prompt",
        action=AgentPrompt(prompt="This job cannot be read."),
        schedule=OnDemand(timezone="UTC"),
        enabled=False,
    )


def clear(row: JobRow, revision: RevisionRow) -> None:
    """Empty the columns that are no fields of `Job`."""
    for name, empty in EMPTY.items():
        setattr(row if _READ[name][0] is JobRow else revision, name, empty())


async def unreadable(session: AsyncSession) -> list[UnreadableJob]:
    """Return the problem of each live job that cannot be read, sorted by name.

    To read a thousand jobs takes a tenth of a second. So a process that found a job readable reads
    it again only after it was changed, or after `UNREADABLE_INTERVAL_SECONDS`.
    """
    if time.monotonic() > _readable.until:
        _readable.versions.clear()
        _readable.until = time.monotonic() + UNREADABLE_INTERVAL_SECONDS
    live = sqlalchemy.select(col(JobRow.id), col(JobRow.revision), col(JobRow.updated_at)).where(
        col(JobRow.archived_at).is_(None)
    )
    versions = {id_: (number, at) for id_, number, at in (await session.execute(live)).tuples()}
    unknown = {id_ for id_, each in versions.items() if _readable.versions.get(id_) != each}
    errors = await _problems(session, unknown) if unknown else []
    invalid = {each.job_id for each in errors}
    _readable.versions |= {id_: versions[id_] for id_ in unknown - invalid}
    return errors


async def _problems(session: AsyncSession, ids: set[str]) -> list[UnreadableJob]:
    columns: list[Any] = [
        col(getattr(table, column)).label(name) for name, (table, column) in _READ.items()
    ]
    query = (
        sqlalchemy.select(col(JobRow.id), *columns)
        .join(RevisionRow, NEWEST_REVISION)
        .where(col(JobRow.archived_at).is_(None))
        .order_by(func.lower(col(JobRow.name)), col(JobRow.name))
    )
    if len(ids) <= MAX_IDS_PER_QUERY:
        query = query.where(col(JobRow.id).in_(ids))
    found = []
    for values in (await session.execute(query)).mappings():
        try:
            _read(values["id"], dict(values))
        except UnreadableJob as error:
            found.append(error)
    return found


@dataclass
class _Readable:
    """Revision and time of change of each job that this process found readable."""

    versions: dict[str, tuple[int, datetime]] = field(default_factory=dict)
    until: float = 0.0


_readable = _Readable()


def are_skips(value: Any) -> bool:
    """Return whether this is a valid list of skipped due times."""
    return _is_valid(_SKIPS, value)


def valid_tags(value: Any) -> list[str]:
    """Return the tags of a job; [] if they are not valid."""
    return value if _is_valid(_TAGS, value) else []


def valid_conflict(value: Any) -> JsonObject | None:
    """Return the conflict of a job; None if there is none, or if it is not valid."""
    return value if _is_valid(_CONFLICT, value) else None


def _is_valid(adapter: TypeAdapter[Any], value: Any) -> bool:
    try:
        adapter.validate_python(value)
    except ValidationError:
        return False
    return True
