"""Tools for model agents that come with Daybook, such as `web`. Features add them.

An entry in the setting `tools` of an agent names one of these words (`web`), or single tools
(`web.fetch`). To add a word, add it to the field `agent_tools` of a feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from daybook.agents.base import Tool
from daybook.errors import InvalidInput, UnknownName
from daybook.feature import Feature, features
from daybook.http.secrets import SecretStore
from daybook.jobs import limits
from daybook.jobs.limits import Limits
from daybook.runs.claim_requests import Granted


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


def words() -> dict[str, Feature]:
    """Return the features that add tools, by the words that name these."""
    return {word: each for each in features() for word, _ in each.agent_tools}


def first_tools() -> list[str]:
    """Return the words of the tools that only read public sources, for a new home's first agent."""
    return [word for each in features() for word in each.first_tools]


async def find(entry: str, context: ToolContext) -> dict[str, Tool]:
    """Return the tools that ``entry`` names, such as `web` or `web.fetch`, by their full names.

    Raise `InvalidInput` if the entry names no tool, or if the tools cannot be used.
    """
    word, _, pattern = entry.partition(".")
    feature = words()[word]
    try:
        load = feature.load(dict(feature.agent_tools)[word])
    except Exception as error:
        if feature.is_own:
            raise
        raise InvalidInput("tools", f'"{word}" cannot be used: {error}', "leave it out") from None
    tools: Sequence[Tool] = await load(context)
    found = {f"{word}.{each.name}": each for each in tools}
    chosen = {n: t for n, t in found.items() if fnmatchcase(t.name, pattern or "*")}
    if pattern and not chosen:
        raise UnknownName("tool", entry, list(found))
    return chosen
