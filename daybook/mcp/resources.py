"""Task sessions as resources: `daybook://task-sessions/<name>`, listed, read, and subscribed to.

::

    2026-07-28       subscriptions/listen ──► a stream of its own     stdio, HTTP
    before that      resources/subscribe ───► the one pipe            stdio

Whoever subscribes is told when the session is woken (`wakes`). It is to be its own session: what
one agent is woken for concerns no other.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote, unquote

from mcp.server.context import ServerRequestContext
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ResourceUpdated
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    EmptyResult,
    ListResourcesResult,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    ReadResourceResult,
    Resource,
    SubscribeRequestParams,
    SubscriptionFilter,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
    TextResourceContents,
    UnsubscribeRequestParams,
)

from daybook.errors import DaybookError, NotFound
from daybook.mcp.wakes import Held, Wakes
from daybook.owners import Actor, acting_as

PREFIX = "daybook://task-sessions/"

URIS = 20
"""So many resources one stream may be of."""

BACKLOG = 8
"""So much may lie before a client that does not read; it is let go then, and asks anew."""

_JSON = "application/json"

Context = ServerRequestContext[Any]
Whose = Callable[[Context], Actor]
Still = Callable[[Context], Awaitable[bool]]
Answer = TypeVar("Answer")


async def always(_: Context) -> bool:
    """Whoever holds the pipe may."""
    return True


class Sessions:
    """The handlers of one server. ``still`` says whether the client of a stream may keep it."""

    def __init__(self, whose: Whose, wakes: Wakes, still: Still = always) -> None:
        self._whose, self._wakes, self._still = whose, wakes, still
        self._subscribed: dict[str, AsyncExitStack] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def listed(
        self, context: Context, _: PaginatedRequestParams | None
    ) -> ListResourcesResult:
        from daybook.api import tasks

        with acting_as(self._whose(context)):
            found = await _told(tasks.list_sessions())
        return ListResourcesResult(resources=[_resource(each) for each in found])

    async def read(self, context: Context, params: ReadResourceRequestParams) -> ReadResourceResult:
        from daybook.api import task_waits

        with acting_as(self._whose(context)):
            found = await self._found(params.uri)
            shown = found | {"something_waits": await _told(task_waits.is_claimable(found["name"]))}
        text = json.dumps(shown, ensure_ascii=False)
        contents = TextResourceContents(uri=params.uri, mime_type=_JSON, text=text)
        return ReadResourceResult(contents=[contents])

    async def listen(
        self, context: Context, params: SubscriptionsListenRequestParams
    ) -> SubscriptionsListenResult:
        """A stream that ends when its client goes, or may not have it any more.

        One of nothing would take a place for nothing.
        """
        wanted = list(dict.fromkeys(params.notifications.resource_subscriptions or []))
        if not wanted:
            told = f"name the resource of a session of yours ({PREFIX}…); nothing else changes here"
            raise MCPError(INVALID_PARAMS, told)
        if len(wanted) > URIS:
            raise MCPError(INVALID_PARAMS, f"a stream is of {URIS} resources at most")
        bus = InMemorySubscriptionBus()

        async def tell(uri: str) -> None:
            await bus.publish(ResourceUpdated(uri))

        stream = ListenHandler(bus, max_buffered_events=BACKLOG)
        held = await self._held(context, wanted, tell, stream.close)
        # Nothing else ever changes here.
        only = SubscriptionFilter(resource_subscriptions=list(held.uris.values()))
        async with _holding(self._wakes, held):
            return await stream(context, params.model_copy(update={"notifications": only}))

    async def subscribe(self, context: Context, params: SubscribeRequestParams) -> EmptyResult:
        if params.uri not in self._subscribed:
            tell, drop = context.session.send_resource_updated, partial(self._drop, params.uri)
            held = await self._held(context, [params.uri], tell, drop)
            stack = AsyncExitStack()
            await stack.enter_async_context(_holding(self._wakes, held))
            self._subscribed[params.uri] = stack
        return EmptyResult()

    async def unsubscribe(self, _: Context, params: UnsubscribeRequestParams) -> EmptyResult:
        await self._left(params.uri)
        return EmptyResult()

    async def close(self) -> None:
        """The client has gone."""
        for uri in list(self._subscribed):
            await self._left(uri)

    # --- of one request

    async def _found(self, uri: str) -> dict[str, Any]:
        """The session of that URI, whoever asks may see. Raises `MCPError`."""
        from daybook.api import tasks

        name = unquote(uri.removeprefix(PREFIX)) if uri.startswith(PREFIX) else ""
        try:
            return await tasks.find_session(name)
        except NotFound:
            raise MCPError(INVALID_PARAMS, f"there is no resource {uri[:200]!r}") from None
        except DaybookError as error:
            raise MCPError(INTERNAL_ERROR, str(error)) from None

    async def _held(
        self,
        context: Context,
        wanted: Iterable[str],
        tell: Callable[[str], Awaitable[None]],
        end: Callable[[], None],
    ) -> Held:
        """Who waits for these; raises `MCPError` for one that is not its own."""
        actor, uris = self._whose(context), {}
        with acting_as(actor):
            for each in wanted:
                found = await self._found(each)
                if found["owner"] != actor.owner:  # the operator sees it, and is not woken for it
                    owner = found["owner"]
                    raise MCPError(INVALID_PARAMS, f"{found['name']!r} is the session of {owner}")
                uris[found["id"]] = each
        return Held(actor, uris, tell, partial(self._still, context), end)

    def _drop(self, uri: str) -> None:
        self._ending.add(task := asyncio.create_task(self._left(uri)))
        task.add_done_callback(self._ending.discard)

    async def _left(self, uri: str) -> None:
        if (stack := self._subscribed.pop(uri, None)) is not None:
            await stack.aclose()


@asynccontextmanager
async def _holding(wakes: Wakes, held: Held) -> AsyncIterator[None]:
    """As `Wakes.holding`, for the wire."""
    async with AsyncExitStack() as stack:
        await _told(stack.enter_async_context(wakes.holding(held)))
        yield


async def _told(work: Awaitable[Answer]) -> Answer:
    """What Daybook refuses, in its words."""
    try:
        return await work
    except NotFound as error:
        raise MCPError(INVALID_PARAMS, str(error)) from None
    except DaybookError as error:
        raise MCPError(INTERNAL_ERROR, str(error)) from None


def uri(name: str) -> str:
    """That of the session of this name."""
    return PREFIX + quote(name, safe="")


def _resource(found: dict[str, Any]) -> Resource:
    has = ", ".join(found["capabilities"]) or "none"
    return Resource(
        name=found["name"],
        uri=uri(found["name"]),
        description=f"Task session of {found['agent'] or found['owner']}; capabilities: {has}",
        mime_type=_JSON,
    )
