"""Operations on jobs: add, list, show, edit, pause, resume, remove.

The operations act for `owners.current_actor()`. The actor owns the jobs that it adds, and can find
the jobs that `daybook.api.authorization` lets it see. For any other job the operations raise
`NotFound`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, Self

from daybook import api, names, owners, prefect, settings
from daybook.api import authorization
from daybook.api.filters import JobFilters
from daybook.delivery.views import RunWithSteps, recipients
from daybook.errors import (
    ChangedMeanwhile,
    InvalidInput,
    NotFound,
    PrefectRefused,
    PrefectUnreachable,
)
from daybook.instants import utc_text
from daybook.jobs import store
from daybook.jobs.actions import AgentPrompt
from daybook.jobs.model import Job, edit, new_job
from daybook.jobs.store import StoredJob
from daybook.jobs.upcoming import due_times
from daybook.jobs.views import (
    SPENDING_PERIOD,
    ChangedJob,
    FieldChange,
    JobDetails,
    ListedJob,
    changes_between,
)
from daybook.ledger import references
from daybook.ledger.engine import Ledger, open_ledger, reading
from daybook.ledger.views import NOTHING_SPENT, Run
from daybook.owners import Actor
from daybook.runs import daily, history

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from sqlalchemy.ext.asyncio import AsyncSession

Change = Callable[[StoredJob, Collection[str], datetime], Job]
"""Function that returns the changed job.

Its arguments are the stored job, the names of the other jobs, and the current time.
"""

NO_FILTERS = JobFilters()

FREQUENCY_NOTE = "it is due more often than once a minute: up to {:,} runs a day"
PENDING_NOTE = (
    "the change is stored, but not in Prefect yet; the keeper (`daybook up`) syncs it when Prefect "
    "answers"
)
"""Note on a changed job whose `sync` is `pending`."""

REPEATED_NOTE = "it was added before by the same request, so nothing was added now"
"""Note on the job that `add` returns for a repeated request."""

REPEAT_PERIOD = timedelta(minutes=1)
"""If a model sends the same fields again within this time, the request counts as a repetition."""

PAUSED = "paused"
"""The `disabled_reason` of a job that `pause` disabled.

A note of the user follows after a colon.
"""

MAX_IDEMPOTENCY_KEY_LENGTH = 200
"""Maximum length of an `idempotency_key`, in characters."""

_CHANGED_COLUMNS = ("disabled_reason", "snoozed_until", "consecutive_failures")
"""Columns of a job's row that `Job` does not contain and that enabling or disabling changes."""


