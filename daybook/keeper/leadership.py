"""Leadership of this process, and a Prefect client that checks it before each write.

Promise 16: the keeper leads by a lease, and each of its Prefect writes has an idempotency key or is
recomputed from the ledger.

::

    stands by ──acquire──► leads ──renew, in time──► leads
        ▲                    │
        ├── released ────────┤  by this process, which then waits
        ├── refused ─────────┤  another process leads
        └── not renewed for ─┘  `Timing.leader_trust`: another process may lead

A process that was suspended, or whose renewals hang, may have lost the leadership unnoticed. So
`Leadership.check` reads the ledger right before each write in Prefect. A write that was sent just
before the loss is harmless, because it has an idempotency key or is recomputed from the ledger.
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

from daybook.errors import LeadershipLost, LedgerUnreachable
from daybook.keeper import leader_lease
from daybook.keeper.leader_lease import LEADERSHIP_NAME
from daybook.ledger.engine import Ledger
from daybook.runs import workers
from daybook.timing import TIMING

log = logging.getLogger(__name__)


_READS = re.compile(r"/(filter|paginate|count|history|get_scheduled_flow_runs|health|hello)/?$")
"""Paths of POST requests that only read."""
_GATEWAY_ERRORS = (502, 504)
"""Status codes with which a proxy reports that it does not reach Prefect."""


def new_holder(worker: str = "") -> str:
    """Return a new, globally unique name that identifies this process in leases.

    It ends with the name of the ``worker``, if any (`Run.worker`). Only the name as a whole
    identifies a holder: a worker that is started again has the same name in another holder, and the
    leases of its earlier process are not its own.
    """
    holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    name = workers.plain_name(worker)
    return f"{holder}:{name}" if name else holder


class Leadership:
    """Leadership of one process; ``holder`` is the process's unique name (`new_holder`).

    ``note`` is called at each renewal and returns the data about this leader that `daybook status`
    shows (`leader_lease.Leader.note`).
    """

    def __init__(
        self, ledger: Ledger, holder: str, *, note: Callable[[], dict[str, Any]] = dict
    ) -> None:
        self._ledger, self._note = ledger, note
        self.holder = holder
        self._fence: int | None = None
        self._until = self._not_before = 0.0
        self._gained, self._ended = asyncio.Event(), asyncio.Event()
        self._wake_up = asyncio.Event()
        self.last_answer_at = time.monotonic()
        """Monotonic time of Prefect's last answer, or of a later start or end of leadership."""

    @property
    def fence(self) -> int | None:
        """Return the fencing token of this term; None unless this process is surely the leader."""
        return self._fence if time.monotonic() < self._until else None

    async def wait_until_leading(self) -> int:
        """Wait until this process leads; return the fencing token."""
        while (fence := self.fence) is None:
            self._gained.clear()
            await self._gained.wait()
        return fence

    async def wait_until_not_leading(self) -> None:
        """Wait until the ledger refuses a renewal, or the leadership is released."""
        while self._fence is not None:
            self._ended.clear()
            await self._ended.wait()

    async def keep(self) -> NoReturn:
        """Acquire the leadership when it is free, and renew it, until cancelled."""
        while True:
            self._wake_up.clear()
            try:
                pause = await self._turn()
            except LedgerUnreachable as error:
                log.warning(
                    "Could not acquire or renew leadership: %s",
                    error,
                    extra={"action": "leadership_unreachable"},
                )
                pause = TIMING.leader_check.total_seconds()
            except Exception:
                log.exception(
                    "Could not acquire or renew leadership", extra={"action": "leadership_failed"}
                )
                pause = TIMING.leader_check.total_seconds()
            try:
                async with asyncio.timeout(pause):
                    await self._wake_up.wait()
            except TimeoutError:
                pass

    async def _turn(self) -> float:
        """Renew the leadership, or try to acquire it; return the seconds until the next turn."""
        if self._fence is not None:
            sent_at = time.monotonic()
            if await leader_lease.renew(self._ledger, LEADERSHIP_NAME, self._fence, self._note()):
                self._extend(sent_at)
                return TIMING.leader_lease_renewal.total_seconds()
            self._lost()
        if (delay := self._not_before - time.monotonic()) > 0:
            return delay
        sent_at = time.monotonic()
        fence = await leader_lease.acquire(self._ledger, LEADERSHIP_NAME, self.holder)
        if fence is None:
            return TIMING.leader_check.total_seconds()
        log.info("%s leads", self.holder, extra={"action": "leadership_acquired"})
        self._fence = fence
        self._extend(sent_at)
        return 0.0  # renew at once, to store the note

    def _extend(self, sent_at: float) -> None:
        self._until = sent_at + TIMING.leader_trust.total_seconds()
        self._gained.set()

    def _lost(self) -> None:
        if self._fence is not None:
            log.warning("%s lost leadership", self.holder, extra={"action": "leadership_lost"})
        self._fence = None
        self._ended.set()

    async def check(self) -> None:
        """Raise `LeadershipLost` unless this process leads now, according to the ledger.

        Raise `LedgerUnreachable` if the ledger cannot be read.
        """
        fence = self.fence
        if fence is None or not await leader_lease.check(self._ledger, LEADERSHIP_NAME, fence):
            raise LeadershipLost(self.holder)

    async def release(self, rest: float = 0.0) -> None:
        """Release the leadership, and do not acquire it again for ``rest`` seconds.

        If the release fails, log the error and let the lease expire instead.
        """
        fence, self._fence = self._fence, None
        self._not_before = time.monotonic() + rest
        self._ended.set()
        self._wake_up.set()
        if fence is not None:
            try:
                await leader_lease.release(self._ledger, LEADERSHIP_NAME, fence)
            except LedgerUnreachable as error:
                log.warning(
                    "Could not release leadership: %s",
                    error,
                    extra={"action": "leadership_unreachable"},
                )
            except Exception:
                log.exception("Could not release leadership", extra={"action": "leadership_failed"})


request_count: ContextVar[list[int]] = ContextVar("requests")
"""List with one element, the number of requests that the current task's cycle has sent."""


def leader_client(lead: Leadership) -> PrefectClient:
    """Return a client, not opened yet, that checks the leadership ``lead`` before each write.

    If the check raises an error, the client raises the same error and does not send the write. The
    client counts its requests in `request_count`, and records in ``lead`` when Prefect answers.
    """

    async def check_leadership(request: httpx.Request) -> None:
        if counted := request_count.get(None):
            counted[0] += 1
        if is_write(request.method, request.url.path):
            await lead.check()

    async def note_answer(response: httpx.Response) -> None:
        if response.status_code not in _GATEWAY_ERRORS:
            lead.last_answer_at = time.monotonic()

    hooks = {"request": [check_leadership], "response": [note_answer]}
    return get_client(httpx_settings={"event_hooks": hooks})


def is_write(method: str, path: str) -> bool:
    """Return whether a request with this method and path may change something in Prefect."""
    if method == "POST":
        return not _READS.search(path)
    return method not in ("GET", "HEAD", "OPTIONS")
