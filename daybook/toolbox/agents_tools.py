"""The tools of `daybook.toolbox` for the agents of a program that embeds Daybook.

::

    toolset()          for pydantic-ai
    Skill()            init, tools, close: for a host of skills
    schedule_tool()    one tool with `action`, for a host that gives each skill one tool

A model that calls these tools always acts for an agent, never for the operator.
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
from daybook.toolbox import NotDone, agent_tools, calls, text, tools
from daybook.toolbox.arguments import Argument, Arguments, schema
from daybook.toolbox.invocation import guarded

if TYPE_CHECKING:
    from daybook.agents.model_tools import OfferedTools

DEFAULT_AGENT = "program"
"""The agent for which the tools act if neither the program nor its context names an agent."""
MAX_ARGUMENT_RETRIES = 3
"""Maximum number of times that a model may repeat a call if its arguments are not an object."""


def toolset(*, agent: str = "", user: str = "", tools: Collection[str] = ()) -> OfferedTools:
    """Return Daybook's tools as a pydantic-ai toolset::

        agent = pydantic_ai.Agent("openai:gpt-5", toolsets=[daybook.toolset(agent="researcher")])

    ``agent`` is the id of the agent that uses the tools. It owns the jobs that it adds, and is
    subject to the operator's limits. The default is the agent of `daybook.context`; outside a
    context it is `program`. ``user`` is the id of the agent's user. ``tools`` are the names of the
    tools to offer; the default is all of `toolbox.agent_tools`. The model receives errors as text.
    Raise `InvalidInput` for an unknown tool name, or an invalid agent or user.
    """
    from daybook.agents.model_tools import OfferedTools

    class Toolset(OfferedTools):
        @property
        def id(self) -> str:
            return "daybook"

    return Toolset(_tools_for(_chosen(tools), agent, user), MAX_ARGUMENT_RETRIES)


def schedule_tool(*, agent: str = "", user: str = "") -> Tool:
    """Return one tool, `schedule`, which adds, lists or removes scheduled prompts by its `action`.

    The tool's `name`, `description` and `schema` need no running service. `await call({...})`
    returns the answer as text, or raises a `DaybookError` with a text for the model. ``agent`` and
    ``user`` are as in `toolset`. Raise `InvalidInput` if one of them is invalid.
    """
    description = "Schedule prompts for later: add one, list them, or remove one."
    call = guarded("schedule", _ARGUMENTS, _schedule)
    return _tool_for(
        Tool("schedule", description, schema(_ARGUMENTS), call), agent, user, _ACTION_NAMES
    )


class Skill:
    """Daybook as a skill of a host program: `init`, `tools`, `close`::

        skill = daybook.Skill(agent="researcher")
        await skill.init()
        for tool in skill.tools():
            host.register(tool.name, tool.description, tool.schema, tool.call)
        ...
        await skill.close()

    `async with` works as well. ``agent``, ``user`` and the names ``tools`` are as in `toolset`. The
    skill refuses calls before `init` and after `close`; `tools` works at any time. `close` waits
    for calls in progress. Raise `InvalidInput` as `toolset` does.
    """

    name = "schedule"
    description = "Schedules prompts, webhooks and tool calls, and reports their outcomes."

    def __init__(self, *, agent: str = "", user: str = "", tools: Collection[str] = ()) -> None:
        self._tools = tuple(map(self._counted, _tools_for(_chosen(tools), agent, user)))
        self._open = False
        self._under_way = 0
        self._idle = asyncio.Event()

    async def init(self) -> None:
        """Open the skill.

        Raise `LedgerUnreachable`, `LedgerNewer`, and `InvalidInput` for invalid settings.
        """
        from daybook.ledger.engine import open_ledger

        async with open_ledger():
            self._open = True

    def tools(self) -> tuple[Tool, ...]:
        """Return the tools. Each has `name`, `description`, `schema`, `read_only` and `call`."""
        return self._tools

    async def call(self, name: str, arguments: Mapping[str, Any] | None = None) -> str:
        """Call the tool with this name. Return its answer or its error as text for the model."""
        for tool in self._tools:
            if tool.name == name:
                try:
                    return await tool.call(dict(arguments or {}))
                except DaybookError as error:
                    return str(error)
        known = ", ".join(tool.name for tool in self._tools)
        return f"there is no tool {name} (known: {known})"

    async def close(self) -> None:
        """Refuse further calls, and wait for the calls in progress.

        A repeated call has no effect.
        """
        self._open = False
        while self._under_way:
            self._idle.clear()
            await self._idle.wait()

    async def __aenter__(self) -> Self:
        await self.init()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _counted(self, tool: Tool) -> Tool:
        async def call(given: Arguments) -> str:
            if not self._open:
                raise NotDone("the scheduler of this program is closed")
            self._under_way += 1
            try:
                return await tool.call(given)
            finally:
                self._under_way -= 1
                self._idle.set()

        return replace(tool, call=call)


def _tools_for(tools: Sequence[Tool], agent: str, user: str) -> list[Tool]:
    offered = {each.name: each.name for each in tools}
    return [_tool_for(each, agent, user, offered) for each in tools]


def _tool_for(tool: Tool, agent: str, user: str, offered: Mapping[str, str]) -> Tool:
    """Return the tool for this agent and user. Its hints name only tools in ``offered``.

    Raise `InvalidInput` for an invalid agent or user.
    """
    # Raise an error for an invalid value here, not when a model calls the tool.
    context.actor_for(agent, user)

    async def call(given: Arguments) -> str:
        with owners.acting_as(_actor(agent, user)), text.offering(offered):
            return await tool.call(given)

    return replace(tool, call=call)


def _actor(agent: str, user: str) -> Actor:
    current = context.actor_for(agent, user)
    return (
        current
        if current.is_agent
        else replace(current, owner=f"{owners.AGENT_PREFIX}{DEFAULT_AGENT}")
    )


def _chosen(names: Iterable[str]) -> list[Tool]:
    known = {tool.name: tool for tool in agent_tools()}
    for name in (wanted := list(names)):
        if name not in known:
            raise InvalidInput("tools", f'unknown "{name}"', f"known: {', '.join(known)}")
    return [tool for name, tool in known.items() if not wanted or name in wanted]


_ADD_DESCRIPTIONS = {
    each: tools.JOB_TOOLS[0].schema["properties"][each]["description"]
    for each in ("schedule", "timezone", "name", "chat_id")
}
_ARGUMENTS = (
    Argument(
        "action",
        "add: needs prompt and schedule; list: nothing else; remove: needs job_id.",
        None,
        legal=("add", "list", "remove"),
        write="write add, list or remove",
    ),
    Argument("prompt", "For add: the complete prompt for the agent at each due time."),
    Argument("schedule", f"For add. {_ADD_DESCRIPTIONS['schedule']}"),
    Argument("timezone", f"For add. {_ADD_DESCRIPTIONS['timezone']}"),
    Argument("name", f"For add. {_ADD_DESCRIPTIONS['name']}"),
    Argument("channel", "For add. Channel that receives the answer, such as inbox. Default: none."),
    Argument("chat_id", f"For add. {_ADD_DESCRIPTIONS['chat_id']}"),
    Argument("job_id", "For remove: job name, id or unique id prefix."),
)
_ACTION_NAMES = {
    f"cron_{action}": f"schedule with action {action}" for action in ("add", "list", "remove")
}
"""For each tool that an action of `schedule` replaces, the text that hints use for the action."""
_REQUIRED = {"add": ("prompt", "schedule"), "list": (), "remove": ("job_id",)}
_OPTIONAL = {"add": ("timezone", "name", "channel", "chat_id"), "list": (), "remove": ()}


async def _schedule(given: Arguments) -> str:
    action = given.pop("action")
    for name in _REQUIRED[action]:
        if name not in given:
            raise InvalidInput(name, "is missing", f"{action} needs it")
    for name in given:
        if name not in (*_REQUIRED[action], *_OPTIONAL[action]):
            raise InvalidInput(name, f"does not apply to {action}", "leave it out")
    match action:
        case "add":
            return await calls.add(given)
        case "remove":
            return await calls.remove(given)
        case _:
            return await calls.list_jobs(given)
