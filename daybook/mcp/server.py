"""The MCP server for any transport. It lists the tools, and calls them for the request's actor.

It also serves the resources of features (`resources`).
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
from daybook.mcp.resources import AllResources, Clients, Context
from daybook.owners import acting_as
from daybook.toolbox import ToolAnswer

SERVER_NAME = "daybook"

INSTRUCTIONS = (
    "Daybook runs prompts, webhooks and tool calls on a schedule and records the outcome of each "
    "run. Add a job with cron_add; at the due time the agent knows only its prompt. Pass the "
    "user's time zone if you know it. An error says what to write instead."
)


def build_server(clients: Clients, resources: AllResources, *, keeps: bool) -> Server[Any]:
    """Return a server that handles each request as the actor that ``clients`` return for it.

    ``keeps`` is true if the connection stays open after a request. Only then can the server notify
    a client of a protocol version before 2026-07-28.
    """
    whose = clients.actor_of

    async def listed(context: Context, _: PaginatedRequestParams | None) -> ListToolsResult:
        return ListToolsResult(tools=[_listed(each) for each in toolbox.tools_of(whose(context))])

    async def called(context: Context, params: CallToolRequestParams) -> CallToolResult:
        with acting_as(whose(context)):
            work = toolbox.call(params.name, params.arguments)
            tool = toolbox.by_name().get(params.name)
            waits = tool is not None and tool.may_wait
            answer = await (_until_disconnected(context, work) if waits else work)
        text = TextContent(type="text", text=answer.text)
        return CallToolResult(content=[text], is_error=answer.refused)

    return Server(
        SERVER_NAME,
        version=__version__,
        title="Daybook",
        instructions=f"{INSTRUCTIONS} {resources.instructions}".strip(),
        on_list_tools=listed,
        on_call_tool=called,
        on_list_resources=resources.listed if resources else None,
        on_read_resource=resources.read if resources else None,
        on_subscriptions_listen=resources.listen if resources else None,
        on_subscribe_resource=resources.subscribe if resources and keeps else None,
        on_unsubscribe_resource=resources.unsubscribe if resources and keeps else None,
    )


async def _until_disconnected(context: Context, work: Awaitable[ToolAnswer]) -> ToolAnswer:
    """Return the result of ``work``, but cancel ``work`` if the client of the request disconnects.

    On stdio there is no request object. There the server has only one client, and ends when this
    client disconnects.
    """
    request = context.request
    if request is None:
        return await work
    task, disconnect = (
        asyncio.ensure_future(work),
        asyncio.ensure_future(_wait_for_disconnect(request)),
    )
    try:
        await asyncio.wait({task, disconnect}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        disconnect.cancel()
        task.cancel()  # cancel the task only once, because it has to close its connections
        await asyncio.wait({task, disconnect})
    return (
        ToolAnswer("the client disconnected", refused=True) if task.cancelled() else task.result()
    )


async def _wait_for_disconnect(request: Any) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _listed(tool: Tool) -> Listed:
    annotations = ToolAnnotations(
        read_only_hint=tool.read_only,
        destructive_hint=tool.destructive,
        idempotent_hint=tool.read_only or tool.idempotent,
        open_world_hint=tool.open_world,
    )
    return Listed(
        name=tool.name,
        description=tool.description,
        input_schema=tool.schema,
        annotations=annotations,
    )
