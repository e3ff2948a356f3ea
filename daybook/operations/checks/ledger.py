"""Checks of the ledger and its jobs."""

from __future__ import annotations

import os
import shlex
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from daybook.errors import (
    AgentMisconfigured,
    InvalidInput,
    LedgerKeyMissing,
    LedgerNewer,
    LedgerReplaced,
    LedgerUnreachable,
)
from daybook.home import current_home
from daybook.jobs import store
from daybook.jobs.actions import ToolCall
from daybook.jobs.store import StoredJob
from daybook.ledger.engine import open_ledger
from daybook.operations import findings
from daybook.operations.checks import home, installation
from daybook.operations.findings import Finding, problem
from daybook.prefect import instances
from daybook.resources import copies as block_copies
from daybook.runs import history

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

WRITE_TIMEOUT = timedelta(seconds=5)
"""Maximum wait of a write for other writers; a longer one is a problem."""
_RESTORE_KEY = (
    "copy the file ledger-key, with mode 0600, into this home from the home that wrote the copies "
    "or from its backup; if it is lost for good: daybook ledger rekey"
)


async def ledger() -> list[Finding]:
    """Check that the ledger can be opened by this program and written; a missing one is not a
    problem.
    """
    if not _exists():
        return []
    try:
        await stored_jobs()
        async with open_ledger() as opened:
            if why := await opened.why_unwritable(within=WRITE_TIMEOUT):
                return [findings.unwritable(why)]
    except LedgerNewer as error:
        fix = f"with the Daybook that wrote it: {installation.reinstall_command()}"
        return [problem("ledger", str(error), fix)]
    except LedgerReplaced as error:
        return [problem("ledger", f"the ledger at {error.place} {error.what}", error.fix)]
    except LedgerUnreachable as error:
        files = home.ledger_files()
        if not files:
            address = shlex.quote(error.place.replace("+asyncpg", ""))
            return [problem("ledger", str(error), f"pg_isready -d {address}")]
        name = shlex.quote(str(files[0]))
        if files[0].is_file() and not os.access(files[0], os.R_OK | os.W_OK):
            return [
                problem("ledger", str(error), f"sudo chown $(id -u) {name} && chmod 600 {name}")
            ]
        fix = f"mv {name} {name}.broken, and put a copy of the ledger in its place"
        return [problem("ledger", str(error), fix)]
    return []


async def stored_jobs() -> list[StoredJob]:
    """Return all jobs; [] if there is no ledger yet, which a check does not create."""
    return (await id_and_jobs())[1]


async def id_and_jobs() -> tuple[str, list[StoredJob]]:
    """Return the ledger's id and its jobs; an empty id if there is no ledger yet."""
    if not _exists():
        return "", []
    async with open_ledger() as opened, opened.read() as session:
        return opened.id, await store.all_jobs(session)


def _exists() -> bool:
    """Return whether there is a database, or one that cannot be reached; a SQLite file may be
    missing.

    If `up` runs, it has created one: then a missing file is a problem.
    """
    files = home.ledger_files()
    if not files:
        return bool(home.ledger_address())
    return files[0].exists() or bool((current_home().running() or {}).get("ledger"))


async def sync() -> list[Finding]:
    """Check that every job is in Prefect as it is in the ledger."""
    return findings.sync(await stored_jobs())


async def jobs() -> list[Finding]:
    """Check that no job's last run failed."""
    return findings.failing_jobs(await stored_jobs())


async def leases() -> list[Finding]:
    """Check that the process of every live run renews its lease."""
    if not _exists():
        return []
    async with open_ledger() as opened, opened.read() as session:
        return findings.expired_leases(await history.live(session), opened.now())


async def ledger_key() -> list[Finding]:
    """Check that this home has the key of the ledger's copies of agents and secrets."""
    if not _exists():
        return []
    async with open_ledger() as opened, opened.read() as session:
        count = len(await block_copies.list_copies(session))
        try:
            await block_copies.key(session, current_home())
        except LedgerKeyMissing as error:
            message = f"{error}; none of its {count} copies can be restored here"
            return [problem("ledger key", message, _RESTORE_KEY)]
    return []