async def add(fields: Mapping[str, Any]) -> ChangedJob:
    """Store a job and deploy it. ``fields`` are those of `daybook.jobs.model.new_job`.

    If an agent adds a job and names no agent to ask, the job asks the agent that adds it. If no
    agent of that name exists, the job asks the default agent. If Prefect is unreachable, the job's
    `sync` is `pending`, and the keeper deploys the job later. Raise `InvalidInput` and
    `Unreachable`; after an error, the job is not stored.

    If the request is a repetition, add no second job, but return the first job with
    `REPEATED_NOTE`:

    - ``fields`` may have an `idempotency_key`. A request with the same key is a repetition until
      the job is removed. If its other fields differ, raise `InvalidInput`.
    - A request of a model without a key is a repetition if the same model sent the same fields
      within the last minute.
    """
    actor, zone = owners.current_actor(), settings.load().timezone
    idempotency_key = _idempotency_key(fields)
    fields = {name: value for name, value in fields.items() if name != "idempotency_key"}
    async with open_ledger() as ledger:
        # Invalid fields raise an error before the first request to Prefect.
        draft = _new_job(fields, zone, ledger.now())
        request = _Request.of(idempotency_key, fields, actor)
        own_agent, by_default = _agent_of_owner(draft, fields, actor), draft
        if own_agent:
            draft = edit(draft, {"agent": own_agent}, now=ledger.now())
        authorization.check_limits(draft, actor.owner, ledger.now())
        async with ledger.read() as session:
            repeated = await _job_of(session, request, actor.owner, ledger.now())
            if repeated is None:
                await authorization.check_job_count(session, actor.owner, draft.name)
        async with prefect.client.connected_if_reachable() as client:
            notes: list[str] = []
            if repeated is None:
                if own_agent and await api.preflight.has_agent(client, ledger, own_agent):
                    fields = {**fields, "agent": own_agent}
                elif own_agent:
                    draft = by_default
                    authorization.check_limits(draft, actor.owner, ledger.now())
                with authorization.log_refusals(actor.owner, draft.name):
                    notes = await api.preflight.check(client, draft, actor.owner)
                if own_agent and client is None and "agent" not in fields:
                    notes.append(api.preflight.DEFAULT_AGENT_NOTE.format(own_agent))
                async with ledger.write() as session:
                    repeated = await _job_of(session, request, actor.owner, ledger.now())
                    if repeated is None:
                        await authorization.check_job_count(session, actor.owner, draft.name)
                        now, taken = ledger.now(), await store.taken_names(session, actor.owner)
                        job = _new_job(fields, zone, now, taken)
                        slug = await store.free_slug(session, job, actor.owner)
                        stored = await store.add(
                            session,
                            job,
                            slug,
                            now,
                            actor.owner,
                            user_id=actor.user_id,
                            created_by=actor.via,
                            request_key=request.key if request else None,
                        )
            if repeated is not None:
                # The process of the first request may have died before it deployed the job, or
                # Prefect may be about to reject the job.
                if repeated.row.sync_pending:
                    await _deploy(ledger, client, repeated)
                return await _changed(ledger, repeated.id, [REPEATED_NOTE])
            try:
                await _deploy(ledger, client, stored)
            except (InvalidInput, PrefectRefused, ValueError):  # pydantic's errors are ValueErrors
                async with ledger.write() as session:
                    await store.delete_job(session, stored.id)
                raise
        notes += _frequency_notes(draft, ledger.now())
        async with ledger.read() as session:
            notes += await api.advice.of_stored(session, stored)
            notes += await api.shared_folders.notes(session, {stored.row.name: stored.job})
        return await _changed(ledger, stored.id, notes)


def _new_job(
    fields: Mapping[str, Any], zone: str, now: datetime, taken: Collection[str] = ()
) -> Job:
    job = new_job(now=now, default_timezone=zone, taken=taken, **fields)
    return authorization.inherit_tool_rules(job, now)


async def edit_job(
    ref: str, changes: Mapping[str, object], *, base: datetime | None = None
) -> ChangedJob:
    """Change only the given fields of a job. Return the job.

    If the job was disabled because it had finished, and the change gives it more runs, enable the
    job. If Prefect is unreachable, the job's `sync` is `pending`, and the keeper changes Prefect
    later. `pause` and `resume` do the same. ``base`` is the `updated_at` of the job that the caller
    has read. If the job was changed since then, raise `ChangedMeanwhile`. Raise `InvalidInput`,
    `NotFound`, `Ambiguous` and `Unreachable`; after an error, nothing was changed.
    """

    def changed(stored: StoredJob, taken: Collection[str], now: datetime) -> Job:
        if base is not None and stored.row.updated_at != base:
            raise ChangedMeanwhile("job", stored.row.name)
        job = edit(stored.job, changes, now=now, taken=taken)
        job = authorization.inherit_tool_rules(job, now)
        return job if "enabled" in changes else store.enable_again(stored, job)

    action_changes, notify_changes = (
        not api.preflight.ACTION_FIELDS.isdisjoint(changes),
        not api.preflight.NOTIFY_FIELDS.isdisjoint(changes),
    )
    return await _change(
        ref, changed, check_action=action_changes, check_notify=notify_changes, limits="changed"
    )


