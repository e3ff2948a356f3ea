"""Jobs as the ledger stores them: the only place that reads a `Job` from the rows of a job.

A stored value may be invalid for this version of Daybook, for instance after a downgrade, or after
an edit of the database by hand. Then the job has `problems`, and each invalid field has its default
instead, so that lists, reports and the outcomes of earlier runs still work. Nothing may act on such
a default: no run starts, nothing is written to Prefect, and `jobs.store.change` keeps the stored
values of all fields that it does not replace.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Annotated, Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm.attributes import set_committed_value
from sqlmodel import col

from daybook.errors import InvalidInput, one_line
from daybook.jobs import markers
from daybook.jobs.actions import ACTIONS, AgentPrompt
from daybook.jobs.model import FIELDS, Job
from daybook.jobs.notify import Notify
from daybook.jobs.policy import Policy
from daybook.ledger.references import command_word
from daybook.ledger.tables import NEWEST_REVISION, JobRow, RevisionRow
from daybook.names import Id
from daybook.schedules import cron
from daybook.schedules.schedule import Cron, OnDemand, Schedule
from daybook.schedules.zones import is_known
from daybook.validation import STORED, from_pydantic, parse_stored

VERSIONED_FIELDS = Job.model_fields.keys() & RevisionRow.model_fields.keys()
"""Fields of `Job` that belong to a revision."""
JOB_COLUMNS = {
    name: "meta" if name == "metadata" else name
    for name in Job.model_fields
    if name not in VERSIONED_FIELDS
}
"""Columns of the job's row for the fields that belong to no revision, by field."""

MAX_PROBLEM_LENGTH = 200
"""Maximum number of characters of a problem, which may quote the stored value."""

_OBJECTS: dict[str, type[BaseModel]] = {"policy": Policy, "notify": Notify}
_SCHEDULE = TypeAdapter[Schedule](Schedule)
_WITHOUT_SCHEDULE = OnDemand(timezone="UTC")
_UNREADABLE_ERRORS = (ValidationError, ValueError, TypeError, KeyError, RecursionError)

_WITHOUT_OPTION = ("kind", "policy", "notify", "check", "schedule", "enabled")
"""Fields that no single option of `daybook edit` sets."""


class UnreadableJob(InvalidInput):
    """A stored job has values that this version of Daybook cannot read, so it cannot run."""

    code = "unreadable_job"


@dataclass(frozen=True)
class Problem:
    """A stored value that is invalid. ``part`` is its field of `Job`, such as `policy`.

    ``field`` is the name by which a user sets it, such as `retries`. If ``is_kept`` is true, the
    `Job` has the stored value; otherwise it has a default.
    """

    part: str
    field: str
    problem: str
    is_kept: bool = False

    def __str__(self) -> str:
        return f"{self.field}: {self.problem}"

    @classmethod
    def of(cls, part: str, details: ErrorDetails) -> Problem:
        """Return the problem of one of pydantic's errors, which is in the field ``part``."""
        error = from_pydantic(details)
        names = [each for each in details["loc"] if isinstance(each, str)]
        # The first name is the field; names inside of the field's value may follow.
        field = names[0] if names else (error.field if error.field != "job" else part)
        return cls(part, field, one_line(error.problem, MAX_PROBLEM_LENGTH))


@dataclass(frozen=True)
class StoredJob:
    """A job's row and one of its revisions, and the `Job` that is composed of both.

    If ``problems`` is not empty, some of the job's values are defaults (`daybook.jobs.stored`).
    """

    row: JobRow
    revision: RevisionRow
    job: Job
    problems: tuple[Problem, ...] = ()

    @property
    def id(self) -> str:
        return Id(self.row.id)

    @property
    def problem(self) -> str:
        """Return the problems in words; "" if there are none."""
        return "; ".join(map(str, self.problems))

    def unreadable(self) -> UnreadableJob:
        """Return the error that names the problems of the job, and the commands that fix it."""
        return UnreadableJob(
            "job",
            f"{one_line(self.row.name)} cannot be read: {self.problem}",
            fix(self.row, self.problems),
        )

    def require_readable(self) -> None:
        """Raise `UnreadableJob` if a stored value of the job is invalid."""
        if self.problems:
            raise self.unreadable()


