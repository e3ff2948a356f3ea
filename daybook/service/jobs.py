"""What can be asked of jobs: add, list, show, edit, pause, resume, remove."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from daybook import settings
from daybook.errors import AgentMisconfigured, PrefectUnreachable, Refused, UnknownName
from daybook.ledger import history, jobs
from daybook.ledger.engine import Ledger
from daybook.ledger.jobs import StoredJob
from daybook.service import home, views
from daybook.spec.actions import Action, AgentPrompt, ToolCall, Webhook
from daybook.spec.job import Job, edit, free_name, new_job
from daybook.spec.schedule import At

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

Change = Callable[[StoredJob, Collection[str], datetime], Job]
"""From the stored job, the other jobs' names and now to what the job is to be."""

_ASKED = frozenset({"agent", "model", "url", "headers", "tool", "params"})
"""Fields about which somebody else is asked before they are stored."""


async def add(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Store a job and deploy it; ``fields`` are those of `daybook.spec.job.new_job`.

    Returns it with ``notes``, what a person should know of it. Raises `Refused` (nothing is stored)
    and `PrefectUnreachable` (nothing is stored).
    """
    from daybook.sync import client as prefect

    zone = settings.load().timezone
    async with home.ledger() as ledger:
        # Refused for its fields before Prefect is asked anything.
        draft = new_job(now=ledger.now(), default_timezone=zone, **fields)
        async with prefect.connected() as client:
            notes = await _can_be_asked(client, draft.action)
            async with ledger.write() as session:
                now, taken = ledger.now(), await jobs.names(session)
                job = new_job(now=now, default_timezone=zone, taken=taken, **fields)
                slug = free_name(_slug(job.name), await jobs.slugs(session, job.kind))
                stored = await jobs.add(session, job, slug, now)
            try:
                await _deploy(ledger, client, stored)
            except Refused:
                async with ledger.write() as session:
                    await jobs.forget(session, stored.id)
                raise
        return await _view(ledger, stored.id) | {"notes": notes}


async def edit_job(ref: str, changes: Mapping[str, object]) -> dict[str, Any]:
    """Change only the fields given (requirement 14)."""

    def changed(stored: StoredJob, taken: Collection[str], now: datetime) -> Job:
        job = edit(stored.job, changes, now=now, taken=taken)
        return job if "enabled" in changes else jobs.with_new_time(stored, job)

    return await _change(ref, changed, asks=not _ASKED.isdisjoint(changes))


async def pause(ref: str, note: str = "") -> dict[str, Any]:
    """Switch the job off, with a note; idempotent: without one, why it is off already stays."""

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
            raise Refused("at", past, f"`daybook edit {ref} --at …` gives a new time")
        if not stored.job.enabled and jobs.all_done(stored.row, stored.job):
            had = f"it has had its {stored.row.run_count}"
            raise Refused("max_runs", had, f"`daybook edit {ref} --max-runs …` gives it more")
        stored.row.snoozed_until = None
        return _switched(stored.job, on=True)

    return await _change(ref, on)


async def remove(ref: str) -> dict[str, Any]:
    """Archive the job and delete its deployment; its history stays. Returns it as it was."""
    from daybook.sync import client as prefect
    from daybook.sync.reconcile import Report, remove_left_over

    async with home.ledger() as ledger:
        async with ledger.read() as session:
            await jobs.find(session, ref)
        async with prefect.connected() as client:
            await prefect.answers(client)
            async with ledger.write() as session:
                stored = await jobs.find(session, ref)
                view = views.job(stored, ledger.now())
                await jobs.archive(session, stored, ledger.now())
            # A crash from here on leaves the deployment to the next sync.
            await remove_left_over(ledger, client, Report())
        return view


async def list_jobs() -> list[dict[str, Any]]:
    """All jobs, by name. Needs no Prefect."""
    async with home.ledger() as ledger, ledger.read() as session:
        return [views.job(each, ledger.now()) for each in await jobs.every(session)]


async def show(ref: str) -> dict[str, Any]:
    """One job as `add` gives it, with `last_run` (or None) and `next_run` (or None).

    A removed one can still be read; it has `removed_at`.
    """
    async with home.ledger() as ledger, ledger.read() as session:
        stored = await jobs.find(session, ref, archived=True)
        recent = await history.recent(session, stored.id, 1)
        view = views.job(stored, ledger.now())
        view["last_run"] = views.run(*recent[0]) if recent else None
        view["next_run"] = view["next_due"][0] if view["next_due"] else None
        return view


def _switched(job: Job, *, on: bool) -> Job:
    return job.model_copy(update={"enabled": on})


def _slug(name: str) -> str:
    from slugify import slugify

    return slugify(name, max_length=60, word_boundary=True) or "job"


async def _change(
    ref: str,
    change: Change,
    *,
    why: Callable[[StoredJob], str] = lambda _: "",
    asks: bool = False,
) -> dict[str, Any]:
    from daybook.sync import client as prefect

    async with home.ledger() as ledger:
        async with ledger.read() as session:
            draft = await jobs.find(session, ref)
            others = (await jobs.names(session)) - {draft.row.name}
            drafted = change(draft, others, ledger.now())
        async with prefect.connected() as client:
            await prefect.answers(client)
            notes = await _can_be_asked(client, drafted.action) if asks else []
            async with ledger.write() as session:
                old = await jobs.find(session, ref)
                others = (await jobs.names(session)) - {old.row.name}
                now = ledger.now()
                job = change(old, others, now)
                before = old.job
                new = await jobs.change(session, old, job, now, disabled_reason=why(old))
            if new.row.sync_pending:
                try:
                    await _deploy(ledger, client, new)
                except Refused:
                    async with ledger.write() as session:
                        newest = await jobs.find(session, new.id)
                        await jobs.change(session, newest, before, ledger.now())
                    raise
        return await _view(ledger, new.id) | {"notes": notes}


async def _deploy(ledger: Ledger, client: PrefectClient, stored: StoredJob) -> None:
    """Bring the job to Prefect; raises `Refused` when Prefect does not take it."""
    from prefect.exceptions import PrefectHTTPStatusError

    from daybook.sync import client as prefect
    from daybook.sync import deployments
    from daybook.sync.reconcile import Report, bring

    try:
        known = stored.row.deployment_id
        found = await deployments.read(client, known) if known else None
        await bring(ledger, client, stored, found, Report())
    except PrefectHTTPStatusError as error:
        if error.response.status_code in {409, 422}:
            raise Refused("job", f"Prefect does not take it: {prefect.refusal(error)}") from error
        raise
    except PrefectUnreachable:
        # It is stored, and marked as pending: the answer says so, the next sync brings it.
        return


async def _can_be_asked(client: PrefectClient, action: Action) -> list[str]:
    """Refuse an address, an agent, a tool that cannot be asked so; what a person should know."""
    match action:
        case Webhook():
            from daybook.outgoing import webhook
            from daybook.outgoing.guard import Guard, Rule

            webhook.check(action, Guard.here(Rule.OPERATOR))
            return await _missing_secrets(client, action.headers)
        case ToolCall():
            notes = await _tool_can_be_called(client, action)
            return notes + await _missing_secrets(client, action.params)
        case AgentPrompt():
            await _agent_can_be_asked(client, action)
            return []


async def _tool_can_be_called(client: PrefectClient, action: ToolCall) -> list[str]:
    from daybook.outgoing import secrets
    from daybook.outgoing.guard import Guard, Rule
    from daybook.tools import catalog
    from daybook.tools.base import ToolUnreachable
    from daybook.tools.server_blocks import PrefectServers

    secrets.refuse_literal_params(action.params)
    try:
        found = await catalog.find(action.tool, PrefectServers(client), Guard.here(Rule.OPERATOR))
    except ToolUnreachable as error:
        return [f"{error}; so tool and parameters are checked when it is called"]
    catalog.check_params(found, action.params)
    return []


async def _missing_secrets(client: PrefectClient, named_in: Any) -> list[str]:
    """What to do about secrets that a job names and that nobody has kept yet."""
    from daybook.outgoing import secret_blocks, secrets

    named = secrets.referred(named_in)
    if not named:
        return []
    known = {each["name"] for each in await secret_blocks.every(client)}
    return [
        f"the secret {name} does not exist yet, and without it the job fails; "
        f"`daybook secrets add {name}` keeps it"
        for name in sorted(named - known)
    ]


async def _agent_can_be_asked(client: PrefectClient, action: AgentPrompt) -> None:
    from daybook.agents import documents, kinds

    name, known = action.agent, await documents.names(client)
    if name not in known and name not in {f"{slug}/{each}" for each, slug in known.items()}:
        raise UnknownName("agent", name, known)
    if not action.model:
        return
    try:
        kinds.check_model(await documents.get(client, name), action.model)
    except AgentMisconfigured as error:
        raise Refused("model", str(error)) from None


async def _view(ledger: Ledger, job_id: str) -> dict[str, Any]:
    async with ledger.read() as session:
        stored = await jobs.get(session, job_id)
    assert stored is not None
    return views.job(stored, ledger.now())
