"""The server, whatever carries it: it lists the tools and calls them, for whom `Whose` says.

Beside them it has the task sessions as resources (`resources`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from mcp.server.lowlevel import Server
from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    ToolAnnotations,
)
from mcp_types import Tool as Listed

from daybook import __version__, toolbox
from daybook.agents.base import Tool
from daybook.mcp.resources import Context, Sessions, Whose
from daybook.owners import acting_as
from daybook.toolbox import ToolAnswer

NAME = "daybook"

INSTRUCTIONS = (
    "Daybook runs prompts, webhooks and tool calls on a schedule and keeps the book of what became "
    "of each. Add a job with cron_add; its prompt is all that the agent knows at the due time. Say "
    "the time zone where the user's is known. A refusal says what to write instead. To do queued "
    "tasks, register with task_session_register, then claim with task_next; subscribe to the "
    "resource of your session to be told when something waits for it."
)

_DESTRUCTIVE = {"cron_update", "cron_remove", "cron_cancel"}
_TWICE_IS_ONCE = {"cron_update", "cron_enable", "cron_disable", "task_heartbeat"} | {
    "task_session_register",
    "task_session_report",
}
_OF_OTHERS = {"cron_trigger", "task_next"}
"""Tools that lead to what is not Daybook's own."""
_WAITS = {"task_next"}
"""Tools that may wait, and do something then: not for who has gone."""


def make(whose: Whose, sessions: Sessions, *, keeps: bool) -> Server[Any]:
    """A server that does what each request asks for as ``whose`` of it.

    ``keeps``: a connection stays after a request, so that a client of before 2026-07-28 can be
    told something.
    """

    async def listed(_: Context, __: PaginatedRequestParams | None) -> ListToolsResult:
        return ListToolsResult(tools=[_listed(each) for each in toolbox.TOOLS])

    async def called(context: Context, params: CallToolRequestParams) -> CallToolResult:
        with acting_as(whose(context)):
            work = toolbox.call(params.name, params.arguments)
            answer = await (_for_who_is_there(context, work) if params.name in _WAITS else work)
        text = TextContent(type="text", text=answer.text)
        return CallToolResult(content=[text], is_error=answer.refused)

    return Server(
        NAME,
        version=__version__,
        title="Daybook",
        instructions=INSTRUCTIONS,
        on_list_tools=listed,
        on_call_tool=called,
        on_list_resources=sessions.listed,
        on_read_resource=sessions.read,
        on_subscriptions_listen=sessions.listen,
        on_subscribe_resource=sessions.subscribe if keeps else None,
        on_unsubscribe_resource=sessions.unsubscribe if keeps else None,
    )


async def _for_who_is_there(context: Context, work: Awaitable[ToolAnswer]) -> ToolAnswer:
    """The answer of ``work``, which is ended where its request's client goes.

    Where there is no request there is one client, and its end is the server's.
    """
    request = context.request
    if request is None:
        return await work
    doing, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({doing, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        doing.cancel()  # once: it has connections to close
        await asyncio.wait({doing, gone})
    return ToolAnswer("the client has gone", refused=True) if doing.cancelled() else doing.result()


async def _gone(request: Any) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _listed(tool: Tool) -> Listed:
    about = ToolAnnotations(
        read_only_hint=tool.read_only,
        destructive_hint=tool.name in _DESTRUCTIVE,
        idempotent_hint=tool.read_only or tool.name in _TWICE_IS_ONCE,
        open_world_hint=tool.name in _OF_OTHERS,
    )
    return Listed(
        name=tool.name,
        description=tool.description,
        input_schema=tool.schema,
        annotations=about,
    )