async def pause(ref: str, note: str = "") -> ChangedJob:
    """Disable the job, with a note as the reason. Return the job.

    Without a note, a disabled job keeps its reason. Raise `InvalidInput` for a note of several
    lines or too many characters, `NotFound`, `Ambiguous` and `Unreachable`.
    """
    note = names.validate_line(note, "note")

    def why(stored: StoredJob) -> str:
        return f"{PAUSED}: {note}" if note else stored.row.disabled_reason or PAUSED

    return await _change(ref, lambda stored, _, __: _switched(stored.job, on=False), why=why)


def is_paused(disabled_reason: str) -> bool:
    """Return whether a job with this reason was disabled by `pause`."""
    return disabled_reason == PAUSED or disabled_reason.startswith(f"{PAUSED}: ")


async def resume(ref: str) -> ChangedJob:
    """Enable the job and end a snooze. Return the job.

    Raise `InvalidInput` if the job has no run left, or if it exceeds its owner's limits. Raise also
    `NotFound`, `Ambiguous` and `Unreachable`.
    """

    def on(stored: StoredJob, _: Collection[str], now: datetime) -> Job:
        schedule = stored.job.schedule
        if not stored.job.enabled and schedule.has_passed(now):
            problem = f"{utc_text(schedule.only_due)} has passed"
            raise InvalidInput("at", problem, f"set a new time with `daybook edit {ref} --at …`")
        if not stored.job.enabled and store.has_had_all_runs(stored.row, stored.job):
            problem = f"the job has used all {stored.row.run_count} of its runs"
            hint = f"raise the limit with `daybook edit {ref} --max-runs …`"
            raise InvalidInput("max_runs", problem, hint)
        stored.row.snoozed_until = None
        return _switched(stored.job, on=True)

    return await _change(ref, on, limits="as it is")


async def remove(ref: str) -> ListedJob:
    """Archive the job and delete its deployment. Return the job as it was. Its history stays.

    If Prefect is unreachable, the deployment stays until the keeper's next sync; until then, none
    of its runs starts. Raise `NotFound`, `Ambiguous` and `PrefectRefused`.
    """
    from daybook.runs import outcomes

    async with open_ledger() as ledger:
        async with ledger.read() as session:
            job_id = (await authorization.find_removable_job(session, ref)).id
        async with prefect.client.connected_if_reachable() as client:
            async with ledger.write() as session:
                stored = await authorization.find_removable_job(session, job_id)
                removed = await view(session, stored, ledger.now())
                await outcomes.archive_job(session, stored, ledger.now())
            # If the process dies after this point, the next sync deletes the deployment.
            if client is not None:
                await prefect.reconcile.delete_leftover_deployments(
                    ledger, client, prefect.report.ReconcileReport()
                )
        return removed


async def list_jobs(filters: JobFilters = NO_FILTERS, limit: int | None = None) -> list[ListedJob]:
    """Return the jobs that match ``filters`` and that the actor may see, by default sorted by name.

    With ``limit``, return only the first so many; without filters, no other job is read. Each job
    has only its next due time. A job that cannot be read is disabled, with the reason. Works
    without Prefect. Raise `InvalidInput` for invalid filters.
    """
    async with open_ledger() as ledger, ledger.read() as session:
        running, now = await history.running_jobs(session), ledger.now()
        stored = await authorization.list_jobs(session, limit if filters == NO_FILTERS else None)
        since, job_ids = now - SPENDING_PERIOD, [each.id for each in stored]
        spent = await daily.spending_by_job(session, since, job_ids)
        jobs = [
            ListedJob.of(
                each,
                now,
                running=each.id in running,
                spent=spent.get(each.id, NOTHING_SPENT),
                due_times=1,
            )
            for each in stored
        ]
        return filters.select(jobs, now)[:limit]


async def show(ref: str) -> JobDetails:
    """Return one job, even a removed one. Works without Prefect. Raise `NotFound`, `Ambiguous`."""
    async with open_ledger() as ledger, ledger.read() as session:
        stored = await authorization.find_job(session, ref, archived=True)
        recent = await history.recent(session, stored.id, 1)
        job = await view(session, stored, ledger.now())
        return JobDetails(
            **dict(job),
            last_run=Run.of(*recent[0]) if recent else None,
            next_run=job.next_due[0] if job.next_due else None,
            recipients=_recipients(stored),
        )


