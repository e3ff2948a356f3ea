"""Operations on jobs files: apply, drift, export.

`apply` reads all files, plans the changes, and performs the plan in one transaction. So after a
crash, the ledger has all changes or none. The changed jobs are then pending until the keeper, or
`apply` with ``wait``, has reconciled them with Prefect.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from daybook import api, owners, prefect, settings
from daybook.api import authorization
from daybook.api.file_documents import DocumentChange, DocumentPlan
from daybook.errors import (
    DaybookError,
    InvalidFiles,
    InvalidInput,
    Mistake,
    PrefectUnreachable,
)
from daybook.files import export as exports
from daybook.files import jobs_file
from daybook.files import plan as plans
from daybook.files.jobs_file import FileText
from daybook.files.plan import Plan, PlanStep, Verb
from daybook.jobs import store
from daybook.jobs.views import FieldChange
from daybook.ledger.engine import Ledger, open_ledger, reading
from daybook.resources.planned import with_planned
from daybook.runs import outcomes
from daybook.short_text import first_names, one_line

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from sqlalchemy.ext.asyncio import AsyncSession

    from daybook.jobs.store import StoredJob

MAX_CONCURRENT_SYNCS = 4
"""Maximum number of jobs that `apply` reconciles with Prefect at the same time while it waits."""
MAX_NAMES_IN_NOTE = 3
DOCUMENTS_STORED = "so no job was changed (the settings documents are stored; apply again)"

Progress = Callable[[int, int], None]
"""Function that gets two numbers: of the reconciled jobs, and of all changed jobs."""


class PlannedChange(BaseModel, frozen=True):
    """A job that is added, changed or removed.

    ``changes`` are the changed fields with their values before and after; for a new job, the values
    before are None. ``overwrites`` are the changes that were made outside the file and that this
    change undoes; each has the file's last value and the value that gets lost. ``renamed_from`` is
    the previous name of the job, or empty if the job keeps its name.
    """

    action: Verb
    job: str
    renamed_from: str
    changes: list[FieldChange]
    overwrites: list[FieldChange]

    @classmethod
    def of(cls, step: PlanStep) -> PlannedChange:
        return cls(
            action=step.verb,
            job=step.name,
            renamed_from=step.renamed_from,
            changes=list(step.changes),
            overwrites=list(step.overwrites),
        )


class ApplyReport(BaseModel, frozen=True):
    """Result of `apply`; with ``dry_run``, the result that `apply` would have.

    ``unchanged`` is the number of jobs that the files do not change, and ``unchanged_documents``
    that of settings documents; ``documents`` are the others. ``pending`` are the new and
    changed jobs that are not in Prefect yet. ``failed`` maps the jobs that Prefect refuses to the
    reasons; it is empty unless `apply` waits.
    """

    set: str
    dry_run: bool
    documents: list[DocumentChange]
    unchanged_documents: int
    changes: list[PlannedChange]
    unchanged: int
    pending: list[str]
    failed: dict[str, str]
    notes: list[str]


class Drift(BaseModel, frozen=True):
    """A job that was changed after it was applied.

    ``changes`` are the changed fields, each with the file's value and the job's current value.
    """

    job: str
    set: str
    changes: list[FieldChange]


async def apply(
    sources: Sequence[FileText],
    *,
    set_name: str | None = None,
    default_set: str = "",
    dry_run: bool = False,
    prune: bool = False,
    adopt: bool = False,
    wait: bool = False,
    progress: Progress = lambda _done, _all: None,
) -> ApplyReport:
    """Add, change and, with ``prune``, remove jobs as the jobs files say: all changes, or none.

    Also add and change the settings documents in the files; all checks come before the first write.

    A set owns the jobs. Its name is ``set_name``. The default is the name in the files, or
    ``default_set`` if the files have none. With ``prune``, remove the set's jobs that are in no
    file. If a job in the files has another owner, that is a mistake; with ``adopt``, the set
    becomes its owner. With ``wait``, return when Prefect has the changes.

    Raise `InvalidFiles` with all mistakes, also for a missing secret, and `InvalidInput` for an
    invalid set or an agent. With ``wait``, or with settings documents, raise `PrefectUnreachable`.
    If Prefect was unreachable at the start, nothing was stored, unless the plan only removes jobs.
    If Prefect stopped answering later, a part of the changes is stored: apply the files again.
    """
    authorization.require_operator()
    sections = api.file_documents.nouns()
    files = [jobs_file.read_file(each, sections) for each in sources]
    name, zone = plans.set_name(files, set_name, default_set), settings.load().timezone

    def make(stored: Sequence[StoredJob], now: datetime) -> Plan:
        return plans.make(files, stored, name, now=now, timezone=zone, prune=prune, adopt=adopt)

    async with open_ledger() as ledger:
        async with ledger.read() as session:
            stored = await store.read_all(session)
            plan = make(stored, ledger.now())
        documents = await api.file_documents.plan(
            files,
            *_names_after(stored, plan, [each.name for file in files for each in file.entries]),
        )
        plan.mistakes += documents.mistakes
        checked = await _checked(ledger, plan, documents, needs_prefect=wait and not dry_run)
        notes = [*plan.notes, *documents.notes, *checked]
        if prune and any(file.documents for file in files):
            notes.append(api.file_documents.NOT_PRUNED)
        if dry_run:
            notes += map(str, documents.needed)
        elif documents.needed:
            raise InvalidFiles(documents.needed)
        else:
            await api.file_documents.perform(ledger, documents, after_jobs=False)
        changed: list[StoredJob] = []
        if not dry_run and (plan.steps or plan.applied):
            async with ledger.write() as session:
                now = ledger.now()
                plan = make(await store.read_all(session), now)
                if plan.mistakes:  # another process has changed jobs since the plan was made
                    if documents.stored:
                        raise InvalidFiles(plan.mistakes, DOCUMENTS_STORED)
                    raise InvalidFiles(plan.mistakes)
                changed = await _perform(session, plan, now)
        if not dry_run:
            await api.file_documents.perform(ledger, documents, after_jobs=True)
        failed = await _sync(ledger, changed, progress) if wait and changed else {}
        async with ledger.read() as session:
            current = await store.all_jobs(session, [each.id for each in changed])
            drafts = {each.name: each.job for each in plan.steps if each.job is not None}
            notes += await api.shared_folders.notes(session, drafts)
        return ApplyReport(
            set=name,
            dry_run=dry_run,
            documents=documents.changes(),
            unchanged_documents=documents.unchanged,
            changes=[PlannedChange.of(each) for each in plan.steps],
            unchanged=plan.unchanged,
            pending=[each.row.name for each in current if each.row.sync_pending],
            failed=failed,
            notes=notes,
        )


async def drift(refs: Sequence[str] = ()) -> list[Drift]:
    """Return the jobs among ``refs`` (default: all) that were changed after they were applied.

    Works without Prefect. Raise `NotFound` and `Ambiguous`.
    """
    found = []
    for each in await _selected(refs):
        if changes := plans.drift(each):
            owner = each.row.owner.removeprefix(owners.FILE_PREFIX)
            found.append(Drift(job=each.row.name, set=owner, changes=changes))
    return found


async def export(refs: Sequence[str] = ()) -> tuple[str, dict[str, Any]]:
    """Return the jobs ``refs`` (default: all) as the text and the data of a jobs file.

    Without ``refs``, omit agents' jobs, because no file can own them, and jobs that cannot be read,
    each with a comment in the text, and add the settings documents. Works without Prefect. Raise
    `NotFound`, `Ambiguous`, and `InvalidInput` for an agent's job and for a job that cannot be
    read.
    """
    jobs = await _selected(refs)
    if not refs:
        jobs = [each for each in jobs if not owners.is_agent(each.row.owner)]
    left_out = [str(each.problem) for each in jobs if each.problem is not None and not refs]
    exported = [_exportable(each) for each in jobs if each.problem is None or refs]
    sections: exports.Sections = {}
    if not refs and not owners.current_actor().is_agent:
        async with reading() as session:
            sections, others = await api.file_documents.export(session)
        left_out += others
    comments = "".join(f"# left out: {one_line(each)}\n" for each in left_out)
    return exports.text(exported, sections) + comments, exports.document(exported, sections)


def definition(stored: StoredJob) -> str:
    """Return the job as a jobs file.

    If no jobs file can contain it, return a comment with the reason.
    """
    try:
        return exports.text([_exportable(stored)])
    except DaybookError as error:
        return f"# {error}"


def _exportable(stored: StoredJob) -> StoredJob:
    if stored.problem is not None:
        raise stored.problem
    if owners.is_agent(stored.row.owner):
        problem = f"{stored.row.name} belongs to {stored.row.owner}"
        raise InvalidInput("JOB", problem, "no jobs file can own an agent's job")
    return stored


async def _selected(refs: Sequence[str]) -> list[StoredJob]:
    async with reading() as session:
        if not refs:
            return await authorization.list_jobs(session)
        found = [await authorization.find_job(session, each) for each in refs]
    return list({each.id: each for each in found}.values())


def _names_after(
    stored: Sequence[StoredJob], plan: Plan, given: Sequence[str]
) -> tuple[dict[str, str], set[str]]:
    """Return the names of the stored jobs by id, and those of all jobs, after the plan."""
    names = api.file_documents.names_of(stored)
    for each in plan.steps:
        if each.before is not None:
            names[each.before.id] = each.name
            if each.job is None:
                names.pop(each.before.id, None)
    return names, {*names.values(), *given}


async def _checked(
    ledger: Ledger, plan: Plan, documents: DocumentPlan, *, needs_prefect: bool
) -> list[str]:
    """Check the new and changed jobs as `api.jobs.add` does; return notes for the user.

    Raise `InvalidFiles` with all mistakes of the plan and of these checks. With ``needs_prefect``,
    raise `PrefectUnreachable` if there is such a job and Prefect does not answer.
    """
    notes, mistakes = dict[str, list[str]](), list[Mistake](plan.mistakes)
    if any(step.job for step in plan.steps) or (needs_prefect and plan.steps):
        async with prefect.client.connected_if_reachable() as connected:
            if connected is None and needs_prefect:
                async with prefect.client.answering():  # this raises an error with the reason
                    pass
            known = dict[str, list[str] | InvalidInput]()
            client = with_planned(connected, documents.planned) if connected else None
            for step in plan.steps if documents.is_complete else ():
                if step.job is None or step.entry is None:
                    continue
                try:
                    for note in await _preflight(client, step, plan.owner, known):
                        notes.setdefault(note, []).append(step.name)
                except InvalidInput as error:
                    step.entry.add_mistake(error)
                    mistakes += step.entry.mistakes
    if mistakes:
        raise InvalidFiles(mistakes)
    return [f"{first_names(named, MAX_NAMES_IN_NOTE)}: {note}" for note, named in notes.items()]


async def _preflight(
    client: PrefectClient | None,
    step: PlanStep,
    owner: str,
    known: dict[str, list[str] | InvalidInput],
) -> list[str]:
    """Return the notes of the checks that need an external system. Raise `InvalidInput`.

    ``known`` has the earlier results. So if two jobs have equal fields, these are checked only
    once.
    """
    assert step.job is not None
    changed = {each.field for each in step.changes}
    is_new = step.before is None
    action = is_new or not api.preflight.ACTION_FIELDS.isdisjoint(changed)
    notify = is_new or not api.preflight.NOTIFY_FIELDS.isdisjoint(changed)
    fields = jobs_file.flat(step.job)
    checked = api.preflight.ACTION_FIELDS | api.preflight.NOTIFY_FIELDS | {"kind"}
    key = json.dumps([action, notify, {name: fields.get(name) for name in sorted(checked)}])
    if key not in known:
        try:
            known[key] = await api.preflight.check(
                client, step.job, owner, action=action, notify=notify
            )
        except InvalidInput as error:
            known[key] = error
    result = known[key]
    if isinstance(result, InvalidInput):
        raise result
    return result


async def _perform(session: AsyncSession, plan: Plan, now: datetime) -> list[StoredJob]:
    """Perform the plan's steps. Return the changed jobs, including the removed ones."""
    actor = owners.current_actor()
    changed: list[StoredJob] = []
    has_renames = any(each.renamed_from for each in plan.steps)
    for step in plan.steps:
        before = step.before
        if before is not None and has_renames and step.job is not None:
            # The rename of a job also changes the jobs that name it.
            before = await store.get(session, before.id)
        if before is None:
            assert step.job is not None
            job = step.job
            slug = await store.free_slug(session, job, plan.owner)
            new = await store.add(
                session,
                job,
                slug,
                now,
                plan.owner,
                user_id=actor.user_id,
                created_by=actor.via,
                names_are_checked=True,
            )
        elif step.job is None:
            await outcomes.archive_job(session, before, now)
            changed.append(before)
            continue
        else:
            new = await store.change(
                session,
                before,
                step.job,
                now,
                disabled_reason=f"disabled in {plan.owner}" if before.job.enabled else "",
                writer=actor.writer,
                names_are_checked=True,
            )
        new.row.owner, new.row.applied = plan.owner, step.applied
        new.row.applied_at = new.row.updated_at
        if before is None and not new.job.enabled:
            new.row.disabled_reason = step.reason or f"disabled in {plan.owner}"
        session.add(new.row)
        changed.append(new)
    for stored, applied in plan.applied:
        stored.row.applied, stored.row.applied_at = applied, stored.row.updated_at
        session.add(stored.row)
    return changed


