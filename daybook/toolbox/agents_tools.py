"""The tools of `daybook.toolbox` for agents that a program has itself.

::

    toolset()          for pydantic-ai
    Skill()            init, tools, close: for a host of skills
    schedule_tool()    one tool with `action`, for a host that gives each thing one tool

A model that calls them works for an agent: never for the operator, unless the program says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from daybook import owners
from daybook.agents.base import Tool
from daybook.api import context
from daybook.errors import DaybookError, InvalidInput
from daybook.owners import Actor
from daybook.toolbox import TOOLS, NotDone, calls, hints
from daybook.toolbox.arguments import Argument, schema
from daybook.toolbox.invocation import guarded

if TYPE_CHECKING:
    from types import TracebackType

    from daybook.agents.model_tools import Offered

NOBODY = "program"
"""The agent for whom it is where neither the program nor its context names one."""
AGAIN = 3
"""How often a model may send arguments that are no object."""


def toolset(*, agent: str = "", user: str = "", tools: Collection[str] = ()) -> Offered:
    """Daybook's tools as a toolset of pydantic-ai::

        agent = pydantic_ai.Agent("openai:gpt-5", toolsets=[daybook.toolset(agent="researcher")])

    ``agent`` is the id of the agent that uses them: jobs are its own, under the operator's limits;
    without it the agent of `daybook.context`, else `program`. ``user`` is the person for whom it
    works. ``tools`` are the names of those that it may have, all where none is given. What a tool
    refuses is told to the model. Raises `InvalidInput` for a name that there is not.
    """
    from daybook.agents.model_tools import Offered

    class Toolset(Offered):
        @property
        def id(self) -> str:
            return "daybook"

    return Toolset(_all_of(_chosen(tools), agent, user), AGAIN)


def schedule_tool(*, agent: str = "", user: str = "") -> Tool:
    """One tool `schedule` that adds, lists and removes prompts, by its `action`.

    Its `name`, `description` and `schema` need no service that runs; `await call({...})` gives the
    answer as text, or raises `DaybookError`, whose words the model is to read. ``agent`` and
    ``user`` are as `toolset` has them.
    """
    description = "Schedule prompts for later: add one, list them, or remove one."
    call = guarded("schedule", _TAKES, _schedule)
    return _of(Tool("schedule", description, schema(_TAKES), call), agent, user, _ACTIONS)


class Skill:
    """Daybook as a skill of a host program: `init`, `tools`, `close`::

        skill = daybook.Skill(agent="researcher")
        await skill.init()
        for tool in skill.tools():
            host.register(tool.name, tool.description, tool.schema, tool.call)
        ...
        await skill.close()

    It can be an `async with` as well. ``agent``, ``user`` and the names ``tools`` are as `toolset`
    has them. The definitions can be asked for at any time; a call is refused before `init` and
    after `close`, which waits for those that are under way.
    """

    name = "schedule"
    description = "Schedules prompts, webhooks and tool calls, and tells what became of them."

    def __init__(self, *, agent: str = "", user: str = "", tools: Collection[str] = ()) -> None:
        self._tools = tuple(map(self._counted, _all_of(_chosen(tools), agent, user)))
        self._open = False
        self._under_way = 0
        self._idle = asyncio.Event()

    async def init(self) -> None:
        """Open it. Raises `LedgerUnreachable`, and `InvalidInput` for invalid settings."""
        from daybook.ledger.engine import open_ledger

        async with open_ledger():
            self._open = True

    def tools(self) -> tuple[Tool, ...]:
        """Each with `name`, `description`, `schema` (of JSON), `read_only`, and `call`."""
        return self._tools

    async def call(self, name: str, arguments: Mapping[str, Any] | None = None) -> str:
        """What the tool of that name answers, also where it refuses: text for the model."""
        for tool in self._tools:
            if tool.name == name:
                try:
                    return await tool.call(dict(arguments or {}))
                except DaybookError as error:
                    return str(error)
        known = ", ".join(tool.name for tool in self._tools)
        return f"there is no tool {name} (known: {known})"

    async def close(self) -> None:
        """Refuse further calls, and wait for those that are under way. Twice is as once."""
        self._open = False
        while self._under_way:
            self._idle.clear()
            await self._idle.wait()

    async def __aenter__(self) -> Self:
        await self.init()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def _counted(self, tool: Tool) -> Tool:
        async def call(given: dict[str, Any]) -> str:
            if not self._open:
                raise NotDone("the scheduler of this program is closed")
            self._under_way += 1
            try:
                return await tool.call(given)
            finally:
                self._under_way -= 1
                self._idle.set()

        return replace(tool, call=call)


def _all_of(tools: Sequence[Tool], agent: str, user: str) -> list[Tool]:
    offered = {each.name: each.name for each in tools}
    return [_of(each, agent, user, offered) for each in tools]


def _of(tool: Tool, agent: str, user: str, offered: Mapping[str, str]) -> Tool:
    """The tool, called for that agent and person; its answers name no tool but those offered."""
    context.actor(agent, user)  # refused here, not in the middle of a conversation

    async def call(given: dict[str, Any]) -> str:
        with owners.acting_as(_actor(agent, user)), hints.offering(offered):
            return await tool.call(given)

    return replace(tool, call=call)


def _actor(agent: str, user: str) -> Actor:
    found = context.actor(agent, user)
    return found if found.is_agent else replace(found, owner=f"{owners.BY_AGENT}{NOBODY}")


def _chosen(names: Iterable[str]) -> list[Tool]:
    known = {tool.name: tool for tool in TOOLS}
    for name in (wanted := list(names)):
        if name not in known:
            raise InvalidInput("tools", f'unknown "{name}"', f"known: {', '.join(known)}")
    return [tool for name, tool in known.items() if not wanted or name in wanted]


_ADD = {
    each: TOOLS[0].schema["properties"][each]["description"]
    for each in ("schedule", "timezone", "name", "chat_id")
}
_TAKES = (
    Argument(
        "action",
        "add: needs prompt and schedule; list: nothing else; remove: needs job_id.",
        None,
        legal=("add", "list", "remove"),
        write="write add, list or remove",
    ),
    Argument("prompt", "For add: what is asked at each due time, complete in itself."),
    Argument("schedule", f"For add. {_ADD['schedule']}"),
    Argument("timezone", f"For add. {_ADD['timezone']}"),
    Argument("name", f"For add. {_ADD['name']}"),
    Argument("channel", "For add. Where the answer is delivered, such as inbox. Default: nowhere."),
    Argument("chat_id", f"For add. {_ADD['chat_id']}"),
    Argument("job_id", "For remove: the job's id, unique beginning of its id, or name."),
)
_ACTIONS = {
    f"cron_{action}": f"schedule with action {action}" for action in ("add", "list", "remove")
}
"""How the single tool is called for what the tools of `toolbox` do."""
_NEEDS = {"add": ("prompt", "schedule"), "list": (), "remove": ("job_id",)}
_MAY = {"add": ("timezone", "name", "channel", "chat_id"), "list": (), "remove": ()}


async def _schedule(given: dict[str, Any]) -> str:
    action = given.pop("action")
    for name in _NEEDS[action]:
        if name not in given:
            raise InvalidInput(name, "is missing", f"{action} needs it")
    for name in given:
        if name not in (*_NEEDS[action], *_MAY[action]):
            raise InvalidInput(name, f"is not for {action}", "leave it out")
    match action:
        case "add":
            return await calls.add(given)
        case "remove":
            return await calls.remove(given)
        case _:
            return await calls.list_jobs(given)
