"""How the scheduler is, for a monitor that asks every few seconds (requirement 59).

::

    ask ──► looked at less than `FRESH` ago? ── yes ──► that
                 │ no
                 ▼
            one look for all who ask ── answers within `PATIENCE` ──► its figures
                 ├── not for the first time ──► the figures of the look before
                 └── twice in a row ──► LedgerUnreachable; the look goes on, nobody begins another

The look is made in a thread of its own, so neither a ledger that hangs nor a thousand overdue jobs
delay an answer, and it is not made twice. What a job's runs come to is its
owner's matter: a job that fails is a figure, and no fault of the scheduler's.

Nothing here imports Prefect, and nothing depends on it: whether it answers is told beside.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Iterable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from daybook import home as homes
from daybook.api import task_scheduler, views
from daybook.api.overdue import LEAD, cannot_write, observed_at
from daybook.clock import Clock
from daybook.delivery import sending
from daybook.errors import DaybookError, LedgerUnreachable
from daybook.keeper import leadership
from daybook.keeper.leadership import Leader
from daybook.ledger.engine import Ledger
from daybook.operations.shared_query import LoopThread, Shared
from daybook.runs import counts as figures
from daybook.runs import overdue
from daybook.runs.overdue import Overdue
from daybook.schedules.descriptions import span
from daybook.tasks import views as task_figures
from daybook.tasks.views import Figures as TaskFigures
from daybook.timing import TIMING

log = logging.getLogger(__name__)

FRESH = 2.0
"""Seconds for which a look is told again."""
PATIENCE = 1.5
"""Seconds that an answer is waited for."""
PREFECT_FRESH = 10.0

SOON = timedelta(minutes=5)
DAY = timedelta(days=1)
OVERLAP = timedelta(seconds=30)
"""So far back each look goes for outcomes: one is written a moment after its time."""
MOST_FAILING = 100
"""So many failing jobs are named."""
NAMED = 3
"""So many of what is overdue are named in words."""


@dataclass(frozen=True)
class Figures:
    """What one look has found. Of ``late``, `overdue` is what no limit of the operator's keeps.

    ``ended`` counts the outcomes that were written since the watch began, ``ended_last_day`` those
    of the last 24 hours; a range of missed due times counts each of them.
    """

    at: datetime
    ledger_id: str
    ahead: timedelta
    jobs: dict[bool, int]
    due_soon: int
    late: list[Overdue]
    live: dict[str, int]
    ended: dict[str, int]
    ended_last_day: dict[str, int]
    failing: dict[str, int]
    outbox: dict[str, Any]
    leader: Leader | None
    tasks: TaskFigures
    unwritable: str
    """Why the ledger cannot be written; looked at only while nobody leads."""

    @property
    def overdue(self) -> list[Overdue]:
        return [each for each in self.late if each.overdue_since <= self.at]

    @property
    def led(self) -> bool:
        return self.leader is not None and self.leader.leads(self.at)

    @property
    def renewed_ago(self) -> timedelta | None:
        """How long ago the keeper's lead was renewed, or given back; None when nobody ever led."""
        if self.leader is None:
            return None
        lease = TIMING.leader_lease if self.leader.holder else timedelta(0)
        return self.at - (self.leader.until - lease)

    @property
    def observed_ago(self) -> timedelta | None:
        """How long ago the last complete look at Prefect began; None when that is not known."""
        seen = observed_at(self.leader) if self.leader else None
        return None if seen is None else self.at - seen


@dataclass
class _Ended:
    """Outcomes as they are written: a count that only rises, whatever is pruned.

    A range of missed due times that has grown counts what it has grown by.
    """

    since: datetime
    total: Counter[str] = field(default_factory=Counter)
    known: dict[tuple[str, str], tuple[datetime, int]] = field(default_factory=dict)

    def add(self, found: Iterable[tuple[str, str, int, datetime]], now: datetime) -> None:
        """What ended at ``since`` or later: id, status, number of due times, and when."""
        for run_id, status, count, at in found:
            _, before = self.known.get((run_id, status), (at, 0))
            self.total[status] += max(0, count - before)
            self.known[run_id, status] = (at, count)
        self.since = max(self.since, now - OVERLAP)
        self.known = {key: each for key, each in self.known.items() if each[0] >= self.since}


