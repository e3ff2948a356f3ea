"""Requests of a Prefect client: their numbers, and test code that runs between them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import httpx
from prefect.client.orchestration import PrefectClient

READS = ("/filter", "/csrf-token")
"""Path endings of requests that are no GET but change nothing."""

Hook = Callable[[], Awaitable[object]]


class Died(Exception):
    """Raised where a test lets the process die."""


async def dies() -> None:
    raise Died


@dataclass
class Traffic:
    """The requests of a client.

    ``before`` and ``after`` run test code between two requests. They are keyed by the last word of
    the request's path, and each is called once.
    """

    requests: Counter[str] = field(default_factory=Counter)
    """Number of requests, by the last word of the path."""
    writes: Counter[str] = field(default_factory=Counter)
    """Number of writes, by method and path without ids."""
    before: dict[str, Hook] = field(default_factory=dict)
    after: dict[str, Hook] = field(default_factory=dict)
    deadly: bool = False
    """Whether the process dies at each new kind of write, after Prefect has done it."""
    deaths: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, client: PrefectClient) -> Traffic:
        traffic = cls()
        client._client.event_hooks = {
            "request": [traffic._sent],
            "response": [traffic._answered],
        }
        return traffic

    async def _sent(self, request: httpx.Request) -> None:
        path = request.url.path
        name = path.rpartition("/")[2]
        self.requests[name] += 1
        if request.method != "GET" and not path.endswith(READS):
            parts = ["…" if len(part) == 36 else part for part in path.split("/")]
            self.writes[f"{request.method} {'/'.join(parts[2:])}"] += 1
        if name in self.before:
            await self.before.pop(name)()

    async def _answered(self, response: httpx.Response) -> None:
        name = response.request.url.path.rpartition("/")[2]
        if name in self.after:
            await self.after.pop(name)()
        if not self.deadly or name == "filter" or response.request.method == "GET":
            return
        keyed = json.loads(response.request.content or "{}").get("idempotency_key", "")
        write = f"{response.request.url.path} {keyed}"
        if response.is_success and write not in self.deaths:
            self.deaths.add(write)
            raise Died