async def _sync(ledger: Ledger, changed: list[StoredJob], progress: Progress) -> dict[str, str]:
    """Reconcile the changed jobs with Prefect.

    Return the jobs that Prefect refused, with the reasons. Raise `PrefectUnreachable` if Prefect
    stops answering; then the remaining jobs stay pending.
    """
    prefect.private_names.cache_time_zones()
    report, done = prefect.report.ReconcileReport(), 0

    # Start with the last job, because a keeper that notices the changes starts with the first one.
    left = list(changed)
    checked: list[tuple[StoredJob, bool]] = []
    taking = asyncio.Lock()

    async def take(client: PrefectClient) -> tuple[StoredJob, bool] | None:
        """Return the next job, and whether it is new and no deployment has its name.

        Return None if no job is left.
        """
        async with taking:
            if not checked and left:
                part = left[-prefect.deployment.MAX_NAMES :]
                del left[-prefect.deployment.MAX_NAMES :]
                free = await _free_names(client, part)
                checked.extend((each, each.id in free) for each in part)
            return checked.pop() if checked else None

    async def work(client: PrefectClient) -> None:
        nonlocal done
        address = str(client.api_url)
        while True:
            with prefect.client.raising_daybook_errors(address):
                taken = await take(client)
            if taken is None:
                return
            each, is_new = taken
            try:
                with prefect.client.raising_daybook_errors(address):
                    send = (
                        prefect.reconcile_job.create_deployment
                        if is_new
                        else prefect.reconcile_job.reconcile_by_id
                    )
                    await send(ledger, client, each.id, report)
            except Exception as error:
                if not prefect.client.is_job_error(error):
                    raise
                report.fail(each.row.name, prefect.client.describe_error(error))
            done += 1
            progress(done, len(changed))

    async with prefect.client.connected() as client:
        await prefect.reconcile.delete_leftover_deployments(ledger, client, report)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(MAX_CONCURRENT_SYNCS, len(changed))):
                    group.create_task(work(client))
        except* PrefectUnreachable as errors:
            raise errors.exceptions[0] from None
    return report.failed


async def _free_names(client: PrefectClient, jobs: Sequence[StoredJob]) -> set[str]:
    """Return the ids of the new jobs whose names no deployment has, with one request for all."""
    names = {each.id: (each.row.kind, each.row.slug) for each in jobs if not each.row.deployment_id}
    taken = await prefect.deployment.taken_names(client, names.values()) if names else set()
    return {each for each, name in names.items() if name not in taken}