def compose(row: JobRow, revision: RevisionRow) -> StoredJob:
    """Return the job of these two rows; an invalid value becomes one of its problems."""
    problems = _check_other_columns(row, revision)
    values = {name: getattr(row, column) for name, column in JOB_COLUMNS.items()}
    values |= {name: getattr(revision, name) for name in VERSIONED_FIELDS}
    job, of_job = read(values)
    return StoredJob(row, revision, job, (*of_job, *problems))


def read(values: Mapping[str, Any]) -> tuple[Job, tuple[Problem, ...]]:
    """Return the job with these stored values, by field of `Job`, and their problems."""
    try:
        fields = dict(values)
        fields["policy"] = parse_stored(Policy, values["policy"])
        fields["notify"] = parse_stored(Notify, values["notify"])
        # Without the kind, pydantic would validate the action as each of the kinds.
        fields["action"] = ACTIONS[values["kind"]].model_validate(values["action"], context=STORED)
        job = Job.model_validate(fields, context=STORED)
    except _UNREADABLE_ERRORS:
        return _salvage(values)
    problem = _problem_of_schedule(job.schedule)
    if problem is None:
        return job, ()
    return (job, (problem,)) if problem.is_kept else _salvage(values)


def read_timing(schedule: Any, policy: Any) -> tuple[Schedule, Policy]:
    """Return the stored schedule and policy; if one of them is invalid, a job is never due."""
    try:
        found = _SCHEDULE.validate_python(schedule, context=STORED)
        if _problem_of_schedule(found) is None:
            return found, parse_stored(Policy, policy)
    except _UNREADABLE_ERRORS:
        pass
    return _WITHOUT_SCHEDULE, Policy()


def fix(row: JobRow, problems: Collection[Problem]) -> str:
    """Return the commands that repair the job, or remove it."""
    job = command_word(row)
    remove = f"daybook remove {job}"
    if all(each.field in FIELDS and each.field not in _WITHOUT_OPTION for each in problems):
        names = dict.fromkeys(
            markers.of(FIELDS[each.field]).option or each.field for each in problems
        )
        options = " ".join(f"--{each.replace('_', '-')} …" for each in names)
        return f"daybook edit {job} {options}, or {remove}"
    return f"use the version of Daybook that wrote it, or {remove}"


def valid_texts(value: Any) -> list[str]:
    """Return a stored list of texts; [] if the value is no such list."""
    is_valid = isinstance(value, list) and all(isinstance(each, str) for each in value)
    return value if is_valid else []


def valid_skips(value: Any) -> list[str]:
    """Return the stored due times that the user skipped; [] if they cannot be read."""
    try:
        found = valid_texts(value)
        return found if all(datetime.fromisoformat(each).tzinfo for each in found) else []
    except ValueError:
        return []


def valid_conflict(value: Any) -> dict[str, Any] | None:
    """Return the stored conflict of a job; None if there is none, or if it cannot be read."""
    is_valid = isinstance(value, dict) and isinstance(value.get("fields"), dict)
    return value if is_valid and isinstance(value.get("invalid", {}), dict) else None


def _valid_object(value: Any) -> dict[str, Any] | None:
    return value if isinstance(value, dict) else None


def _valid_authors(value: Any) -> dict[str, str]:
    found = _valid_object(value) or {}
    return found if all(isinstance(each, str) for each in found.values()) else {}


_OTHER_COLUMNS: dict[str, tuple[type[JobRow | RevisionRow], Callable[[Any], Any]]] = {
    "skips": (JobRow, valid_skips),
    "conflict": (JobRow, valid_conflict),
    "synced": (JobRow, _valid_object),
    "applied": (JobRow, _valid_object),
    "written_by": (RevisionRow, _valid_authors),
}
"""JSON columns that are no fields of `Job`: the table, and the function for a valid value."""


def _check_other_columns(row: JobRow, revision: RevisionRow) -> list[Problem]:
    """Return the problems of `_OTHER_COLUMNS`, and give the invalid columns a valid value.

    This is not written to the ledger, unless the column is written anyway.
    """
    problems = []
    for name, (table, valid) in _OTHER_COLUMNS.items():
        instance = row if table is JobRow else revision
        value = getattr(instance, name)
        if value and (found := valid(value)) != value:
            set_committed_value(instance, name, found)
            problems.append(Problem(name, name, "is not valid"))
    return problems


