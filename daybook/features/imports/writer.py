"""Writer of imports: stores the jobs and runs of a source in one transaction.

::

    Source ─► plan: every new job becomes a `Job`, or the import is refused ─► perform: rows

The writer recognises a job by its source id (`JobRow.request_key`), even if the job was removed. It
recognises a run by its occurrence key ``import:<job>:<run>``. So a repeated import adds only new
jobs and runs. No due time before the import becomes due, because the audit of a job starts at the
time of the import. A one-time job whose time has passed is disabled.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook import owners
from daybook.errors import MAX_LISTED, InvalidInput, UnknownName, listed
from daybook.features.imports import shell
from daybook.features.imports.records import in_words
from daybook.features.imports.source import RefusedJob, Source, SourceJob, SourceRun, System
from daybook.http import secrets
from daybook.jobs import prompts, store, upcoming
from daybook.jobs.action_fields import check_json
from daybook.jobs.labels import MAX_METADATA_LENGTH
from daybook.jobs.model import IMPORTED_FROM, Job, JobFields, new_job
from daybook.json_text import JsonObject
from daybook.ledger import triggers
from daybook.ledger.column_types import MAX_INTEGER
from daybook.ledger.states import Status
from daybook.ledger.tables import JobRow, RunRow
from daybook.names import MAX_NAME_LENGTH, default_name, free_name, validate_new_name
from daybook.processes import locations
from daybook.runs import outcomes
from daybook.schedules.zones import zone
from daybook.short_text import prefix, shorten


class JobsRefused(InvalidInput):
    """Jobs that cannot be imported, ``refused``, so nothing was imported."""

    def __init__(self, refused: Sequence[RefusedJob]) -> None:
        self.refused = tuple(refused)
        options = [
            f"--leave-out {shlex.quote(each.id or each.name)}" for each in refused[:MAX_LISTED]
        ]
        names = " ".join(options) + (" …" if len(refused) > MAX_LISTED else "")
        problem, hint = refused[0].error.problem, f"{refused[0].error.hint}, or leave it out"
        if len(refused) > 1:
            problem = f"{len(refused)} jobs cannot be imported, so nothing was imported"
            problem += listed([each.error.problem for each in refused])
            hint = "correct them, or leave them out"
        super().__init__("path", problem, f"{hint}: {names}")


OnConflict = Literal["skip", "rename", "replace"]
"""Treatment of a job whose name a job from elsewhere already has."""

CREATED_BY = "import"

UNKNOWN_REASON = "it had not ended when it was imported"
DISABLED_REASON = "imported as disabled"
MAX_KEPT_LENGTH = MAX_METADATA_LENGTH // 2
"""Maximum length, in characters of JSON, of the values that are only kept in the metadata."""
_OF_SCHEDULE = re.compile(
    r"(?:^|_)tz|time_?z|zone|cron|schedule|scheduling|trigger|interval|recur|repeat|calendar|week_?day|jitter"
    r"|stagger|^(?:timer|every|at|until|starts?|ends?|days|hours|minutes|offset)(?:_|$)"
)
"""Found in a name, in snake case, of a value that may change the due times of a job."""
_CAMEL_CASE = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
WORK_DIR_REASON = "imported without its work directory"
CHOSEN_NAME = "imported"
"""Name of a job if its name and its prompt have no character that a name may contain."""


class ImportedJob(BaseModel, frozen=True):
    """Result of an import for one job.

    ``result`` is `added`, `replaced` (added in place of the job that had its name), `unchanged` (it
    was imported before) or `skipped` (another job has its name). ``id`` is None if the job is not
    stored. ``schedule`` are the words for the schedule of a new job, and ``next_due`` is its next
    due time if it is enabled, in its time zone.
    """

    source_id: str
    name: str
    id: str | None
    result: Literal["added", "replaced", "unchanged", "skipped"]
    enabled: bool
    schedule: str = ""
    next_due: datetime | None = None
    runs: int
    notes: list[str]


class ImportReport(BaseModel, frozen=True):
    """Result of an import. With ``dry_run``, nothing was written.

    ``runs`` is the number of runs of the history that were added.
    """

    system: System
    dry_run: bool
    jobs: list[ImportedJob]
    runs: int
    notes: list[str]


@dataclass
class _Planned:
    """One job of the source, and the planned changes for it."""

    source: SourceJob
    result: Literal["added", "replaced", "unchanged", "skipped"]
    name: str
    job: Job | None = None  # the job to store, or None
    row: JobRow | None = None  # the job that was imported before
    is_enabled: bool = False  # whether that job is enabled
    replaces: str = ""  # the id of the job to archive
    reason: str = ""
    runs: list[SourceRun] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


async def write(
    session: AsyncSession,
    source: Source,
    now: datetime,
    *,
    default_timezone: str,
    on_conflict: OnConflict = "skip",
    dry_run: bool = False,
    leave_out: Sequence[str] = (),
    disabled: bool = False,
) -> ImportReport:
    """Store the source. With ``dry_run``, only report the jobs and runs that would be stored.

    ``leave_out`` are the names or ids of jobs to leave out. With ``disabled``, the new jobs are
    disabled. Raise `InvalidInput`, which names every job that cannot be imported and the reason,
    and `UnknownName` for a job of ``leave_out`` that the source does not have; then nothing is
    written.
    """
    source = _without(source, leave_out)
    plan = await _plan(session, source, now, default_timezone, on_conflict)
    if disabled:
        for each in plan:
            if each.job is not None:
                each.job = each.job.model_copy(update={"enabled": False})
                each.reason = each.reason or DISABLED_REASON
    if not dry_run:
        for each in plan:
            await _perform(session, source.system, each, now)
    return ImportReport(
        system=source.system,
        dry_run=dry_run,
        jobs=[_report(each, now, dry_run=dry_run) for each in plan],
        runs=sum(len(each.runs) for each in plan),
        notes=list(source.notes),
    )


def _without(source: Source, leave_out: Sequence[str]) -> Source:
    """Return the source without the jobs with these names or ids, with a note for each of them."""
    entries: list[SourceJob | RefusedJob] = [*source.jobs, *source.refused]
    named = {name for each in entries for name in (each.id, each.name)}
    if unknown := [each for each in leave_out if each not in named]:
        raise UnknownName("leave_out", unknown[0], named - {""})

    def stays(job: SourceJob | RefusedJob) -> bool:
        return job.id not in leave_out and job.name not in leave_out

    return replace(
        source,
        jobs=tuple(filter(stays, source.jobs)),
        refused=tuple(filter(stays, source.refused)),
        notes=(
            *source.notes,
            *(left_out_note(each) for each in entries if not stays(each)),
        ),
    )


def left_out_note(job: SourceJob | RefusedJob) -> str:
    """Return the note of an import that leaves out ``job`` because the user requested it."""
    return f"left out {job.name or job.id}, as requested"


def _report(planned: _Planned, now: datetime, *, dry_run: bool) -> ImportedJob:
    row, job = planned.row, planned.job
    due = None
    if job is not None and job.enabled:
        due = upcoming.next_due(job.schedule, job.policy, now)
        due = due and due.astimezone(zone(job.schedule.timezone))
    enabled = planned.is_enabled or (planned.job is not None and planned.job.enabled)
    return ImportedJob(
        source_id=planned.source.id,
        name=planned.name,
        id=None if row is None or (dry_run and planned.job is not None) else row.id,
        result=planned.result,
        enabled=enabled,
        schedule=job.schedule.describe() if job is not None else "",
        next_due=due,
        runs=len(planned.runs),
        notes=planned.notes,
    )


async def _plan(
    session: AsyncSession,
    source: Source,
    now: datetime,
    zone: str,
    on_conflict: OnConflict,
) -> list[_Planned]:
    before = await _imported_before(session, source.system)
    live = await store.read_all(session)
    ids = {each.row.name: each.id for each in live if not owners.is_agent(each.row.owner)}
    enabled = {each.id for each in live if each.job.enabled}
    # A job of this source must not replace a job that this source imported before.
    known = {before[key].id for each in source.jobs if (key := _key(source, each)) in before}
    holders = {name: id_ for name, id_ in ids.items() if id_ not in known}
    used, plan, refused = set(ids), list[_Planned](), list(source.refused)
    for each in source.jobs:
        row = before.get(_key(source, each))
        if row is not None:
            is_enabled = row.id in enabled
            planned = _Planned(each, "unchanged", row.name, row=row, is_enabled=is_enabled)
            if row.archived_at is not None:
                planned.notes.append("it was imported before, and removed since")
        else:
            planned = _planned(each, holders, used, on_conflict)
            if planned.replaces:
                # A second job with this name must not replace the first one.
                del holders[planned.name]
            if planned.result != "skipped":
                used.add(planned.name)
                try:
                    _build(planned, source.system, now, zone)
                except InvalidInput as error:
                    refused.append(RefusedJob(each.id, each.name, error))
        plan.append(planned)
    if refused:
        raise JobsRefused(refused)
    await _plan_runs(session, source, plan)
    return plan


def _key(source: Source, job: SourceJob) -> str:
    return _source_key(source.system, job.id)


def _planned(
    source: SourceJob, holders: Mapping[str, str], used: set[str], on_conflict: OnConflict
) -> _Planned:
    """Choose the name of a new job, and the treatment of a job that already has this name."""
    notes = list(source.notes)
    name = _valid_name(source.name)
    if name != source.name.strip():
        notes.append(f"its name was {source.name!r}")
    holder = holders.get(name)
    if holder is None or on_conflict == "rename":
        free = free_name(name, used)
        if free != name:
            notes.append(f'the name "{name}" is taken')
        return _Planned(source, "added", free, notes=notes)
    if on_conflict == "replace":
        return _Planned(source, "replaced", name, replaces=holder, notes=notes)
    notes.append(f'a job named "{name}" exists; use --on-conflict rename or replace')
    return _Planned(source, "skipped", name, notes=notes)


def _valid_name(name: str) -> str:
    """Return the name. If Daybook does not accept it, return a shortened or rewritten name."""
    one_line = prefix(" ".join(name.split()), MAX_NAME_LENGTH)
    for candidate in (one_line, default_name(name)):
        try:
            return validate_new_name(candidate)
        except InvalidInput:
            continue
    return CHOSEN_NAME


def _build(planned: _Planned, system: System, now: datetime, zone: str) -> None:
    """Set the job of ``planned``. Raise `InvalidInput`, which names the place in the source."""
    source, fields = planned.source, dict(planned.source.fields)
    _leave_out_secrets(planned, fields)
    kept = _leave_out_work_dir(planned, fields)
    prompt = fields.get("prompt")
    if prompt is not None and fields.get("agent") == shell.AGENT:
        _refuse_variables(source, prompt)
        if named := shell.names_of_secrets(prompt):
            planned.notes.append(
                f"its command contains a secret ({', '.join(named)}), which each reader of the job "
                f"can see; {shell.MOVE_SECRET_HINT}"
            )
    if prompt is not None and _has_foreign_variable(prompt):
        planned.notes.append(
            "its prompt has {{…}} that Daybook does not replace; it is sent as it is"
        )
    fields["metadata"] = {
        **fields.get("metadata", {}),
        IMPORTED_FROM: _origin(planned, system, kept),
    }
    created = (source.anchor or now).replace(microsecond=0)
    try:
        job = new_job(
            now=created, default_timezone=zone, name=planned.name, may_have_passed=True, **fields
        )
    except InvalidInput as error:
        problem = f"{source.where}: {error.field}: {error.problem}"
        raise InvalidInput("path", problem, error.hint) from None
    if job.schedule.has_passed(now):
        planned.reason = planned.reason or store.PASSED_REASON
        planned.notes.append(f"its due time {fields['at']} has passed, so it is disabled")
    elif job.policy.max_runs and source.run_count >= job.policy.max_runs:
        used = f"{store.MAX_RUNS_REASON}: the job has used all {source.run_count} of its runs"
        planned.reason = planned.reason or used
    planned.reason = planned.reason or source.disabled_reason
    if of_schedule := {k: v for k, v in source.unknown.items() if _is_of_schedule(k)}:
        unknown = in_words([_assignment(*each) for each in of_schedule.items()])
        why = f"Daybook does not know {unknown}, which may change its due times"
        planned.reason = planned.reason or why
        planned.notes.append(
            f"it is disabled: {why}; compare its schedule and time zone, then resume it"
        )
    if planned.reason:
        job = job.model_copy(update={"enabled": False})
    elif not job.enabled:
        planned.reason = f"disabled in {system}"
    planned.job = job


def _is_of_schedule(path: str) -> bool:
    names = (_CAMEL_CASE.sub("_", each).lower() for each in path.split("."))
    return any(map(_OF_SCHEDULE.search, names))


def _assignment(name: str, value: object) -> str:
    """Return ``name = value``; do not quote a literal secret."""
    try:
        secrets.refuse_literal_params({name: value})
    except InvalidInput:
        return name
    return f"{name} = {value!r}"


def _origin(planned: _Planned, system: System, kept: JsonObject) -> JsonObject:
    """Return the values of the job that are only kept, with ``kept``, and add notes on them.

    Leave out literal secrets, and values for which the metadata of a job has no room.
    """
    source, lost = planned.source, list[str]()
    origin: JsonObject = {"system": system, "id": source.id}
    if source.created_at is not None:
        origin["created_at"] = source.created_at.isoformat()
    unknown = JsonObject()
    for group, values in ((origin, source.kept | kept), (unknown, source.unknown)):
        for name, value in values.items():
            try:
                secrets.refuse_literal_params({name: value})
                kept_so_far = {**origin, "unknown": {**unknown, name: value}}
                check_json({IMPORTED_FROM: kept_so_far}, name, MAX_KEPT_LENGTH)
            except InvalidInput:
                lost.append(name)
            else:
                group[name] = value
    if source.unknown:
        names = in_words(list(source.unknown))
        planned.notes.append(f"Daybook does not know these values, so they have no effect: {names}")
    if unknown:
        origin["unknown"] = unknown
    if lost:
        planned.notes.append(f"not kept, because too large or a secret: {in_words(lost)}")
    return origin


def _refuse_variables(source: SourceJob, command: str) -> None:
    """Raise `InvalidInput` for a command with a prompt's variable, which Daybook would replace."""
    if variables := prompts.used(command):
        problem = f"{source.where}: its command has {variables[0]}, a variable of Daybook's prompts"
        hint = "nothing was imported; divide its braces for the shell, such as '{''{job}}'"
        raise InvalidInput("path", problem, hint)


