"""Operations on jobs: add, list, show, edit, pause, resume, remove.

They act for `owners.current_actor()`: it owns the jobs that it adds, and finds the jobs that
`daybook.api.authorization` lets it see.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from daybook import names, owners, settings
from daybook.api import authorization, preflight, views
from daybook.errors import InvalidInput, PrefectUnreachable
from daybook.jobs import store
from daybook.jobs.actions import AgentPrompt
from daybook.jobs.model import Job, edit, free_name, new_job
from daybook.jobs.store import StoredJob
from daybook.ledger.engine import Ledger, open_ledger
from daybook.owners import Actor
from daybook.runs import history, outcomes

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

Change = Callable[[StoredJob, Collection[str], datetime], Job]
"""Takes the stored job, the other jobs' names and the current time; returns the changed job."""

_PRECONDITION_FIELDS = ("gate_agent", "check", "policy")
_ACTION_FIELDS = frozenset(
    {"agent", "model", "url", "headers", "tool", "params", *_PRECONDITION_FIELDS}
)
"""Fields that `preflight.check_action` checks before they are stored."""

_NOTIFY_FIELDS = frozenset({"notify", "channel", "chat_id", "on_complete", "on_fail"})
"""Fields that `preflight.check_notify` checks before they are stored."""


async def add(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Store a job and deploy it; ``fields`` are those of `daybook.jobs.model.new_job`.

    If an agent adds a job without naming an agent, the job asks the agent named like its owner, if
    that exists, else the default one. Return the job with ``notes``, hints for a person. Raise
    `InvalidInput` or `PrefectUnreachable`; nothing is stored then.
    """
    from daybook.prefect import client as prefect

    actor, zone = owners.current_actor(), settings.load().timezone
    async with open_ledger() as ledger:
        # Invalid fields raise before the first request to Prefect.
        draft = new_job(now=ledger.now(), default_timezone=zone, **fields)
        if own_agent := _agent_of_owner(draft, fields, actor):
            draft = new_job(
                now=ledger.now(), default_timezone=zone, **{**fields, "agent": own_agent}
            )
        authorization.check_limits(draft, actor.owner, ledger.now())
        async with ledger.read() as session:
            await authorization.check_job_count(session, actor.owner, draft.name)
        async with prefect.connected() as client:
            if own_agent and await preflight.has_agent(client, own_agent):
                fields = {**fields, "agent": own_agent}
            elif own_agent:
                draft = new_job(now=ledger.now(), default_timezone=zone, **fields)
                authorization.check_limits(draft, actor.owner, ledger.now())
            with authorization.log_refusals(actor.owner, draft.name):
                notes = await preflight.check_action(client, draft, actor.owner)
                await preflight.check_notify(client, draft.notify, actor.owner)
            async with ledger.write() as session:
                await authorization.check_job_count(session, actor.owner, draft.name)
                now, taken = ledger.now(), await store.taken_names(session, actor.owner)
                job = new_job(now=now, default_timezone=zone, taken=taken, **fields)
                slug = free_name(
                    _slug(job.name, actor.owner), await store.taken_slugs(session, job.kind)
                )
                stored = await store.add(
                    session,
                    job,
                    slug,
                    now,
                    actor.owner,
                    user_id=actor.user_id,
                    created_by=actor.via,
                )
            try:
                await _deploy(ledger, client, stored)
            except InvalidInput:
                async with ledger.write() as session:
                    await store.undo_add(session, stored.id)
                raise
        return await _view(ledger, stored.id) | {"notes": notes}


async def edit_job(ref: str, changes: Mapping[str, object]) -> dict[str, Any]:
    """Change only the given fields. Return the job."""

    def changed(stored: StoredJob, taken: Collection[str], now: datetime) -> Job:
        job = edit(stored.job, changes, now=now, taken=taken)
        return job if "enabled" in changes else store.enable_again(stored, job)

    action_changes, notify_changes = (
        not _ACTION_FIELDS.isdisjoint(changes),
        not _NOTIFY_FIELDS.isdisjoint(changes),
    )
    return await _change(
        ref, changed, check_action=action_changes, check_notify=notify_changes, limits="changed"
    )


async def pause(ref: str, note: str = "") -> dict[str, Any]:
    """Switch the job off, with a note. Idempotent: without a note, an earlier reason stays.

    Raise `InvalidInput` for a note that is too long or has more than one line.
    """
    note = names.validate_line(note, "note")

    def why(stored: StoredJob) -> str:
        if note:
            return f"paused: {note}"
        return "paused" if stored.job.enabled else ""

    return await _change(ref, lambda stored, _, __: _switched(stored.job, on=False), why=why)


async def resume(ref: str) -> dict[str, Any]:
    """Switch the job on and end a snooze. Raise `InvalidInput` if it has nothing left to run."""

    def on(stored: StoredJob, _: Collection[str], now: datetime) -> Job:
        schedule = stored.job.schedule
        if not stored.job.enabled and schedule.has_passed(now):
            problem = f"{views.utc_text(schedule.only_due)} has passed"
            raise InvalidInput("at", problem, f"set a new time with `daybook edit {ref} --at …`")
        if not stored.job.enabled and store.has_had_all_runs(stored.row, stored.job):
            problem = f"the job has used all {stored.row.run_count} of its runs"
            hint = f"raise the limit with `daybook edit {ref} --max-runs …`"
            raise InvalidInput("max_runs", problem, hint)
        stored.row.snoozed_until = None
        return _switched(stored.job, on=True)

    return await _change(ref, on, limits="as it is")


async def remove(ref: str) -> dict[str, Any]:
    """Archive the job and delete its deployment; its history stays. Return the job as it was."""
    from daybook.prefect import client as prefect
    from daybook.prefect.reconcile import ReconcileReport, delete_leftover_deployments

    async with open_ledger() as ledger:
        async with ledger.read() as session:
            await authorization.find_job(session, ref)
        async with prefect.connected() as client:
            await prefect.check_connection(client)
            async with ledger.write() as session:
                stored = await authorization.find_job(session, ref)
                view = views.job(stored, ledger.now())
                await outcomes.archive_job(session, stored, ledger.now())
            # After a crash from here on, the next sync deletes the deployment.
            await delete_leftover_deployments(ledger, client, ReconcileReport())
        return view


async def list_jobs() -> list[dict[str, Any]]:
    """Return all jobs by name. Works without Prefect."""
    async with open_ledger() as ledger, ledger.read() as session:
        return [views.job(each, ledger.now()) for each in await authorization.list_jobs(session)]


async def show(ref: str) -> dict[str, Any]:
    """Return one job as `add` does, with `last_run` and `next_run` (each may be None).

    `recipients` maps each event to its recipients. Finds removed jobs too, which have `removed_at`.
    """
    async with open_ledger() as ledger, ledger.read() as session:
        stored = await authorization.find_job(session, ref, archived=True)
        recent = await history.recent(session, stored.id, 1)
        view = views.job(stored, ledger.now())
        view["last_run"] = views.run(*recent[0]) if recent else None
        view["next_run"] = view["next_due"][0] if view["next_due"] else None
        return view | {"recipients": _recipients(stored)}


def _agent_of_owner(job: Job, fields: Mapping[str, Any], actor: Actor) -> str:
    """Return the name of the agent that owns the job.

    Return an empty text if the job asks no agent, or if ``fields`` name one.
    """
    asks = isinstance(job.action, AgentPrompt) and fields.get("agent") is None
    return owners.agent_id(actor.owner) if asks else ""


def _recipients(stored: StoredJob) -> dict[str, list[str]]:
    return views.recipients(stored.job.notify, settings.load().alert_channel)


def _switched(job: Job, *, on: bool) -> Job:
    return job.model_copy(update={"enabled": on})


def _slug(name: str, owner: str) -> str:
    """Return the deployment's preferred name; an agent's job has the agent's name in front.

    So a number at its end does not reveal to an agent that another owner has a job with this name.
    """
    from slugify import slugify

    text = f"{owners.agent_id(owner)} {name}"
    return slugify(text, max_length=60, word_boundary=True) or "job"


async def _change(
    ref: str,
    change: Change,
    *,
    why: Callable[[StoredJob], str] = lambda _: "",
    check_action: bool = False,
    check_notify: bool = False,
    limits: Literal["", "changed", "as it is"] = "",
) -> dict[str, Any]:
    from daybook.prefect import client as prefect

    async with open_ledger() as ledger:
        async with ledger.read() as session:
            draft = await authorization.find_job(session, ref)
            others = (await store.taken_names(session, draft.row.owner)) - {draft.row.name}
            drafted = change(draft, others, ledger.now())
        owner = draft.row.owner
        if limits:
            authorization.check_limits(drafted, owner, ledger.now(), changes=limits == "changed")
        async with prefect.connected() as client:
            await prefect.check_connection(client)
            with authorization.log_refusals(owner, drafted.name):
                notes = await preflight.check_action(client, drafted, owner) if check_action else []
                if check_notify:
                    await preflight.check_notify(client, drafted.notify, owner)
            async with ledger.write() as session:
                old = await authorization.find_job(session, ref)
                others = (await store.taken_names(session, old.row.owner)) - {old.row.name}
                now = ledger.now()
                job = change(old, others, now)
                if limits:
                    authorization.check_limits(job, old.row.owner, now, changes=limits == "changed")
                previous = old.job
                writer = owners.current_actor().writer
                reason = why(old)
                new = await store.change(
                    session, old, job, now, disabled_reason=reason, writer=writer
                )
            if new.row.sync_pending:
                try:
                    await _deploy(ledger, client, new)
                except InvalidInput:
                    async with ledger.write() as session:
                        newest = await store.find(session, new.id)
                        restored = await store.change(session, newest, previous, ledger.now())
                        restored.revision.written_by = dict(old.revision.written_by)
                        session.add(restored.revision)
                    raise
        return await _view(ledger, new.id) | {"notes": notes}


async def _deploy(ledger: Ledger, client: PrefectClient, stored: StoredJob) -> None:
    """Deploy the job to Prefect; raise `InvalidInput` if Prefect rejects it."""
    from prefect.exceptions import PrefectHTTPStatusError

    from daybook.prefect import client as prefect
    from daybook.prefect import deployment
    from daybook.prefect.reconcile import ReconcileReport, reconcile_job

    try:
        deployment_id = stored.row.deployment_id
        existing = await deployment.read(client, deployment_id) if deployment_id else None
        await reconcile_job(ledger, client, stored, existing, ReconcileReport())
    except PrefectHTTPStatusError as error:
        if error.response.status_code in {409, 422}:
            problem = f"Prefect rejected it: {prefect.describe_refusal(error)}"
            raise InvalidInput("job", problem) from error
        raise
    except PrefectUnreachable:
        # The job is stored and marked as pending; the result says so, and the next sync deploys it.
        return


async def _view(ledger: Ledger, job_id: str) -> dict[str, Any]:
    async with ledger.read() as session:
        stored = await store.get(session, job_id)
    assert stored is not None
    return views.job(stored, ledger.now()) | {"recipients": _recipients(stored)}