async def unreadable_ids(session: AsyncSession) -> list[str]:
    """Return the ids of the live jobs with problems."""
    fields = {name: col(getattr(JobRow, column)) for name, column in JOB_COLUMNS.items()}
    fields |= {name: col(getattr(RevisionRow, name)) for name in VERSIONED_FIELDS}
    others = {name: col(getattr(table, name)) for name, (table, _) in _OTHER_COLUMNS.items()}
    columns: list[Any] = [each.label(name) for name, each in (fields | others).items()]
    query = (
        select(col(JobRow.id), *columns)
        .join(RevisionRow, NEWEST_REVISION)
        .where(col(JobRow.archived_at).is_(None))
    )
    return [
        row["id"]
        for row in (await session.execute(query)).mappings()
        if read({name: row[name] for name in fields})[1]
        or any(row[name] and _OTHER_COLUMNS[name][1](row[name]) != row[name] for name in others)
    ]


def _problem_of_schedule(schedule: Schedule) -> Problem | None:
    """Return the problem of a schedule whose due times cannot be computed."""
    if not is_known(schedule.timezone):
        why = f"this machine has no time zone {one_line(schedule.timezone, 100)}"
        return Problem("schedule", "timezone", why, is_kept=True)
    if isinstance(schedule, Cron):
        try:
            cron.read_fields(schedule.expr)
        except InvalidInput as error:
            why = one_line(error.problem, MAX_PROBLEM_LENGTH)
            return Problem("schedule", "cron", why)
    return None


def _salvage(values: Mapping[str, Any]) -> tuple[Job, tuple[Problem, ...]]:
    """Return the job with a default for each invalid value, and the problems."""
    fields, problems = dict[str, Any](), list[Problem]()
    kind = values["kind"]
    if kind in ACTIONS:
        fields["action"] = _salvage_part("action", ACTIONS[kind], values["action"], problems)
    else:
        problems.append(Problem("kind", "kind", f"{one_line(kind, 60)!r} is not a kind of job"))
        fields["action"] = AgentPrompt.model_construct(prompt="")
    for name, model in _OBJECTS.items():
        fields[name] = _salvage_part(name, model, values[name], problems)
    for name, field in Job.model_fields.items():
        if name in fields:
            continue
        value = values[name]
        try:
            fields[name] = _adapter(Job, name).validate_python(value, context=STORED)
        except ValidationError as error:
            if name != "kind":
                problems.append(Problem.of(name, error.errors()[0]))
            if name in ("name", "kind"):
                fields[name] = str(value)
            elif name == "schedule":
                fields[name] = _WITHOUT_SCHEDULE
            else:
                fields[name] = field.get_default(call_default_factory=True)
    if problem := _problem_of_schedule(fields["schedule"]):
        problems.append(problem)
        if not problem.is_kept:
            fields["schedule"] = _WITHOUT_SCHEDULE
    return Job.model_construct(**fields), tuple(problems)


def _salvage_part(
    part: str, model: type[BaseModel], stored: Any, problems: list[Problem]
) -> BaseModel:
    """Return the stored action, policy or notifications; add their problems to ``problems``."""
    try:
        return model.model_validate(stored, context=STORED)
    except ValidationError as error:
        problems += dict.fromkeys(Problem.of(part, details) for details in error.errors())
    except RecursionError:
        problems.append(Problem(part, part, "is nested too deeply"))
    values, given = dict[str, Any](), stored if isinstance(stored, dict) else {}
    for name, field in model.model_fields.items():
        key = field.alias if field.alias in given else name
        try:
            values[name] = _adapter(model, name).validate_python(given[key], context=STORED)
        except (KeyError, ValidationError, RecursionError):
            if field.is_required():
                values[name] = ""
    return model.model_construct(**values)


@cache
def _adapter(model: type[BaseModel], name: str) -> TypeAdapter[Any]:
    """Return the validator of one field, without the validators of the whole model."""
    field = model.model_fields[name]
    annotation: Any = field.annotation
    if name == "schedule":
        return _SCHEDULE
    for each in field.metadata:
        annotation = Annotated[annotation, each]
    return TypeAdapter(annotation)
