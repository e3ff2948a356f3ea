"""Attempts of runs whose agents call the tools of features."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from daybook.agents.base import Tool
from daybook.execution import agent_tools, builtin_tools
from daybook.execution.agent_tools import ToolSelection
from daybook.execution.builtin_tools import ToolContext
from daybook.http.secrets import SecretStore
from daybook.jobs.store import StoredJob
from daybook.owners import Actor
from daybook.runs.claim_requests import Granted
from tests.world import World


class Answering:
    """The tools of one attempt of a run. A call names the tool, such as `memory_append`."""

    def __init__(self, granted: Granted, tools: dict[str, Tool]) -> None:
        self.granted, self.tools = granted, tools

    async def __call__(self, tool: str, **arguments: Any) -> str:
        return await self.tools[tool].call(arguments)


@asynccontextmanager
async def attempt(granted: Granted, *words: str, work_dir: str = "") -> AsyncIterator[Answering]:
    """Open the tools of these words, as each attempt of the run does."""
    context = ToolContext(granted, "brief", work_dir, secrets=cast("SecretStore", None))
    found: dict[str, Tool] = {}
    for word in words:
        found |= await builtin_tools.find(word, context)
    selection = ToolSelection("brief", builtin=found)
    async with agent_tools.open_tools(selection, granted.occurrence, Actor(), 60.0) as tools:
        yield Answering(granted, {each.name: each for each in tools})


class Started:
    """Starts runs of jobs, which it adds unless they exist."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._jobs: dict[str, StoredJob] = {}

    async def __call__(self, name: str = "brief", owner: str = "user", **fields: Any) -> Granted:
        if name not in self._jobs:
            added = await self._world.jobs.add(name, owner, on_demand=True, **fields)
            self._jobs[name] = added
        row = await self._world.runs.request(self._jobs[name])
        return await self._world.runs.running(row)
