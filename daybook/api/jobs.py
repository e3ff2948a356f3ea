"""What can be asked of jobs: add, list, show, edit, pause, resume, remove.

For whom says `owners.current()`: it owns what it adds, and finds what `daybook.api.authorization` lets
it see.
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
from daybook.schedules.schedule import At

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

Change = Callable[[StoredJob, Collection[str], datetime], Job]
"""From the stored job, the other jobs' names and now to what the job is to be."""

_GATES = ("gate_agent", "check", "policy")
_ASKED = frozenset({"agent", "model", "url", "headers", "tool", "params", *_GATES})
"""Fields about which somebody else is asked before they are stored."""

_TOLD = frozenset({"notify", "channel", "chat_id", "on_complete", "on_fail"})
"""The same of who is told."""


async def add(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Store a job and deploy it; ``fields`` are those of `daybook.jobs.model.new_job`.

    A job of an agent that names no agent asks the one of its owner's name, if there is one, else
    the default one. Returns it with ``notes``, what a person should know of it. Raises
    `InvalidInput` (nothing is stored) and `PrefectUnreachable` (nothing is stored).
    """
    from daybook.prefect import client as prefect

    actor, zone = owners.current(), settings.load().timezone
    async with open_ledger() as ledger:
        # Refused for its fields before Prefect is asked anything.
        draft = new_job(now=ledger.now(), default_timezone=zone, **fields)
        if own := _agent_of_owner(draft, fields, actor):
            draft = new_job(now=ledger.now(), default_timezone=zone, **{**fields, "agent": own})
        authorization.check(draft, actor.owner, ledger.now())
        async with ledger.read() as session:
            await authorization.check_count(session, actor.owner, draft.name)
        async with prefect.connected() as client:
            if own and await preflight.has_agent(client, own):
                fields = {**fields, "agent": own}
            elif own:
                draft = new_job(now=ledger.now(), default_timezone=zone, **fields)
                authorization.check(draft, actor.owner, ledger.now())
            with authorization.telling(actor.owner, draft.name):
                notes = await preflight.asked(client, draft, actor.owner)
                await preflight.told(client, draft.notify, actor.owner)
            async with ledger.write() as session:
                await authorization.check_count(session, actor.owner, draft.name)
                now, taken = ledger.now(), await store.names(session, actor.owner)
                job = new_job(now=now, default_timezone=zone, taken=taken, **fields)
                slug = free_name(_slug(job.name, actor.owner), await store.slugs(session, job.kind))
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
                    await store.forget(session, stored.id)
                raise
        return await _view(ledger, stored.id) | {"notes": notes}


async def edit_job(ref: str, changes: Mapping[str, object]) -> dict[str, Any]:
    """Change only the fields given (requirement 14)."""

    def changed(stored: StoredJob, taken: Collection[str], now: datetime) -> Job:
        job = edit(stored.job, changes, now=now, taken=taken)
        return job if "enabled" in changes else store.with_new_time(stored, job)

    asks, tells = not _ASKED.isdisjoint(changes), not _TOLD.isdisjoint(changes)
    return await _change(ref, changed, asks=asks, tells=tells, judged="changed")


async def pause(ref: str, note: str = "") -> dict[str, Any]:
    """Switch the job off, with a note; idempotent: without one, why it is off already stays.

    Raises `InvalidInput` for a note that is long, or more than a line.
    """
    note = names.checked_line(note, "note")

    def why(stored: StoredJob) -> str:
        if note:
            return f"paused: {note}"
        return "paused" if stored.job.enabled else ""

    return await _change(ref, lambda stored, _, __: _switched(stored.job, on=False), why=why)


async def resume(ref: str) -> dict[str, Any]:
    """Switch the job on, also when it is snoozed. One with nothing to come is refused."""

    def on(stored: StoredJob, _: Collection[str], now: datetime) -> Job:
        schedule = stored.job.schedule
        if not stored.job.enabled and isinstance(schedule, At) and schedule.at <= now:
            past = f"{views.utc(schedule.at)} has passed"
            raise InvalidInput("at", past, f"`daybook edit {ref} --at …` gives a new time")
        if not stored.job.enabled and store.all_done(stored.row, stored.job):
            had = f"it has had its {stored.row.run_count}"
            raise InvalidInput("max_runs", had, f"`daybook edit {ref} --max-runs …` gives it more")
        stored.row.snoozed_until = None
        return _switched(stored.job, on=True)

    return await _change(ref, on, judged="as it is")


async def remove(ref: str) -> dict[str, Any]:
    """Archive the job and delete its deployment; its history stays. Returns it as it was."""
    from daybook.prefect import client as prefect
    from daybook.prefect.reconcile import Report, remove_left_over

    async with open_ledger() as ledger:
        async with ledger.read() as session:
            await authorization.job(session, ref)
        async with prefect.connected() as client:
            await prefect.answers(client)
            async with ledger.write() as session:
                stored = await authorization.job(session, ref)
                view = views.job(stored, ledger.now())
                await outcomes.archive(session, stored, ledger.now())
            # A crash from here on leaves the deployment to the next sync.
            await remove_left_over(ledger, client, Report())
        return view


async def list_jobs() -> list[dict[str, Any]]:
    """All jobs, by name. Needs no Prefect."""
    async with open_ledger() as ledger, ledger.read() as session:
        return [views.job(each, ledger.now()) for each in await authorization.every(session)]


async def show(ref: str) -> dict[str, Any]:
    """One job as `add` gives it, with `last_run` (or None) and `next_run` (or None).

    `told` says who is told of which event. A removed one can still be read; it has `removed_at`.
    """
    async with open_ledger() as ledger, ledger.read() as session:
        stored = await authorization.job(session, ref, archived=True)
        recent = await history.recent(session, stored.id, 1)
        view = views.job(stored, ledger.now())
        view["last_run"] = views.run(*recent[0]) if recent else None
        view["next_run"] = view["next_due"][0] if view["next_due"] else None
        return view | {"told": _told(stored)}


def _agent_of_owner(job: Job, fields: Mapping[str, Any], actor: Actor) -> str:
    """The name of the agent that owns the job, if the job asks an agent and ``fields`` name none;
    else empty.
    """
    asks = isinstance(job.action, AgentPrompt) and fields.get("agent") is None
    return owners.agent_id(actor.owner) if asks else ""


def _told(stored: StoredJob) -> dict[str, list[str]]:
    return views.told(stored.job.notify, settings.load().alert_channel)


def _switched(job: Job, *, on: bool) -> Job:
    return job.model_copy(update={"enabled": on})


def _slug(name: str, owner: str) -> str:
    """Return the wanted name of the deployment, for an agent's job with the agent's name before.

    So a number at its end does not tell the agent that somebody else has a job of that name.
    """
    from slugify import slugify

    told = f"{owners.agent_id(owner)} {name}"
    return slugify(told, max_length=60, word_boundary=True) or "job"


async def _change(
    ref: str,
    change: Change,
    *,
    why: Callable[[StoredJob], str] = lambda _: "",
    asks: bool = False,
    tells: bool = False,
    judged: Literal["", "changed", "as it is"] = "",
) -> dict[str, Any]:
    from daybook.prefect import client as prefect

    async with open_ledger() as ledger:
        async with ledger.read() as session:
            draft = await authorization.job(session, ref)
            others = (await store.names(session, draft.row.owner)) - {draft.row.name}
            drafted = change(draft, others, ledger.now())
        owner = draft.row.owner
        if judged:
            authorization.check(drafted, owner, ledger.now(), changes=judged == "changed")
        async with prefect.connected() as client:
            await prefect.answers(client)
            with authorization.telling(owner, drafted.name):
                notes = await preflight.asked(client, drafted, owner) if asks else []
                if tells:
                    await preflight.told(client, drafted.notify, owner)
            async with ledger.write() as session:
                old = await authorization.job(session, ref)
                others = (await store.names(session, old.row.owner)) - {old.row.name}
                now = ledger.now()
                job = change(old, others, now)
                if judged:
                    authorization.check(job, old.row.owner, now, changes=judged == "changed")
                before = old.job
                who = owners.current().writer
                off = why(old)
                new = await store.change(session, old, job, now, disabled_reason=off, writer=who)
            if new.row.sync_pending:
                try:
                    await _deploy(ledger, client, new)
                except InvalidInput:
                    async with ledger.write() as session:
                        newest = await store.find(session, new.id)
                        back = await store.change(session, newest, before, ledger.now())
                        back.revision.written_by = dict(old.revision.written_by)
                        session.add(back.revision)
                    raise
        return await _view(ledger, new.id) | {"notes": notes}


async def _deploy(ledger: Ledger, client: PrefectClient, stored: StoredJob) -> None:
    """Bring the job to Prefect; raises `InvalidInput` when Prefect does not take it."""
    from prefect.exceptions import PrefectHTTPStatusError

    from daybook.prefect import client as prefect
    from daybook.prefect import deployment
    from daybook.prefect.reconcile import Report, bring

    try:
        known = stored.row.deployment_id
        found = await deployment.read(client, known) if known else None
        await bring(ledger, client, stored, found, Report())
    except PrefectHTTPStatusError as error:
        if error.response.status_code in {409, 422}:
            raise InvalidInput(
                "job", f"Prefect does not take it: {prefect.refusal(error)}"
            ) from error
        raise
    except PrefectUnreachable:
        # It is stored, and marked as pending: the answer says so, the next sync brings it.
        return


async def _view(ledger: Ledger, job_id: str) -> dict[str, Any]:
    async with ledger.read() as session:
        stored = await store.get(session, job_id)
    assert stored is not None
    return views.job(stored, ledger.now()) | {"told": _told(stored)}
