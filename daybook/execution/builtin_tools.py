"""Tools for model agents that come with Daybook, such as `web`. Features add them.

An entry in the setting `tools` of an agent names one of these words (`web`), or single tools
(`web.fetch`). To add a word, add it to the field `agent_tools` of a feature.

A tool that writes to the ledger calls `ToolContext.write` and stores `call_key` with what it
writes. So a call that an attempt repeats after it was killed finds what it has written, and the
tool is idempotent.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from daybook.agents.base import Tool
from daybook.agents.candidates import AgentCandidate
from daybook.errors import InvalidInput, UnknownName
from daybook.execution import held_writes
from daybook.feature import Feature, failures, features
from daybook.http.secrets import SecretStore
from daybook.jobs import limits
from daybook.jobs.limits import Limits
from daybook.ledger.engine import Ledger
from daybook.runs.claim_requests import Granted
from daybook.tools import occurrence

T = TypeVar("T")

FIND_SECONDS = 60.0
"""How long a feature may take to return its tools, for which it may ask Prefect and the ledger."""


@dataclass(frozen=True)
class ToolContext:
    """What a tool may know about its run.

    ``agent`` is the name of the agent that answers. ``work_dir`` is the real path of the job's work
    directory, "" if it has none. ``secrets`` can be read only before the run begins, so a function
    of `Feature.agent_tools` reads those that its tools need.
    """

    granted: Granted
    agent: str
    work_dir: str = ""
    secrets: SecretStore = field(kw_only=True, repr=False)

    @property
    def owner(self) -> str:
        """Return the owner of the job; "" for a run without a job."""
        return self.granted.job.row.owner if self.granted.job else ""

    def limits(self) -> Limits | None:
        """Return the operator's limits on the owner's jobs; None if nothing limits them."""
        return limits.load_limits(self.owner)

    async def write(self, work: Callable[[AsyncSession, Ledger], Awaitable[T]]) -> T:
        """Do ``work`` in a write transaction of the ledger, as `held_writes.write` does.

        ``work`` looks for its `call_key` first, because it may be repeated.
        """
        return await held_writes.write(self.granted, work)


def call_key() -> str:
    """Return the key of the current call of a tool: 64 characters, the same in every attempt."""
    key = occurrence()
    assert key, "no agent calls this tool"
    return hashlib.sha256(key.encode(errors="replace")).hexdigest()


def words() -> dict[str, Feature]:
    """Return the features that add tools, by the words that name these.

    Daybook's own features come first, and a later feature with the same word does not replace them.
    """
    found: dict[str, Feature] = {}
    for each in features():
        for word, _ in each.agent_tools:
            if found.setdefault(word, each) is not each:
                failures[f"tools {word} of {each.name}"] = "tools of this name exist already"
    return found


def first_tools() -> list[str]:
    """Return the features' `first_tools`: they only read public sources."""
    return [word for each in features() for word in each.first_tools]


def first_settings(candidate: AgentCandidate) -> dict[str, Any]:
    """Return the settings of a candidate; a model that calls tools has the `first_tools`."""
    tools = first_tools()
    return {**candidate.settings, **({"tools": tools} if candidate.calls_tools and tools else {})}


def spec_tools() -> dict[str, str]:
    """Return the entries of the setting `tools` for capabilities of pydantic-ai's agent specs."""
    return {name: entry for each in features() for name, entry in each.spec_tools}


async def find(entry: str, context: ToolContext) -> dict[str, Tool]:
    """Return the tools that ``entry`` names, such as `web` or `web.fetch`, by their full names.

    Raise `InvalidInput` if the entry names no tool, or if the tools cannot be used.
    """
    word, _, pattern = entry.partition(".")
    feature = words()[word]
    try:
        load = feature.load(dict(feature.agent_tools)[word])
        async with asyncio.timeout(FIND_SECONDS):
            tools: Sequence[Tool] = await load(context)
        found = {f"{word}.{each.name}": each for each in tools}
    except TimeoutError:
        problem = f'"{word}" did not give its tools within {FIND_SECONDS:g} s'
        hint = "check the folders, the ledger and Prefect, which it reads"
        raise InvalidInput("tools", problem, hint) from None
    except Exception as error:
        if feature.is_own:
            raise
        problem = f'"{word}" cannot be used ({type(error).__name__}: {error})'
        raise InvalidInput("tools", problem, "leave it out") from None
    chosen = {n: t for n, t in found.items() if fnmatchcase(t.name, pattern or "*")}
    if pattern and not chosen:
        raise UnknownName("tool", entry, list(found))
    return chosen
