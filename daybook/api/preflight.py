"""Checks that need an external system, run before a job is stored.

They check the addresses, work directory, agents, tools, secrets and channels of the job. If Prefect
is unreachable, there is no client. Then only the run checks the names of agents, tools, secrets,
and channels that are not built-in.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from daybook import markers, owners, prefect
from daybook.agents import documents, kinds
from daybook.delivery import channels
from daybook.delivery.outbox import BUILTIN_CHANNELS
from daybook.errors import AgentMisconfigured, Ambiguous, InvalidInput, UnknownName
from daybook.execution import agent_tools, workspaces
from daybook.http import secrets
from daybook.http.guard import Guard, Rule
from daybook.jobs import limits, payloads
from daybook.jobs.actions import Action
from daybook.jobs.model import FIELDS, Job
from daybook.jobs.notify import Notify
from daybook.json_text import JsonObject
from daybook.ledger.engine import Ledger, open_ledger
from daybook.policies.checks import Check
from daybook.policies.policy import ANSWER, Policy, tools_of
from daybook.policies.sandboxes import SandboxChoice
from daybook.policies.work_pools import OWN_POOL
from daybook.processes import locations
from daybook.resources import copies
from daybook.resources import secrets as secret_blocks
from daybook.tools import catalog, worker_tools
from daybook.tools.base import PYTHON, ToolUnreachable
from daybook.tools.server_blocks import PrefectServers

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient


NOTIFY_FIELDS = frozenset({"notify", *markers.marked(Notify.model_fields, "is_checked")})
"""Fields of a job that `check_notify` checks before the job is stored."""

ACTION_FIELDS = frozenset(markers.marked(FIELDS, "is_checked")) - NOTIFY_FIELDS
"""Fields of a job that `check_action` checks before the job is stored."""

DEFAULT_AGENT_NOTE = (
    'whether the agent "{}" exists is not known without Prefect, so the job asks the default agent'
)


async def check(
    client: PrefectClient | None, job: Job, owner: str, *, action: bool = True, notify: bool = True
) -> list[str]:
    """Check a job before it is stored. Return notes for the user.

    With ``action``, check the job's action and precondition; with ``notify``, its notifications.
    Raise the errors of `check_action` and `check_notify`.
    """
    notes = await check_action(client, job, owner) if action else []
    if notify:
        await check_notify(client, job.notify, owner)
    unchecked = [] if client else _unchecked_names(job, action=action, notify=notify)
    if not unchecked:
        return notes
    named = " and ".join(filter(None, [", ".join(unchecked[:-1]), unchecked[-1]]))
    note = f"Prefect is unreachable, so {named} of the job are checked only when it runs"
    return [note, *notes]


def _unchecked_names(job: Job, *, action: bool, notify: bool) -> list[str]:
    """Return the names in a job that only Prefect can check, in words such as `the agents`."""

    given = {
        "agents": action and bool(job.action.agents() or job.policy.check.agent),
        "tools": action and bool(job.tools()),
        "work pools": action and job.policy.pool not in ("", OWN_POOL),
        "secrets": action and bool(secrets.referenced_names(job.values_with_secrets())),
        "channels": notify and job.notify.channel not in {"", *BUILTIN_CHANNELS},
    }
    return [f"the {name}" for name, is_named in given.items() if is_named]


async def check_action(client: PrefectClient | None, job: Job, owner: str) -> list[str]:
    """Check the action and the precondition of a job. Return hints for the user.

    Raise `InvalidInput` for an address, agent, tool or folder that the job could not use. A hint
    is, for example, the name of a secret that does not exist yet.
    """
    notes = locations.check_job_folder(job.policy.work_dir)
    notes += workspaces.check(job.policy)
    notes += _sandbox_notes(job.policy.sandbox)
    _check_by_kind(job, _guard(owner))
    await _check_pool(client, job.policy)
    notes += await _check_target(client, job.action, owner)
    await _check_model(client, job.action)
    if job.action.own_call() is None:
        # The job inherits entries for calls that it does not make itself, such as `webhook`.
        inherited = owners.current_actor().approve
        given = [each for each in tools_of(job.policy.approve) if each not in inherited]
        await _check_tools(client, "approve", given, [ANSWER])
        await _check_tools(client, "only_tools", job.policy.only_tools)
    return notes + await _check_precondition(client, job.policy.check, owner)


async def _check_pool(client: PrefectClient | None, policy: Policy) -> None:
    """Raise `InvalidInput` if Prefect has no such work pool, or the pool no such job variables.

    Raise it also for a literal secret in the variables.
    """
    name, variables = policy.pool, policy.job_variables
    secrets.refuse_literal_variables(variables)
    if client is None or name in ("", OWN_POOL):
        return
    from prefect.exceptions import ObjectNotFound

    try:
        found = await client.read_work_pool(name)
    except ObjectNotFound:
        hint = f"create it, such as: prefect work-pool create {shlex.quote(name)} --type docker"
        raise InvalidInput("pool", f'Prefect has no work pool "{name}"', hint) from None
    prefect.job_variables.check(variables, found.base_job_template)


def _sandbox_notes(level: SandboxChoice) -> list[str]:
    """Return a note if this machine cannot build the sandbox that a job chooses."""
    if level in ("", "off"):
        return []
    from daybook.processes.sandboxes.sandbox import why_unavailable  # slow to import

    why = why_unavailable()
    problem = "this machine cannot build the sandbox, so every run on a machine like it will fail"
    return [f"{problem}: {why}"] if why else []


def _check_by_kind(job: Job, guard: Guard) -> None:
    """If the kind's module in `daybook.execution` has a function `check_action`, call it."""
    name = f"daybook.execution.{job.kind.replace('-', '_')}"
    if find_spec(name) is not None:
        check = getattr(import_module(name), "check_action", None)
        if check is not None:
            check(job.action, guard)