async def copies(client: PrefectClient) -> list[Finding]:
    """Check that Prefect has every agent, secret, tool server, channel and destination of the
    ledger.
    """
    from daybook.keeper import blocks
    from daybook.resources import mirror

    if not _exists():
        return []
    async with open_ledger() as opened:
        lost = await mirror.list_lost(opened, client, blocks.BLOCK_TYPES)
        if not lost:
            return []
        message = f"Prefect has lost, and the ledger has a copy of: {', '.join(lost)}"
        async with opened.read() as session:
            try:
                await block_copies.key(session, current_home())
            except LedgerKeyMissing:
                message += "; the key of the copies is missing"
                return [problem("copies", message, _RESTORE_KEY)]
    return [problem("copies", message, "daybook up, whose keeper restores them within seconds")]


async def one_prefect() -> list[Finding]:
    """Check that all workers and keepers of this ledger use the same Prefect server."""
    if not _exists():
        return []
    async with open_ledger() as opened, opened.read() as session:
        conflict = instances.conflict(await instances.in_use(session, opened.now()))
    return [problem("one prefect", conflict, instances.CONFLICT_HINT)] if conflict else []


async def agents(client: PrefectClient) -> list[Finding]:
    """Check that every agent that a job names exists."""
    from daybook.agents import documents

    try:
        names = await documents.names(client)
    except AgentMisconfigured as error:
        return [problem("agents", str(error), "daybook up")]
    known = {*names, *(f"{kind}/{name}" for name, kind in names.items())}
    problems = []
    for each in await stored_jobs():
        for agent in each.job.agents():
            if agent not in known:
                message = f"{each.row.name} uses the agent {agent}, which does not exist"
                edit = f"daybook edit {shlex.quote(each.row.name)} --agent <name>"
                fix = f"daybook agents add {agent} …, or {edit}"
                problems.append(problem("agents", message, fix))
    return problems


async def tools(client: PrefectClient) -> list[Finding]:
    """Check that every tool that a job names is installed here, or its server saved; none is
    called.
    """
    from daybook.http.guard import Guard, Rule
    from daybook.tools import catalog
    from daybook.tools.server_blocks import PrefectServers

    servers, guard = PrefectServers(client), Guard.from_settings(Rule.OPERATOR)
    problems = []
    for each in await stored_jobs():
        action = each.job.action
        called = {"--check-tool": each.job.policy.check.tool}
        if isinstance(action, ToolCall):
            called["--tool"] = action.tool
        for option, tool in called.items():
            if not tool:
                continue
            try:
                await catalog.locate(tool, servers, guard)
            except InvalidInput as error:
                message = f"{each.row.name} calls the tool {tool}: {error.problem}"
                edit = f"daybook edit {shlex.quote(each.row.name)} {option} <name>"
                fix = f"install it or save its server, or {edit}"
                problems.append(problem("tools", message, fix))
    return problems


async def secrets(client: PrefectClient) -> list[Finding]:
    """Check that every secret that a job or a saved server names exists, and that its block is
    sound.
    """
    from daybook.http import secrets as references
    from daybook.resources import secrets as secret_blocks
    from daybook.tools.server_blocks import PrefectServers

    known = {each["name"]: each["problem"] for each in await secret_blocks.list_secrets(client)}
    users: list[tuple[str, Any]] = []
    for each in await stored_jobs():
        fields = each.job.action.model_dump(mode="json")
        users.append((each.row.name, [fields.get("headers"), fields.get("params")]))
    for server in await PrefectServers(client).every():
        users.append((f"the tool server {server['name']}", server["settings"].get("headers")))
    problems = []
    for user, content in users:
        for name in sorted(references.referenced_names(content)):
            if why := known.get(name, "which does not exist"):
                message = f"{user} uses the secret {name}, {why}"
                fix = f"daybook secrets add {name} --replace --host <host>"
                problems.append(problem("secrets", message, fix))
    return problems
