"""Checks of the ledger and its jobs."""

from __future__ import annotations

import asyncio
import os
import shlex
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from daybook import settings as operator_settings
from daybook.clock import SYSTEM_CLOCK
from daybook.diagnosis import findings
from daybook.diagnosis.checks import home
from daybook.diagnosis.checks.facts import fact
from daybook.errors import (
    FREE_SPACE,
    AgentMisconfigured,
    Ambiguous,
    InvalidInput,
    LedgerKeyMissing,
    LedgerNewer,
    LedgerReplaced,
    LedgerUnreachable,
    UnknownName,
    says_disk_full,
)
from daybook.finding import Finding, passed, problem, warning
from daybook.home import current_home
from daybook.http import secrets as references
from daybook.jobs import store, summaries
from daybook.jobs.store import StoredJob
from daybook.ledger import schema
from daybook.ledger.engine import open_ledger, reading
from daybook.ledger.references import command_word
from daybook.operations import versions
from daybook.prefect import instances
from daybook.resources import copies as block_copies
from daybook.resources import mirror
from daybook.resources import secrets as secret_blocks
from daybook.runs import history
from daybook.short_text import first_names
from daybook.tools.server_blocks import PrefectServers

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

WRITE_TIMEOUT = timedelta(seconds=5)
"""Maximum time that a write may wait for other writers. A longer wait is a problem."""
_RESTORE_KEY = (
    "copy the file ledger-key (mode 0600) into this home, from the home that wrote the copies or "
    "from its backup; if it is permanently lost: daybook ledger rekey"
)


async def ledger() -> list[Finding]:
    """Check that this program can open and write the ledger, if the ledger already exists."""
    if not exists():
        return []
    try:
        jobs = await stored_jobs()
        async with open_ledger() as opened:
            if why := await opened.why_unwritable(within=WRITE_TIMEOUT):
                return [findings.unwritable(why)]
            if newer := await opened.newer_schema():
                known = f"and this version only knows {schema.head()}, and can still use it"
                fix = "install the newer version here too, and restart Daybook"
                return [warning("ledger", f"the ledger has schema {newer}, {known}", fix)]
            enabled = sum(each.job.enabled for each in jobs)
            count = "1 job" if len(jobs) == 1 else f"{len(jobs)} jobs"
            return [passed("ledger", f"{opened.place}, {count}, {enabled} enabled")]
    except LedgerNewer as error:
        fix = f"with the version of Daybook that wrote it: {versions.reinstall_command()}"
        return [problem("ledger", str(error), fix)]
    except LedgerReplaced as error:
        return [problem("ledger", f"the ledger at {error.place} {error.what}", error.fix)]
    except LedgerUnreachable as error:
        if says_disk_full(str(error)):
            return [problem("ledger", str(error), FREE_SPACE)]
        files = home.ledger_files()
        if not files:
            address = shlex.quote(error.place.replace("+asyncpg", ""))
            return [problem("ledger", str(error), f"pg_isready -d {address}")]
        name = shlex.quote(str(files[0]))
        if files[0].is_file() and not os.access(files[0], os.R_OK | os.W_OK):
            return [
                problem("ledger", str(error), f"sudo chown $(id -u) {name} && chmod 600 {name}")
            ]
        fix = f"mv {name} {name}.broken, and put a backup of the ledger in its place"
        return [problem("ledger", str(error), fix)]


async def stored_jobs() -> list[StoredJob]:
    """Return all jobs; [] if there is no ledger yet, because a check must not create one."""
    return (await id_and_jobs())[1]


@fact
async def id_and_jobs() -> tuple[str, list[StoredJob]]:
    """Return the ledger's id and its jobs. If there is no ledger yet, the id is empty."""
    if not exists():
        return "", []
    async with open_ledger() as opened, opened.read() as session:
        return opened.id, await store.read_all(session)


def exists() -> bool:
    """Return whether the ledger should exist: on SQLite, once its file exists or `up` runs."""
    files = home.ledger_files()
    if not files:
        return bool(home.ledger_address())
    return files[0].exists() or bool((current_home().running() or {}).get("ledger"))


async def sync() -> list[Finding]:
    """Check that every job has been written to Prefect, and that no job is in conflict."""
    return findings.sync(each.row for each in await stored_jobs())


async def jobs() -> list[Finding]:
    """Check for jobs that fail, answer nothing, need a missing job, or were changed elsewhere."""
    stored = await stored_jobs()
    if not stored:
        return []
    async with reading() as session:
        listed = await summaries.read(session)
        chains = findings.broken_chains(listed, await store.used_outputs(session))
        edited = await store.edited_since_applied(session)
        silent = findings.without_answers(await history.without_answers(session))
    failing = findings.failing_jobs(listed, SYSTEM_CLOCK.now())
    broken = findings.unreadable_jobs(each.problem for each in stored if each.problem)
    return broken + failing + silent + chains + findings.drift(edited)


async def sandbox() -> list[Finding]:
    """Check that this machine can build a sandbox, if a setting or an enabled job requires it."""
    from daybook.policies.sandboxes import LEVELS
    from daybook.processes.sandboxes.sandbox import why_unavailable

    try:
        usual = operator_settings.load().sandbox
    except InvalidInput:  # another check reports the invalid setting
        return []
    off = ("", LEVELS[0])
    names = [
        each.row.name
        for each in await stored_jobs()
        if each.job.enabled and each.job.policy.sandbox not in off
    ]
    users = ["the setting sandbox"] if usual not in off else []
    users += [first_names(names)] if names else []
    if not users:
        return []
    what, _, fix = (await asyncio.to_thread(why_unavailable)).partition("; ")
    if not what:
        return []
    requires = "requires" if len(users) == 1 and len(names) < 2 else "require"
    message = f"{' and '.join(users)} {requires} a sandbox, which cannot be built here: {what}"
    return [problem("sandbox", message, fix or "choose the sandbox off, or another machine")]