async def show_job_or_run(ref: str) -> JobDetails | RunWithSteps:
    """Return one job, even a removed one, or one run. Raise `NotFound`, `Ambiguous`."""
    async with reading() as session:
        match = await authorization.find_job_or_run(
            session, ref, archived=True, noun=references.JOB
        )
    return await (api.runs.show if match.noun is references.RUN else show)(match.id)


async def view(session: AsyncSession, stored: StoredJob, now: datetime) -> ListedJob:
    """Return the view of one job at ``now``."""
    running = stored.id in await history.running_jobs(session)
    spent = await daily.spending_by_job(session, now - SPENDING_PERIOD, [stored.id])
    return ListedJob.of(stored, now, running=running, spent=spent.get(stored.id, NOTHING_SPENT))


@dataclass(frozen=True)
class _Request:
    """The part of a request to add a job by which a repetition is recognized.

    Daybook stores ``key`` with the job. A later request whose key starts with ``prefix`` is a
    repetition if it comes within ``period``; if ``period`` is None, as long as the job exists.
    """

    key: str
    prefix: str
    period: timedelta | None

    @classmethod
    def of(cls, idempotency_key: str, fields: Mapping[str, Any], actor: Actor) -> Self | None:
        """Return the request. Return None if it has no `idempotency_key` and no model sent it."""
        given = {name: value for name, value in fields.items() if value is not None}
        content = _hash([actor.user_id, given])
        if idempotency_key:
            prefix = f"id:{_hash([actor.user_id, idempotency_key])}:"
            return cls(prefix + content, prefix, None)
        if owners.is_model(actor.writer):
            key = f"content:{content}"
            return cls(key, key, REPEAT_PERIOD)
        return None


async def _job_of(
    session: AsyncSession, request: _Request | None, owner: str, now: datetime
) -> StoredJob | None:
    """Return the job that the same request added before, or None.

    Raise `InvalidInput` if an earlier request had the same idempotency key, but other fields.
    """
    if request is None:
        return None
    since = None if request.period is None else now - request.period
    found = await store.find_requested(session, owner, request.prefix, since)
    if found is not None and found.row.request_key != request.key:
        problem = f'was used before, with other fields, to add the job "{found.job.name}"'
        raise InvalidInput("idempotency_key", problem, "write a new id")
    return found


def _idempotency_key(fields: Mapping[str, Any]) -> str:
    """Return the field `idempotency_key`; empty if it is not given. Raise `InvalidInput`."""
    given = fields.get("idempotency_key")
    if given is None:
        return ""
    if not isinstance(given, str) or not given.strip():
        raise InvalidInput("idempotency_key", "is blank", "write an id, such as a UUID")
    return names.validate_line(given, "idempotency_key", MAX_IDEMPOTENCY_KEY_LENGTH)


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _agent_of_owner(job: Job, fields: Mapping[str, Any], actor: Actor) -> str:
    """Return the agent that adds the job, if the job asks an agent and ``fields`` name none."""
    asks = isinstance(job.action, AgentPrompt) and fields.get("agent") is None
    return owners.agent_id(actor.owner) if asks else ""


def _recipients(stored: StoredJob) -> dict[str, list[str]]:
    return recipients(stored.job.notify, settings.load().alert_channel)


def _switched(job: Job, *, on: bool) -> Job:
    return job.model_copy(update={"enabled": on})


