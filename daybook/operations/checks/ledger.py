"""The ledger and its jobs."""

from __future__ import annotations

import os
import shlex
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from daybook.api import overdue
from daybook.errors import (
    AgentMisconfigured,
    InvalidInput,
    LedgerKeyMissing,
    LedgerNewer,
    LedgerReplaced,
    LedgerUnreachable,
)
from daybook.home import here
from daybook.jobs import store
from daybook.jobs.actions import ToolCall
from daybook.jobs.store import StoredJob
from daybook.ledger.engine import open_ledger
from daybook.operations.checks import home, installation
from daybook.operations.checks.problem import Problem
from daybook.prefect import instances
from daybook.resources import copies as block_copies

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

PATIENCE = timedelta(seconds=5)
"""How long a write may wait for others before that is a problem."""
_FIND_KEY = (
    "copy the file ledger-key, with mode 0600, into this home from the home that wrote the copies "
    "or from its backup; if it is lost for good: daybook ledger rekey"
)


async def ledger() -> list[Problem]:
    """It can be opened by this program, and written. One that is not there yet is no problem."""
    if not _is_there():
        return []
    try:
        await stored()
        async with open_ledger() as opened:
            if why := await opened.why_unwritable(within=PATIENCE):
                return [Problem(f"the ledger cannot be written: {why}", overdue.to_write(why))]
    except LedgerNewer as error:
        return [Problem(str(error), f"with the Daybook that wrote it: {installation.again()}")]
    except LedgerReplaced as error:
        return [Problem(f"the ledger at {error.place} {error.what}", error.fix)]
    except LedgerUnreachable as error:
        files = home.ledger_files()
        if not files:
            place = shlex.quote(error.place.replace("+asyncpg", ""))
            return [Problem(str(error), f"pg_isready -d {place}")]
        name = shlex.quote(str(files[0]))
        if files[0].is_file() and not os.access(files[0], os.R_OK | os.W_OK):
            return [Problem(str(error), f"sudo chown $(id -u) {name} && chmod 600 {name}")]
        aside = f"mv {name} {name}.broken, and put a copy of the ledger in its place"
        return [Problem(str(error), aside)]
    return []


async def stored() -> list[StoredJob]:
    """All jobs; [] where there is no ledger yet, which is not made by looking."""
    return (await whose())[1]


async def whose() -> tuple[str, list[StoredJob]]:
    """The ledger's id and its jobs; an empty id where there is no ledger yet."""
    if not _is_there():
        return "", []
    async with open_ledger() as opened, opened.read() as session:
        return opened.id, await store.every(session)


def _is_there() -> bool:
    """A database of somebody's is there, or cannot be reached; a file of ours may not be yet.

    If `up` runs, it has made one: a file that is missing then is a problem.
    """
    files = home.ledger_files()
    if not files:
        return bool(home.ledger_address())
    return files[0].exists() or bool((here().running() or {}).get("ledger"))


async def sync() -> list[Problem]:
    """Every job is in Prefect as it is in the ledger."""
    every, found = await stored(), []
    waiting = [each.row.name for each in every if each.row.sync_pending]
    if waiting:
        found.append(Problem(f"not in Prefect yet: {', '.join(waiting)}", "daybook sync"))
    both = [each.row.name for each in every if each.row.conflict]
    if both:
        mend = "daybook conflicts, then daybook sync --prefer ledger (or prefect)"
        found.append(Problem(f"changed here and in Prefect: {', '.join(both)}", mend))
    return found


async def ledger_key() -> list[Problem]:
    """This home has the key of the ledger's copies of agents and secrets."""
    if not _is_there():
        return []
    async with open_ledger() as opened, opened.read() as session:
        count = len(await block_copies.every(session))
        try:
            await block_copies.key(session, here())
        except LedgerKeyMissing as error:
            what = f"{error}; none of its {count} copies can be restored here"
            return [Problem(what, _FIND_KEY)]
    return []


async def copies(client: PrefectClient) -> list[Problem]:
    """Prefect has every agent, secret, tool server, channel and destination of the ledger."""
    from daybook.keeper import blocks
    from daybook.resources import mirror

    if not _is_there():
        return []
    async with open_ledger() as opened:
        lost = await mirror.lost(opened, client, blocks.TYPES)
        if not lost:
            return []
        what = f"Prefect has lost, and the ledger has a copy of: {', '.join(lost)}"
        async with opened.read() as session:
            try:
                await block_copies.key(session, here())
            except LedgerKeyMissing:
                return [Problem(f"{what}; the key of the copies is missing", _FIND_KEY)]
    return [Problem(what, "daybook up, whose keeper restores them within seconds")]


async def one_prefect() -> list[Problem]:
    """All workers and keepers of this ledger are connected to the same Prefect server."""
    if not _is_there():
        return []
    async with open_ledger() as opened, opened.read() as session:
        told = instances.conflict(await instances.in_use(session, opened.now()))
    return [Problem(told, instances.SEPARATE)] if told else []


async def agents(client: PrefectClient) -> list[Problem]:
    """Every agent that a job names exists."""
    from daybook.agents import documents

    try:
        names = await documents.names(client)
    except AgentMisconfigured as error:
        return [Problem(str(error), "daybook up")]
    known = {*names, *(f"{kind}/{name}" for name, kind in names.items())}
    found = []
    for each in await stored():
        for agent in each.job.agents():
            if agent not in known:
                what = f"{each.row.name} asks the agent {agent}, which does not exist"
                edit = f"daybook edit {shlex.quote(each.row.name)} --agent <name>"
                found.append(Problem(what, f"daybook agents add {agent} …, or {edit}"))
    return found


async def tools(client: PrefectClient) -> list[Problem]:
    """Every tool that a job names is installed here, or its server is saved; none is asked."""
    from daybook.http.guard import Guard, Rule
    from daybook.tools import catalog
    from daybook.tools.server_blocks import PrefectServers

    servers, guard = PrefectServers(client), Guard.here(Rule.OPERATOR)
    found = []
    for each in await stored():
        action = each.job.action
        called = {"--check-tool": each.job.policy.check.tool}
        if isinstance(action, ToolCall):
            called["--tool"] = action.tool
        for option, tool in called.items():
            if not tool:
                continue
            try:
                await catalog.place(tool, servers, guard)
            except InvalidInput as error:
                what = f"{each.row.name} calls the tool {tool}: {error.problem}"
                edit = f"daybook edit {shlex.quote(each.row.name)} {option} <name>"
                found.append(Problem(what, f"install it or save its server, or {edit}"))
    return found


async def secrets(client: PrefectClient) -> list[Problem]:
    """Every secret that a job or a saved server names exists, and its block is sound."""
    from daybook.http import secrets as references
    from daybook.resources import secrets as secret_blocks
    from daybook.tools.server_blocks import PrefectServers

    known = {each["name"]: each["problem"] for each in await secret_blocks.every(client)}
    users: list[tuple[str, Any]] = []
    for each in await stored():
        does = each.job.action.model_dump(mode="json")
        users.append((each.row.name, [does.get("headers"), does.get("params")]))
    for server in await PrefectServers(client).every():
        users.append((f"the tool server {server['name']}", server["settings"].get("headers")))
    found = []
    for user, says in users:
        for name in sorted(references.referred(says)):
            if wrong := known.get(name, "which does not exist"):
                what = f"{user} uses the secret {name}, {wrong}"
                found.append(Problem(what, f"daybook secrets add {name} --replace --host <host>"))
    return found