class Watch:
    """Looks at a ledger, and whether Prefect answers, for as long as a process lives.

    It begins without a ledger that answers, and opens it when one does. `close` it at the end.
    ``fresh`` is for how many seconds a look is told again, ``patience`` how many an answer is
    waited for; ``clock`` as in `Ledger`.
    """

    def __init__(
        self,
        address: str,
        *,
        clock: Clock | None = None,
        fresh: float = FRESH,
        patience: float = PATIENCE,
    ) -> None:
        self._opened: Ledger | None = None
        self._patience = patience
        self._address, self._clock, self._stack = address, clock, AsyncExitStack()
        self._late = overdue.Memory()
        self._ended: _Ended | None = None
        self._ledger = Shared(self._apart, fresh)
        self._prefect = Shared(_prefect_answers, PREFECT_FRESH)
        self._thread: LoopThread | None = None

    def begin(self) -> None:
        """Look for the first time, which takes longer, before anybody asks."""
        self._ledger.begin()

    async def close(self) -> None:
        await asyncio.gather(self._ledger.stop(PATIENCE), self._prefect.stop(PATIENCE))
        if self._thread is None:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await self._thread.do(self._stack.aclose())
        await self._thread.stop(PATIENCE)

    async def figures(self) -> Figures:
        """What is true now, or was two seconds ago. Raises `DaybookError` where nobody can tell."""
        try:
            return await self._ledger.ask(self._patience)
        except DaybookError:
            raise
        except TimeoutError:
            raise LedgerUnreachable(self._place, f"no answer within {self._patience:g} s") from None
        except Exception as error:
            log.exception("the ledger could not be looked at")
            raise LedgerUnreachable(self._place, repr(error)) from error

    async def prefect(self) -> bool | None:
        """Whether Prefect answered lately; None where this home does not know one."""
        try:
            return await self._prefect.ask(self._patience)
        except TimeoutError:
            return False

    async def health(self) -> tuple[bool, dict[str, Any]]:
        """Whether all is well, and how it is.

        `{"status": "ok" | "failing", "problems", "ledger", "keeper", "late", "overdue", "outbox",
        "tasks", "prefect"}`; what the ledger does not tell is null. Never raises.
        """
        found, answers = await asyncio.gather(self._found(), self.prefect())
        known = found if isinstance(found, Figures) else None
        problems = problems_of(known) if known else [str(found)]
        return not problems, {
            "status": "failing" if problems else "ok",
            "problems": problems,
            "ledger": {
                "answers": known is not None,
                "id": known.ledger_id if known else None,
                "clock_ahead_seconds": _seconds(known.ahead) if known else None,
            },
            "keeper": {
                "leads": known.led if known else None,
                "renewed_seconds_ago": _seconds(known.renewed_ago) if known else None,
                "observed_seconds_ago": _seconds(known.observed_ago) if known else None,
            },
            "late": len(known.late) if known else None,
            "overdue": len(known.overdue) if known else None,
            "outbox": known
            and {
                "pending": known.outbox["pending"],
                "failed": known.outbox["failed"],
                "paused": len(known.outbox["paused"]),
            },
            "tasks": known and task_scheduler.as_view(known.tasks, known.at),
            "prefect": {"answers": answers},
        }

    async def _found(self) -> Figures | DaybookError:
        try:
            return await self.figures()
        except DaybookError as error:
            return error

    # --- one look

    @property
    def _place(self) -> str:
        return self._opened.place if self._opened else "the ledger"

    async def _apart(self) -> Figures:
        if self._thread is None:
            self._thread = LoopThread("ledger watch")
        return await self._thread.do(self._look())

    async def _look(self) -> Figures:
        ledger = self._opened
        if ledger is None:
            ledger = await self._stack.enter_async_context(Ledger(self._address, self._clock))
            self._opened = ledger
        leader = await leadership.read(ledger, LEAD)
        led = leader is not None and leader.leads(ledger.now())
        unwritable = "" if led else await ledger.why_unwritable()
        async with ledger.read() as session:
            now = ledger.now()
            if self._ended is None:
                self._ended = _Ended(now)
            self._ended.add(await figures.outcomes_since(session, self._ended.since), now)
            late = await overdue.look(session, self._late, now)
            return Figures(
                at=now,
                ledger_id=ledger.id,
                ahead=ledger.skew(),
                jobs=await figures.switched(session),
                due_soon=self._late.soon(now, SOON),
                late=late,
                live=await figures.live(session),
                ended=dict(self._ended.total),
                ended_last_day=await figures.ended_since(session, now - DAY),
                failing=await figures.failing(session, MOST_FAILING),
                outbox=await sending.health(session, now),
                leader=leader,
                tasks=await task_figures.read(session, now),
                unwritable=unwritable,
            )


def problems_of(found: Figures) -> list[str]:
    """What is wrong with the scheduler, in words; [] when all is well."""
    said = []
    if not found.led and found.unwritable:
        said.append(cannot_write(found.unwritable))
    elif not found.led:
        leader = found.leader
        since = f", for {span(found.at - leader.until)}" if leader else ""
        said.append(f"no keeper leads{since}: `daybook keeper` starts one")
    late = found.overdue
    said += [in_words(each, found.at) for each in late[:NAMED]]
    if len(late) > NAMED:
        said.append(f"and {len(late) - NAMED} more are overdue: `daybook status`")
    return said


def in_words(each: Overdue, now: datetime) -> str:
    """What is overdue, as a sentence."""
    what = f"{each.stored.row.name} was due at {views.utc(each.due)}, {span(now - each.due)} ago"
    if each.missed:
        return f"{what}, and was missed: nobody came for it"
    return f"{what}, and has not begun" + (f": {each.why}" if each.why else "")


def _seconds(length: timedelta | None) -> float | None:
    return None if length is None else round(length.total_seconds(), 3)


async def _prefect_answers() -> bool | None:
    """Ask the Prefect that this process, or this home's `daybook up`, works with."""
    import httpx

    running = homes.here().running() or {}
    address = os.environ.get("PREFECT_API_URL") or running.get("api_url")
    if not address:
        return None
    here = urlsplit(address).hostname in ("127.0.0.1", "localhost", "::1")
    try:
        async with httpx.AsyncClient(timeout=PATIENCE, trust_env=not here) as client:
            answer = await client.get(f"{address.rstrip('/')}/health")
    except (httpx.HTTPError, httpx.InvalidURL, OSError):
        return False
    return answer.status_code == httpx.codes.OK