async def _change(
    ref: str,
    change: Change,
    *,
    why: Callable[[StoredJob], str] = lambda _: "",
    check_action: bool = False,
    check_notify: bool = False,
    limits: Literal["", "changed", "as it is"] = "",
) -> ChangedJob:
    async with open_ledger() as ledger:
        async with ledger.read() as session:
            draft = await authorization.find_job(session, ref)
            others = (await store.taken_names(session, draft.row.owner)) - {draft.row.name}
            drafted = change(draft, others, ledger.now())
            authorization.check_tool_rules(draft.job, drafted)
            authorization.check_enabling(draft, drafted)
        owner = draft.row.owner
        if limits:
            authorization.check_limits(drafted, owner, ledger.now(), changes=limits == "changed")
        async with prefect.client.connected_if_reachable() as client:
            with authorization.log_refusals(owner, drafted.name):
                notes = await api.preflight.check(
                    client, drafted, owner, action=check_action, notify=check_notify
                )
            async with ledger.write() as session:
                old = await authorization.find_job(session, draft.id)
                others = (await store.taken_names(session, old.row.owner)) - {old.row.name}
                now = ledger.now()
                previous = old.job
                previous_authors = dict(old.revision.written_by)
                previous_columns = {name: getattr(old.row, name) for name in _CHANGED_COLUMNS}
                job = change(old, others, now)
                authorization.check_tool_rules(previous, job)
                authorization.check_enabling(old, job)
                if limits:
                    authorization.check_limits(job, old.row.owner, now, changes=limits == "changed")
                writer = owners.current_actor().writer
                reason = why(old)
                new = await store.change(
                    session, old, job, now, disabled_reason=reason, writer=writer
                )
            if new.row.sync_pending:
                try:
                    await _deploy(ledger, client, new)
                except (InvalidInput, PrefectRefused):
                    async with ledger.write() as session:
                        newest = await store.find(session, new.id)
                        restored = await store.change(session, newest, previous, ledger.now())
                        restored.revision.written_by = previous_authors
                        restored.row.sqlmodel_update(previous_columns)
                        session.add_all([restored.row, restored.revision])
                    raise
        changes = changes_between(previous, job)
        if any(each.field == "schedule" for each in changes):
            notes = [*notes, *_frequency_notes(job, ledger.now())]
        async with ledger.read() as session:
            notes += await api.advice.of_stored(
                session, new, action=check_action, notify=check_notify
            )
            if check_action:
                notes += await api.shared_folders.notes(session, {new.row.name: new.job})
        return await _changed(ledger, new.id, notes, changes)


async def _deploy(ledger: Ledger, client: PrefectClient | None, stored: StoredJob) -> None:
    """Deploy the job to Prefect. If Prefect is unreachable, do nothing: the job stays pending.

    Raise `InvalidInput` if Prefect rejects the job, and `PrefectRefused`.
    """
    if client is None:
        return
    import httpx

    try:
        with prefect.client.raising_daybook_errors(str(client.api_url)):
            deployment_id = stored.row.deployment_id
            existing = (
                await prefect.deployment.read(client, deployment_id) if deployment_id else None
            )
            await prefect.reconcile.reconcile_job(
                ledger, client, stored, existing, prefect.report.ReconcileReport()
            )
    except httpx.HTTPStatusError as error:
        problem = f"Prefect rejected it: {prefect.client.describe_refusal(error)}"
        raise InvalidInput("job", problem) from error
    except PrefectRefused:
        raise
    except PrefectUnreachable:
        return  # the next cycle of the keeper's observer deploys the job


def _frequency_notes(job: Job, now: datetime) -> list[str]:
    """Return a note if the next two due times are less than a minute apart."""
    coming = list(islice(due_times(job.schedule, job.policy, after=now), 2))
    if len(coming) < 2 or coming[1] - coming[0] >= timedelta(minutes=1):
        return []
    return [FREQUENCY_NOTE.format(timedelta(days=1) // (coming[1] - coming[0]))]


async def _changed(
    ledger: Ledger, job_id: str, notes: list[str], changes: list[FieldChange] | None = None
) -> ChangedJob:
    async with ledger.read() as session:
        stored = await store.get(session, job_id)
        if stored is None:  # a concurrent request added the job, and Prefect rejected it
            raise NotFound("job", job_id)
        job = await view(session, stored, ledger.now())
    if job.sync == "pending":
        notes = [*notes, PENDING_NOTE]
    return ChangedJob(
        **dict(job), recipients=_recipients(stored), changes=changes or [], notes=notes
    )
