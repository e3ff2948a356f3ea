"""The MCP resources of features: list, read, subscribe.

::

    2026-07-28       subscriptions/listen ──► a stream of its own     stdio, HTTP
    before that      resources/subscribe ───► the one pipe            stdio

Each feature with resources has a class of `Resources`; its URIs begin with a prefix of its own, by
which `AllResources` finds it. A stream has the resources of one feature.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from mcp.server.context import ServerRequestContext
from mcp_types import (
    EmptyResult,
    ListResourcesResult,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    ReadResourceResult,
    SubscribeRequestParams,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
    UnsubscribeRequestParams,
)

from daybook import feature
from daybook.feature import Feature
from daybook.owners import Actor

if TYPE_CHECKING:
    from daybook.ledger.engine import Ledger

Context = ServerRequestContext[Any]


async def always_allowed(_: Context) -> bool:
    """Return True, because the only client of a pipe may always stay subscribed."""
    return True


@dataclass(frozen=True)
class Clients:
    """The clients of a server.

    ``actor_of`` returns the actor of a request, and ``may_continue`` whether its client may keep
    its stream. There are at most ``max_streams`` concurrent subscriptions, and at most
    ``max_streams_per_owner`` for each owner. ``open_ledger`` opens the ledger.
    """

    actor_of: Callable[[Context], Actor]
    open_ledger: Callable[[], AbstractAsyncContextManager[Ledger]]
    max_streams: int
    max_streams_per_owner: int
    may_continue: Callable[[Context], Awaitable[bool]] = always_allowed


class Resources(ABC):
    """The resources of a feature for the clients of a server. Each method handles a request.

    ``uri_prefix`` is the start of all URIs. ``instructions`` are sentences for the models of the
    clients.
    """

    uri_prefix: ClassVar[str]
    instructions: ClassVar[str] = ""

    @abstractmethod
    def __init__(self, clients: Clients) -> None: ...

    @abstractmethod
    async def listed(
        self, context: Context, params: PaginatedRequestParams | None
    ) -> ListResourcesResult:
        """Return the resources that the actor can see."""

    @abstractmethod
    async def read(self, context: Context, params: ReadResourceRequestParams) -> ReadResourceResult:
        """Return a resource. Raise `MCPError` if the actor cannot see it."""

    @abstractmethod
    async def listen(
        self, context: Context, params: SubscriptionsListenRequestParams
    ) -> SubscriptionsListenResult:
        """Serve a stream until its client disconnects or is no longer allowed to have it."""

    @abstractmethod
    async def subscribe(self, context: Context, params: SubscribeRequestParams) -> EmptyResult:
        """Notify the client of changes of a resource, over the connection of this request."""

    @abstractmethod
    async def unsubscribe(
        self, context: Context, params: UnsubscribeRequestParams
    ) -> EmptyResult: ...

    @abstractmethod
    def end(self) -> None:
        """End all streams, because the server stops."""

    @abstractmethod
    async def close(self) -> None:
        """Remove the subscriptions of `subscribe`, because the client has disconnected."""


class AllResources:
    """The resources of all features, for the clients of one server."""

    def __init__(self, clients: Clients) -> None:
        self._features = dict[Resources, Feature]()
        for each in feature.features():
            if each.resources:
                with feature.leaving_out(each, "resources"):
                    self._features[each.load(each.resources)(clients)] = each
        self._all = list(self._features)

    def __bool__(self) -> bool:
        return bool(self._all)

    @property
    def instructions(self) -> str:
        return " ".join(each.instructions for each in self._all if each.instructions)

    async def listed(
        self, context: Context, params: PaginatedRequestParams | None
    ) -> ListResourcesResult:
        found = ListResourcesResult(resources=[])
        for each in self._all:
            with feature.leaving_out(self._features[each], "resources"):
                found.resources += (await each.listed(context, params)).resources
        return found

    async def read(self, context: Context, params: ReadResourceRequestParams) -> ReadResourceResult:
        return await self._of(params.uri).read(context, params)

    async def listen(
        self, context: Context, params: SubscriptionsListenRequestParams
    ) -> SubscriptionsListenResult:
        uris = params.notifications.resource_subscriptions or [""]
        return await self._of(uris[0]).listen(context, params)

    async def subscribe(self, context: Context, params: SubscribeRequestParams) -> EmptyResult:
        return await self._of(params.uri).subscribe(context, params)

    async def unsubscribe(self, context: Context, params: UnsubscribeRequestParams) -> EmptyResult:
        return await self._of(params.uri).unsubscribe(context, params)

    def end(self) -> None:
        """End all streams, because the server stops."""
        for each in self._all:
            each.end()

    async def close(self) -> None:
        """Remove all subscriptions of a pipe, because its client has disconnected."""
        for each in self._all:
            await each.close()

    def _of(self, uri: str) -> Resources:
        """Return the resources with this URI. For an unknown URI, return any: they refuse it."""
        return next((each for each in self._all if uri.startswith(each.uri_prefix)), self._all[0])
