"""Task sessions as MCP resources: `daybook://task-sessions/<name>`, listed, read and subscribed to.

::

    2026-07-28       subscriptions/listen ──► a stream of its own     stdio, HTTP
    before that      resources/subscribe ───► the one pipe            stdio

A subscribed client is notified when the session is woken (`wakes`). It may subscribe to its own
sessions only: a wake of one agent does not concern another.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
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
from daybook.mcp.wakes import Subscription, WakeNotifier
from daybook.owners import Actor, acting_as

if TYPE_CHECKING:
    from daybook.tasks.views import TaskSession

URI_PREFIX = "daybook://task-sessions/"

MAX_URIS = 20
"""Maximum resources of one stream."""

MAX_BUFFERED_EVENTS = 8
"""Maximum events that wait for a client that does not read; then its stream ends, and the client
has to subscribe again."""

_JSON = "application/json"

Context = ServerRequestContext[Any]
ActorOf = Callable[[Context], Actor]
MayContinue = Callable[[Context], Awaitable[bool]]
Result = TypeVar("Result")


async def always_allowed(_: Context) -> bool:
    """Allow the client: the pipe has only one."""
    return True


class SessionResources:
    """Handlers of one server. ``may_continue`` returns whether a client may keep its stream."""

    def __init__(
        self, whose: ActorOf, wakes: WakeNotifier, may_continue: MayContinue = always_allowed
    ) -> None:
        self._actor_of, self._wakes, self._may_continue = whose, wakes, may_continue
        self._subscribed: dict[str, AsyncExitStack] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def listed(
        self, context: Context, _: PaginatedRequestParams | None
    ) -> ListResourcesResult:
        from daybook.api import tasks

        with acting_as(self._actor_of(context)):
            rows = await _translate_errors(tasks.list_sessions())
        return ListResourcesResult(resources=[_resource(each) for each in rows])

    async def read(self, context: Context, params: ReadResourceRequestParams) -> ReadResourceResult:
        from daybook.api import tasks

        with acting_as(self._actor_of(context)):
            row = await self._find(params.uri)
            waits = await _translate_errors(tasks.is_claimable(row.name))
        content = row.model_dump(mode="json") | {"something_waits": waits}
        text = json.dumps(content, ensure_ascii=False)
        contents = TextResourceContents(uri=params.uri, mime_type=_JSON, text=text)
        return ReadResourceResult(contents=[contents])

    async def listen(
        self, context: Context, params: SubscriptionsListenRequestParams
    ) -> SubscriptionsListenResult:
        """Serve a stream that ends when its client disconnects or may no longer have it.

        A stream without resources is refused: it would occupy a slot for nothing.
        """
        uris = list(dict.fromkeys(params.notifications.resource_subscriptions or []))
        if not uris:
            message = (
                f"subscribe to the resource of one of your sessions ({URI_PREFIX}…); "
                "other resources send no notifications"
            )
            raise MCPError(INVALID_PARAMS, message)
        if len(uris) > MAX_URIS:
            raise MCPError(INVALID_PARAMS, f"a stream covers at most {MAX_URIS} resources")
        bus = InMemorySubscriptionBus()

        async def notify(uri: str) -> None:
            await bus.publish(ResourceUpdated(uri))

        stream = ListenHandler(bus, max_buffered_events=MAX_BUFFERED_EVENTS)
        subscription = await self._subscription(context, uris, notify, stream.close)
        # No other notification ever occurs.
        notifications = SubscriptionFilter(resource_subscriptions=list(subscription.uris.values()))
        async with _subscribed_for(self._wakes, subscription):
            return await stream(context, params.model_copy(update={"notifications": notifications}))

    async def subscribe(self, context: Context, params: SubscribeRequestParams) -> EmptyResult:
        if params.uri not in self._subscribed:
            notify, end = (
                context.session.send_resource_updated,
                partial(self._unsubscribe_soon, params.uri),
            )
            subscription = await self._subscription(context, [params.uri], notify, end)
            stack = AsyncExitStack()
            await stack.enter_async_context(_subscribed_for(self._wakes, subscription))
            self._subscribed[params.uri] = stack
        return EmptyResult()

    async def unsubscribe(self, _: Context, params: UnsubscribeRequestParams) -> EmptyResult:
        await self._unsubscribe(params.uri)
        return EmptyResult()

    async def close(self) -> None:
        """Remove all subscriptions: the client has disconnected."""
        for uri in list(self._subscribed):
            await self._unsubscribe(uri)

    # --- helpers of one request

    async def _find(self, uri: str) -> TaskSession:
        """Find the session of that URI, if the actor may see it. Raises `MCPError`."""
        from daybook.api import tasks

        name = unquote(uri.removeprefix(URI_PREFIX)) if uri.startswith(URI_PREFIX) else ""
        try:
            return await tasks.find_session(name)
        except NotFound:
            raise MCPError(INVALID_PARAMS, f"there is no resource {uri[:200]!r}") from None
        except DaybookError as error:
            raise MCPError(INTERNAL_ERROR, str(error)) from None

    async def _subscription(
        self,
        context: Context,
        wanted: Iterable[str],
        notify: Callable[[str], Awaitable[None]],
        end: Callable[[], None],
    ) -> Subscription:
        """Build a subscription to these sessions; raises `MCPError` for one of another owner."""
        actor, uris = self._actor_of(context), {}
        with acting_as(actor):
            for each in wanted:
                row = await self._find(each)
                if row.owner != actor.owner:  # the operator sees it, but is not notified
                    owner = row.owner
                    raise MCPError(INVALID_PARAMS, f"{row.name!r} is the session of {owner}")
                uris[row.id] = each
        return Subscription(actor, uris, notify, partial(self._may_continue, context), end)

    def _unsubscribe_soon(self, uri: str) -> None:
        self._ending.add(task := asyncio.create_task(self._unsubscribe(uri)))
        task.add_done_callback(self._ending.discard)

    async def _unsubscribe(self, uri: str) -> None:
        if (stack := self._subscribed.pop(uri, None)) is not None:
            await stack.aclose()


@asynccontextmanager
async def _subscribed_for(wakes: WakeNotifier, held: Subscription) -> AsyncIterator[None]:
    """Hold a subscription as `WakeNotifier.holding` does, with errors of the protocol."""
    async with AsyncExitStack() as stack:
        await _translate_errors(stack.enter_async_context(wakes.holding(held)))
        yield


async def _translate_errors(work: Awaitable[Result]) -> Result:
    """Await ``work``, and raise Daybook's errors as errors of the protocol."""
    try:
        return await work
    except NotFound as error:
        raise MCPError(INVALID_PARAMS, str(error)) from None
    except DaybookError as error:
        raise MCPError(INTERNAL_ERROR, str(error)) from None


def session_uri(name: str) -> str:
    """Return the URI of the session with this name."""
    return URI_PREFIX + quote(name, safe="")


def _resource(found: TaskSession) -> Resource:
    names = ", ".join(found.capabilities) or "none"
    return Resource(
        name=found.name,
        uri=session_uri(found.name),
        description=f"Task session of {found.agent or found.owner}; capabilities: {names}",
        mime_type=_JSON,
    )