def _has_foreign_variable(prompt: str) -> bool:
    try:
        prompts.check(prompt)
    except InvalidInput:
        return True
    return False


def _leave_out_secrets(planned: _Planned, fields: JobFields) -> None:
    """Remove literal secrets from ``fields``, because Daybook stores secrets only by reference.

    If there are any, the job is disabled, with a note.
    """
    left_out = list[str]()
    for name in secrets.FIELDS:
        given = fields.get(name, {})
        replaced = secrets.replace_literals(name, given, lambda _: "")
        left_out += [f"{name}.{key}" for key in given if replaced[key] != given[key]]
        if given:
            fields[name] = {k: v for k, v in given.items() if replaced[k] == v}
    if left_out:
        planned.reason = shell.SECRET_REASON
        planned.notes.append(
            f"left out {', '.join(left_out)}, which looks like a secret, so it is disabled; "
            + secrets.STORE_SECRET_HINT
        )


def _leave_out_work_dir(planned: _Planned, fields: JobFields) -> JobFields:
    """Remove a work directory that no run could use from ``fields``, and return it.

    The job is then disabled, with a note, because its program must not run in another folder.
    """
    work_dir = fields.get("work_dir", "")
    try:
        planned.notes += locations.check_job_folder(work_dir)
    except InvalidInput as error:
        planned.reason = planned.reason or WORK_DIR_REASON
        planned.notes.append(f"left out its {error}, so it is disabled")
        return {"work_dir": fields.pop("work_dir")}
    return {}