async def _check_target(
    client: PrefectClient | None, uses: Action | Check, owner: str
) -> list[str]:
    """Check the URLs, tools, agents and secrets that an action or a check uses. Return hints."""
    notes, guard = [], _guard(owner)
    for _, url in uses.urls():
        guard.check(url)
    for _, tool in uses.tools():
        notes += await _check_tool(client, tool, uses.arguments(), owner)
    for field, name in uses.agents():
        await _require_agent(client, name, field)
    return notes + await _missing_secrets(client, uses.values_with_secrets())


async def _check_precondition(client: PrefectClient | None, check: Check, owner: str) -> list[str]:
    """Check the precondition (`policy.check`) like an action. Return hints.

    Raise `InvalidInput`, which names the field `check`.
    """
    try:
        return await _check_target(client, check, owner)
    except InvalidInput as error:
        raise InvalidInput("check", f"{error.field}: {error.problem}", error.hint) from None


async def check_notify(client: PrefectClient | None, notify: Notify, owner: str) -> None:
    """Raise `InvalidInput` for a channel or address that a job of ``owner`` could not use.

    Raise also the other errors of `channels.check`.
    """

    guard = _guard(owner)
    for field, url in notify.callbacks.items():
        if url:
            try:
                guard.check(url)
            except InvalidInput as error:
                raise InvalidInput(field, error.problem, error.hint) from None
    if not notify.channel:
        return
    judged = _judged_owner(owner)
    if client is None and notify.channel not in BUILTIN_CHANNELS:
        limits.check_channel(notify.channel, notify.chat_id, limits.load_limits(judged))
    else:
        await channels.check(
            client,
            notify.channel,
            notify.chat_id,
            owner=judged,
            attaches_files=notify.attach_files,
        )


async def _check_tool(
    client: PrefectClient | None, name: str, params: JsonObject, owner: str
) -> list[str]:

    secrets.refuse_literal_params(params)
    if client is None:
        return []
    try:
        tool = await catalog.find(name, PrefectServers(client), _guard(owner))
    except ToolUnreachable as error:
        return [f"{error}; so the tool and its parameters are checked only when it is called"]
    if not payloads.is_used(params):  # the values are final, because they do not use the payload
        catalog.check_params(tool, params)
    return await _missing_at_worker(name) if tool.source == PYTHON else []


async def _missing_at_worker(tool: str) -> list[str]:
    """Return a note if a running worker does not have this Python tool."""

    async with open_ledger() as ledger, ledger.read() as session:
        workers = await worker_tools.workers_without(session, tool, ledger.now())
    if not workers:
        return []
    which = f"the worker {workers[0]} does" if len(workers) == 1 else f"{', '.join(workers)} do"
    return [
        f"{which} not have the tool {tool}, so the job would fail there; install its package where "
        "the worker runs, or name its module in the setting `plugins` there, then restart "
        "`daybook up` or the worker"
    ]


async def _missing_secrets(client: PrefectClient | None, named_in: Any) -> list[str]:
    """Return hints for secrets that a job names and that do not exist yet."""

    named = secrets.referenced_names(named_in)
    if not named or client is None:
        return []
    known = {each.name for each in await secret_blocks.list_secrets(client)}
    return [
        f"the secret {name} does not exist yet, so the job would fail; "
        f"add it with `daybook secrets add {name}`"
        for name in sorted(named - known)
    ]


async def has_agent(client: PrefectClient | None, ledger: Ledger, name: str) -> bool:
    """Return whether an agent has this name.

    Without Prefect, return whether the ledger has its copy.
    """

    if client is not None:
        return name in await documents.names(client)
    async with ledger.read() as session:
        refs = [(kind.slug, name) for kind in kinds.KINDS.values()]
        return any([await copies.get(session, ref) for ref in refs])


async def _require_agent(client: PrefectClient | None, name: str, field: str) -> None:

    if client is None:
        return
    known = await documents.names(client)
    matches = documents.matches(known, name)
    if not matches:
        raise UnknownName(field, name, known)
    if len(matches) > 1:
        raise Ambiguous(field, name, matches)


async def _check_model(client: PrefectClient | None, action: Action) -> None:
    """Raise `InvalidInput` if the action's agent cannot use the action's model."""

    model = getattr(action, "model", "")
    if not model or client is None:
        return
    try:
        (await documents.get(client, action.agents()[0][1])).check_model(model)
    except AgentMisconfigured as error:
        raise InvalidInput("model", str(error)) from None


async def _check_tools(
    client: PrefectClient | None, field: str, entries: Sequence[str], others: Sequence[str] = ()
) -> None:
    """Raise `InvalidInput` for an entry whose server or Python tool does not exist."""
    if client is None or not entries:
        return

    named = [each for each in entries if not set(each.partition(".")[0]) & set("*?[")]
    try:
        await agent_tools.check(named, PrefectServers(client))
    except UnknownName as error:
        raise UnknownName(field, error.name, [*error.known, *others]) from None
    except InvalidInput as error:
        raise InvalidInput(field, error.problem, error.hint) from None


def _judged_owner(owner: str) -> str:
    """Return the owner whose rules apply: the actor if it is an agent, otherwise ``owner``."""
    actor = owners.current_actor()
    return actor.owner if actor.is_agent else owner


def _guard(owner: str) -> Guard:
    """Return the address guard of the owner whose rules apply.

    It is strict for an agent, and if a model writes the job. The owner's limits restrict the hosts.
    """

    whose = _judged_owner(owner)
    return Guard.from_settings(
        Rule.for_owner(whose, owners.current_actor().via), limits.load_limits(whose)
    )
