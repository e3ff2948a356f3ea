"""Whether this process is the leader, and a client of Prefect that asks before it writes (rule 16).

::

    stands by ──acquire──► leads ──renew, in time──► leads
        ▲                    │
        ├── release, rest ───┤  given back
        ├── a no ────────────┤  another has it
        └── no renewal for ──┘  nearly a lease: another may have it
            so long

A process that was stopped, or whose renewals hang, does not know that it leads no more: right
before each write in Prefect `Lead.check` asks the ledger. What was sent a moment before the lead
was lost is no harm, because it is keyed or derived again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import time
import uuid
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, NoReturn

import httpx
from prefect.client.orchestration import PrefectClient, get_client

from daybook.errors import LeadLost, LedgerUnreachable
from daybook.keeper import leadership
from daybook.ledger.engine import Ledger
from daybook.timing import TIMING

log = logging.getLogger(__name__)

NAME = "keeper"

_READS = re.compile(r"/(filter|paginate|count|history|get_scheduled_flow_runs|health|hello)/?$")
"""What is asked by POST."""
_GATEWAYS = (502, 504)
"""What one in front of Prefect answers when it does not reach it."""


def new_holder() -> str:
    """The name of this process in leads and leases, of this life alone."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


class Lead:
    """The lead of one process; ``holder`` is its name, of this life alone.

    ``note`` is asked at each renewal for what to tell of this leader (`leads.Leader.note`).
    """

    def __init__(
        self,
        ledger: Ledger,
        holder: str,
        *,
        name: str = NAME,
        note: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        self._ledger, self._name, self._note = ledger, name, note
        self.holder = holder
        self._fence: int | None = None
        self._until = self._rests_until = 0.0
        self._led, self._over = asyncio.Event(), asyncio.Event()
        self._stirred = asyncio.Event()
        self.heard_at = time.monotonic()
        """When Prefect answered last, by this process's own clock."""

    @property
    def fence(self) -> int | None:
        """Of this leadership; None while it does not lead, as far as it knows."""
        return self._fence if time.monotonic() < self._until else None

    async def led(self) -> int:
        """Wait until it leads; the fence."""
        while (fence := self.fence) is None:
            self._led.clear()
            await self._led.wait()
        return fence

    async def followed(self) -> None:
        """Wait until it leads no more, as far as it knows: refused by the ledger, or given back."""
        while self._fence is not None:
            self._over.clear()
            await self._over.wait()

    async def keep(self) -> NoReturn:
        """Take the lead when it is free, and keep it, until cancelled."""
        while True:
            self._stirred.clear()
            try:
                pause = await self._turn()
            except LedgerUnreachable as error:
                log.warning("the lead is not kept: %s", error, extra={"action": "lead_unreachable"})
                pause = TIMING.leader_check.total_seconds()
            except Exception:
                log.exception("the lead is not kept", extra={"action": "lead_failed"})
                pause = TIMING.leader_check.total_seconds()
            try:
                async with asyncio.timeout(pause):
                    await self._stirred.wait()
            except TimeoutError:
                pass

    async def _turn(self) -> float:
        """Acquire, renew or look; how long to wait until the next turn."""
        if self._fence is not None:
            asked = time.monotonic()
            if await leadership.renew(self._ledger, self._name, self._fence, self._note()):
                self._has_it(asked)
                return TIMING.leader_lease_renewal.total_seconds()
            self._lost()
        if (rest := self._rests_until - time.monotonic()) > 0:
            return rest
        asked = time.monotonic()
        fence = await leadership.acquire(self._ledger, self._name, self.holder)
        if fence is None:
            return TIMING.leader_check.total_seconds()
        log.info("%s leads", self.holder, extra={"action": "lead_acquired"})
        self._fence = fence
        self._has_it(asked)
        return 0.0  # renewed at once: so it tells of itself

    def _has_it(self, asked: float) -> None:
        self._until = asked + TIMING.leader_trust.total_seconds()
        self._led.set()

    def _lost(self) -> None:
        if self._fence is not None:
            log.warning("%s leads no more", self.holder, extra={"action": "lead_lost"})
        self._fence = None
        self._over.set()

    async def check(self) -> None:
        """Raise `LeadLost` unless the ledger says that this process leads now."""
        fence = self.fence
        if fence is None or not await leadership.check(self._ledger, self._name, fence):
            raise LeadLost(self.holder)

    async def release(self, rest: float = 0.0) -> None:
        """Give the lead back, and do not ask for it again for ``rest`` seconds.

        Where the ledger cannot be reached it runs out by itself.
        """
        fence, self._fence = self._fence, None
        self._rests_until = time.monotonic() + rest
        self._over.set()
        self._stirred.set()
        if fence is not None:
            try:
                await leadership.release(self._ledger, self._name, fence)
            except LedgerUnreachable as error:
                log.warning(
                    "the lead is not given back: %s", error, extra={"action": "lead_unreachable"}
                )


requests: ContextVar[list[int]] = ContextVar("requests")
"""A list with the number of requests that the pass of this task has sent."""


def client_of(lead: Lead) -> PrefectClient:
    """A client whose writes are refused with `LeadLost` when ``lead`` is lost; not entered yet."""

    async def asks_first(request: httpx.Request) -> None:
        if counted := requests.get(None):
            counted[0] += 1
        if is_write(request.method, request.url.path):
            await lead.check()

    async def hears(response: httpx.Response) -> None:
        if response.status_code not in _GATEWAYS:
            lead.heard_at = time.monotonic()

    hooks = {"request": [asks_first], "response": [hears]}
    return get_client(httpx_settings={"event_hooks": hooks})


def is_write(method: str, path: str) -> bool:
    """Whether such a request may change something in Prefect."""
    if method == "POST":
        return not _READS.search(path)
    return method not in ("GET", "HEAD", "OPTIONS")
