"""Python tools that the workers of a ledger can call.

Each worker records its tools about once a minute, so that a command can warn if a worker does not
have the tool of a job. A worker has an environment of its own. In it, a package, a module of the
setting `plugins`, or a folder of `PYTHONPATH` may be missing.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import datetime, timedelta

from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook import registry, settings
from daybook.delivery import listener_calls
from daybook.json_text import JsonObject
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import Fact

IN_USE_AGE = timedelta(minutes=3)
"""A worker counts as running for this time after it last recorded its tools."""
_RETENTION_AGE = timedelta(days=1)
_PREFIX = "tools:"


async def record(ledger: Ledger, worker: str) -> None:
    """Record the tools that this process can call. ``worker`` is the name of its worker.

    Raise the errors of `listener_calls.load_names`, and `LedgerUnreachable`.
    """
    await listener_calls.load_names()  # this call imports the plugins, with a timeout
    value = {"tools": registry.names(registry.TOOLS), "environment": _environment()}
    async with ledger.write() as session:
        now = ledger.now()
        for key, recorded in (await _recorded(session)).items():
            if datetime.fromisoformat(recorded["seen_at"]) < now - _RETENTION_AGE:
                await session.execute(delete(Fact).where(col(Fact.key) == key))
        text = json.dumps({**value, "seen_at": now.isoformat()})
        await session.merge(Fact(key=_PREFIX + worker, value=text))


async def forget(ledger: Ledger, worker: str) -> None:
    """Remove the record of a worker when the worker ends."""
    async with ledger.write() as session:
        await session.execute(delete(Fact).where(col(Fact.key) == _PREFIX + worker))


async def workers_without(session: AsyncSession, tool: str, now: datetime) -> list[str]:
    """Return the sorted names of the running workers that cannot call this Python tool.

    This process must be able to call the tool. A worker's record may be older than the installation
    of the tool. So a worker with the same environment as this process counts as able to call it.
    """
    return sorted(
        key.removeprefix(_PREFIX)
        for key, recorded in (await _recorded(session)).items()
        if datetime.fromisoformat(recorded["seen_at"]) >= now - IN_USE_AGE
        and tool not in recorded["tools"]
        and not _finds_new(tool, recorded["environment"])
    )


def _finds_new(tool: str, environment: list[str | None]) -> bool:
    """Return whether a process with this `_environment` can call a tool of this process."""
    own = _environment()
    if tool in registry.installed(registry.TOOLS):
        return environment[0] == own[0]
    function = registry.find(registry.TOOLS, tool)
    packages = {each.strip().partition(".")[0] for each in settings.load().plugins.split(",")}
    package = str(getattr(function, "__module__", "")).partition(".")[0]
    return environment == own and function is not None and package in packages


def _environment() -> list[str | None]:
    """Return what a process's tools depend on: its installation, plugins and search path."""
    path = os.environ.get("PYTHONPATH")
    folders = path and os.pathsep.join(map(os.path.abspath, path.split(os.pathsep)))
    return [sys.prefix, os.environ.get("DAYBOOK_PLUGINS"), folders]


async def _recorded(session: AsyncSession) -> JsonObject:
    facts = select(Fact).where(col(Fact.key).startswith(_PREFIX))
    return {fact.key: json.loads(fact.value) for fact in (await session.execute(facts)).scalars()}