async def leases() -> list[Finding]:
    """Check that the process of every live run renews its lease."""
    if not exists():
        return []
    async with open_ledger() as opened, opened.read() as session:
        return findings.expired_leases(await history.live(session), opened.now())


async def ledger_key() -> list[Finding]:
    """Check that this home has the key of the ledger's copies of agents and secrets."""
    if not exists():
        return []
    async with reading() as session:
        count = len(await block_copies.list_copies(session))
        try:
            await block_copies.key(session, current_home())
        except LedgerKeyMissing as error:
            message = f"{error}; none of its {count} copies can be restored here"
            return [problem("ledger key", message, _RESTORE_KEY)]
    return []


async def copies(client: PrefectClient) -> list[Finding]:
    """Check that Prefect has every block of which the ledger has a copy.

    The blocks are agents, secrets, tool servers, channels, destinations and hooks.
    """
    from daybook.keeper import blocks

    if not exists():
        return []
    async with open_ledger() as opened:
        lost = await mirror.list_lost(opened, client, blocks.BLOCK_TYPES)
        if not lost:
            return []
        message = (
            f"Blocks are missing from Prefect, but the ledger has copies of them: {', '.join(lost)}"
        )
        async with opened.read() as session:
            try:
                await block_copies.key(session, current_home())
            except LedgerKeyMissing:
                message += "; the key of the copies is missing"
                return [problem("copies", message, _RESTORE_KEY)]
    return [problem("copies", message, "daybook up: its keeper restores them within seconds")]


async def one_prefect() -> list[Finding]:
    """Check that all workers and keepers of this ledger use the same Prefect server."""
    if not exists():
        return []
    async with open_ledger() as opened, opened.read() as session:
        conflict = instances.conflict(await instances.in_use(session, opened.now()))
    return [problem("one prefect", conflict, instances.CONFLICT_HINT)] if conflict else []


async def agents(client: PrefectClient) -> list[Finding]:
    """Check that every agent that a job names exists, is not ambiguous, and can answer here."""
    from daybook.agents import documents

    try:
        known = await documents.names(client)
    except AgentMisconfigured as error:
        return [problem("agents", str(error), "daybook up")]
    problems, users = [], dict[str, list[str]]()
    for each in await stored_jobs():
        for agent in each.job.agents():
            matches = documents.matches(known, agent)
            if len(matches) == 1:
                users.setdefault(matches[0], []).append(each.row.name)
                continue
            options = "--agent <name>"
            fallback = getattr(each.job.action, "fallback_agents", ())
            if agent in fallback:  # an edit replaces the whole list
                names = ("<name>" if name == agent else shlex.quote(name) for name in fallback)
                options = " ".join(f"--fallback-agent {name}" for name in names)
            fix = f"daybook edit {command_word(each.row)} {options}"
            if matches:
                why = f"is ambiguous: use one of {', '.join(matches)}"
            else:
                why = "does not exist"
                fix = f"daybook agents add {agent} …, or {fix}"
            message = f"{each.row.name} uses the agent {agent}, which {why}"
            problems.append(problem("agents", message, fix))
    found = await asyncio.gather(*map(partial(_problem_of, client), users))
    for ref, reason in zip(users, found, strict=True):
        if reason:
            used = first_names(users[ref])
            fix = f"correct it, or: daybook agents edit {shlex.quote(ref)} …"
            message = f"the agent {ref.rpartition('/')[2]} of {used} cannot answer: {reason}"
            problems.append(problem("agents", message, fix))
    return problems


async def _problem_of(client: PrefectClient, agent: str) -> str | None:
    from daybook.agents import documents

    try:
        return (await documents.describe(client, agent)).problem
    except (UnknownName, Ambiguous):  # removed meanwhile
        return None


async def tools(client: PrefectClient) -> list[Finding]:
    """Check that every tool that a job names is installed or on a saved server. Call no tool."""
    from daybook.http.guard import Guard, Rule
    from daybook.tools import catalog

    servers, guard = PrefectServers(client), Guard.from_settings(Rule.OPERATOR)
    problems = []
    for each in await stored_jobs():
        called = [("--check-tool", tool) for _, tool in each.job.policy.check.tools()]
        called += [(f"--{field}", tool) for field, tool in each.job.action.tools()]
        for option, tool in called:
            try:
                await catalog.locate(tool, servers, guard)
            except InvalidInput as error:
                message = f"{each.row.name} calls the tool {tool}: {error.problem}"
                edit = f"daybook edit {command_word(each.row)} {option} <name>"
                fix = f"install it or save its server, or {edit}"
                problems.append(problem("tools", message, fix))
    return problems


async def secrets(client: PrefectClient) -> list[Finding]:
    """Check that each secret that a job or a saved server uses exists and is valid."""
    known = {each.name: each.problem for each in await secret_blocks.list_secrets(client)}
    users: list[tuple[str, Any]] = [
        (each.row.name, each.job.values_with_secrets()) for each in await stored_jobs()
    ]
    for server in await PrefectServers(client).every():
        users.append((f"the tool server {server.name}", server.settings.get("headers")))
    problems = []
    for user, content in users:
        for name in sorted(references.referenced_names(content)):
            if why := known.get(name, "which does not exist"):
                message = f"{user} uses the secret {name}, {why}"
                fix = f"daybook secrets add {name} --replace --host <host>"
                problems.append(problem("secrets", message, fix))
    return problems
