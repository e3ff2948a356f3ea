"""Task sessions as MCP resources `daybook://task-sessions/<name>`: list, read, subscribe.

::

    2026-07-28       subscriptions/listen ──► a stream of its own     stdio, HTTP
    before that      resources/subscribe ───► the one pipe            stdio

When Daybook wakes a session, the server notifies the clients that have subscribed to the session
(`wakes`). A client may subscribe only to sessions of its actor, because a wake of one agent does
not concern another agent.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, unquote

from mcp.server.subscriptions import (
    InMemorySubscriptionBus,
    ListenHandler,
    ResourceUpdated,
    ServerEvent,
)
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
from daybook.features import tasks
from daybook.features.tasks.wake_notifier import Subscription, WakeNotifier
from daybook.mcp.resources import Clients, Context, Resources
from daybook.owners import acting_as

if TYPE_CHECKING:
    from daybook.features.tasks.views import TaskSession

URI_PREFIX = "daybook://task-sessions/"

MAX_URIS = 20
"""Maximum number of resources of one stream."""

MAX_BUFFERED_EVENTS = 2 * MAX_URIS
"""Maximum number of events buffered for a client that does not read.

If there are more events, the client's stream ends, and the client has to subscribe again. Before
the handler of a stream runs, all sessions of the stream may be woken, and some of them twice. A
wake counts as delivered as soon as it is buffered, so these wakes must not end the stream.
"""

_JSON = "application/json"

Result = TypeVar("Result")


class SessionResources(Resources):
    """Task sessions, for the clients of one server."""

    uri_prefix = URI_PREFIX
    instructions = (
        "To do queued tasks, call task_session_register, then task_next; subscribe to the resource "
        "of your session to be notified when a task waits for it."
    )

    def __init__(self, clients: Clients, wakes: WakeNotifier | None = None) -> None:
        self._actor_of, self._may_continue = clients.actor_of, clients.may_continue
        self._wakes = wakes or WakeNotifier(
            clients.open_ledger, clients.max_streams, clients.max_streams_per_owner
        )
        self._subscribed: dict[str, AsyncExitStack] = {}
        self._changing = asyncio.Lock()
        """Lock for `_subscribed`, because requests of a pipe are handled concurrently."""
        self._ending: set[asyncio.Task[None]] = set()

    async def listed(
        self, context: Context, _: PaginatedRequestParams | None
    ) -> ListResourcesResult:
        with acting_as(self._actor_of(context)):
            rows = await _translate_errors(tasks.operations.list_sessions())
        return ListResourcesResult(resources=[_resource(each) for each in rows])

    async def read(self, context: Context, params: ReadResourceRequestParams) -> ReadResourceResult:
        with acting_as(self._actor_of(context)):
            row = await self._find(params.uri)
            waits = await _translate_errors(tasks.operations.is_claimable(row.name))
        content = row.model_dump(mode="json") | {"something_waits": waits}
        text = json.dumps(content, ensure_ascii=False)
        contents = TextResourceContents(uri=params.uri, mime_type=_JSON, text=text)
        return ReadResourceResult(contents=[contents])

    async def listen(
        self, context: Context, params: SubscriptionsListenRequestParams
    ) -> SubscriptionsListenResult:
        """Serve a stream of the wakes of sessions.

        Raise `MCPError` for a stream without resources, which would use one of the allowed streams
        for nothing. Raise it also, for example, for too many resources or for a session of another
        owner.
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
        bus = _StreamBus()

        async def notify(uri: str) -> None:
            await bus.publish(ResourceUpdated(uri))

        stream = ListenHandler(bus, max_buffered_events=MAX_BUFFERED_EVENTS)
        subscription = await self._subscription(context, uris, notify, stream.close)
        # The server sends no other kind of notification.
        notifications = SubscriptionFilter(resource_subscriptions=list(subscription.uris.values()))
        async with _subscribed_for(self._wakes, subscription):
            return await stream(context, params.model_copy(update={"notifications": notifications}))

    async def subscribe(self, context: Context, params: SubscribeRequestParams) -> EmptyResult:
        async with self._changing:
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

    def end(self) -> None:
        self._wakes.end()

    async def close(self) -> None:
        for uri in list(self._subscribed):
            await self._unsubscribe(uri)

    # --- helpers of one request

    async def _find(self, uri: str) -> TaskSession:
        """Return the session with this URI. Raise `MCPError` if the actor cannot see it."""
        name = unquote(uri.removeprefix(URI_PREFIX)) if uri.startswith(URI_PREFIX) else ""
        try:
            return await tasks.operations.find_session(name)
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
        """Build a subscription to the sessions with the URIs ``wanted``.

        Raise `MCPError`, for example for a session of another owner.
        """
        actor, uris = self._actor_of(context), {}
        with acting_as(actor):
            for each in wanted:
                row = await self._find(each)
                if row.owner != actor.owner:
                    # The operator can see the session, but gets no notifications of its wakes.
                    owner = row.owner
                    raise MCPError(INVALID_PARAMS, f"{row.name!r} belongs to {owner}")
                uris[row.id] = each
        return Subscription(actor, uris, notify, partial(self._may_continue, context), end)

    def _unsubscribe_soon(self, uri: str) -> None:
        self._ending.add(task := asyncio.create_task(self._unsubscribe(uri)))
        task.add_done_callback(self._ending.discard)

    async def _unsubscribe(self, uri: str) -> None:
        async with self._changing:
            if (stack := self._subscribed.pop(uri, None)) is not None:
                await stack.aclose()


class _StreamBus(InMemorySubscriptionBus):
    """Bus of one stream. An event that is published before the stream opens waits until it opens.

    The sessions of a stream count as connected shortly before the stream opens. If events did not
    wait, a wake at that time would reach no listener, but would count as delivered.
    """

    def __init__(self) -> None:
        super().__init__()
        self._is_open = asyncio.Event()

    def subscribe(self, listener: Callable[[ServerEvent], None]) -> Callable[[], None]:
        self._is_open.set()
        return super().subscribe(listener)

    async def publish(self, event: ServerEvent) -> None:
        await self._is_open.wait()
        await super().publish(event)


@asynccontextmanager
async def _subscribed_for(wakes: WakeNotifier, held: Subscription) -> AsyncIterator[None]:
    """Enter `WakeNotifier.holding`, and raise its errors as `MCPError`."""
    async with AsyncExitStack() as stack:
        await _translate_errors(stack.enter_async_context(wakes.holding(held)))
        yield


async def _translate_errors(work: Awaitable[Result]) -> Result:
    """Await ``work`` and return its result. Raise Daybook's errors as `MCPError`."""
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