async def _plan_runs(session: AsyncSession, source: Source, plan: list[_Planned]) -> None:
    """Set the runs to add: all runs that no import has added before.

    Omit the runs of removed and of skipped jobs.
    """
    known = set[str]()
    if any(each.row is not None for each in plan):
        imported = select(RunRow.occurrence).where(col(RunRow.trigger) == triggers.IMPORTED.name)
        known = set((await session.execute(imported)).scalars())
    by_job: dict[str, list[SourceRun]] = {}
    for run in source.runs:
        by_job.setdefault(run.job_id, []).append(run)
    for each in plan:
        removed = each.row is not None and each.row.archived_at is not None
        if each.result == "skipped" or removed:
            continue
        each.runs = [
            run
            for run in by_job.get(each.source.id, ())
            if each.row is None or _occurrence(each.row.id, run) not in known
        ]


async def _imported_before(session: AsyncSession, system: System) -> dict[str, JobRow]:
    """Return all jobs imported from this system, by `request_key`, including removed jobs."""
    of_system = col(JobRow.request_key).startswith(_source_key(system, ""), autoescape=True)
    rows = (await session.execute(select(JobRow).where(of_system))).scalars()
    return {str(row.request_key): row for row in rows}


def _source_key(system: System, source_id: str) -> str:
    return f"import:{system}:{source_id}"


def _occurrence(job_id: str, run: SourceRun) -> str:
    return f"import:{job_id}:{run.id}"


async def _perform(session: AsyncSession, system: System, planned: _Planned, now: datetime) -> None:
    source = planned.source
    if planned.replaces:
        (replaced,) = await store.read_all(session, [planned.replaces])
        await outcomes.archive_job(session, replaced, now)
        await session.flush()  # this write makes the name of the archived job free
    if planned.job is not None:
        stored = await store.add(
            session,
            planned.job,
            await store.free_slug(session, planned.job, source.owner),
            now,
            source.owner,
            user_id=source.user_id,
            created_by=CREATED_BY,
            request_key=_source_key(system, source.id),
        )
        planned.row = stored.row
        planned.row.disabled_reason = planned.reason
        planned.row.run_count = min(source.run_count, MAX_INTEGER)
        planned.row.consecutive_failures = min(source.consecutive_failures, MAX_INTEGER)
        planned.row.last_run_at = source.last_run_at
        planned.row.last_error = source.last_error or None
    if planned.row is None:
        return
    rows = [_run_row(planned.row, run) for run in planned.runs]
    session.add_all(rows)
    newest = max(rows, key=lambda row: row.due, default=None)
    if planned.job is not None and newest is not None:
        planned.row.last_run_id, planned.row.last_status = newest.id, newest.status
        planned.row.last_run_at = newest.due
    session.add(planned.row)
    await session.flush()


def _run_row(job: JobRow, run: SourceRun) -> RunRow:
    """Return the row of a finished run. The run has no flow run in Prefect, and no deliveries."""
    output = shorten(run.output or "", outcomes.MAX_OUTPUT_CHARACTERS) or None
    return RunRow(
        occurrence=_occurrence(job.id, run),
        job_id=job.id,
        revision=job.revision,
        kind=job.kind,
        trigger=triggers.IMPORTED.name,
        due=run.due,
        status=run.status,
        reason=UNKNOWN_REASON if run.status is Status.UNKNOWN else "",
        attempts=min(run.attempts, MAX_INTEGER),
        queued_at=run.started_at,
        started_at=run.started_at,
        finished_at=run.finished_at,
        output=output,
        error=run.error or None,
    )
