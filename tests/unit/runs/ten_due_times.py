"""Ten due times of one job and their outcomes: the cases of `docs/guides/policies.md`.

A job is due every ten minutes from 12:10 to 13:40, and each of its runs takes a quarter of an hour.
From 12:45 to 13:25 no worker can reach Prefect; active runs continue. In the second half of the
cases the job's class allows one active run, and another job of the class is active until 12:35.

The cases claim and finish runs as a worker does, on a clock that the simulation moves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product

from sqlalchemy import func
from sqlmodel import col, select

from daybook.jobs import store
from daybook.jobs.model import new_job
from daybook.jobs.store import StoredJob
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import RunRow
from daybook.runs import claim_requests, claims, leases
from daybook.runs.claim_requests import ClaimRequest, Granted, Waiting
from daybook.testing import ManualClock

OVERLAPS = ("skip", "queue_one", "queue_all", "cancel_running", "allow")
CATCH_UPS = ("none", "latest", "all")
CLASS = "resource-intensive"

MINUTE = timedelta(minutes=1)
TAKES = 15 * MINUTE
LOOK = timedelta(seconds=30)
NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
AWAY = (45 * MINUTE, 85 * MINUTE)
BUSY = 35 * MINUTE
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    overlap: str
    catch_up: str
    full: bool
    """Whether the job's class has no free slot in the beginning."""


@dataclass(frozen=True)
class Became:
    """The outcome of one due time; ``due``, ``began`` and ``ended`` count from noon."""

    due: timedelta
    status: str
    began: timedelta | None
    ended: timedelta

    def __str__(self) -> str:
        if self.began is None:
            return self.status
        start = f"{NOON + self.began:%H:%M}"
        return start if self.status == "succeeded" else f"{start}, {self.status}"


CASES = tuple(Case(*each) for each in product(OVERLAPS, CATCH_UPS, (False, True)))


async def all_of_them(address: str) -> dict[Case, list[Became]]:
    """Return the outcomes of each case, simulated in the ledger at ``address``."""
    return {case: await outcomes(address, case, day) for day, case in enumerate(CASES)}


async def outcomes(address: str, case: Case, day: int) -> list[Became]:
    """Simulate a case in the ledger at ``address``, on a day after those of earlier cases."""
    noon = NOON + day * _DAY
    clock = ManualClock(noon)
    async with Ledger(address, clock) as ledger:
        return await _Day(ledger, clock, noon, case).simulate()


class _Day:
    """One case, simulated from noon on."""

    def __init__(self, ledger: Ledger, clock: ManualClock, noon: datetime, case: Case) -> None:
        self._ledger, self._clock, self._noon, self._case = ledger, clock, noon, case
        self._work: dict[str, tuple[Granted, datetime]] = {}

    async def simulate(self) -> list[Became]:
        self._clock.set(self._noon)
        stored = await self._job("the job", self._case.overlap, self._case.catch_up)
        if self._case.full:
            other = await self._job("another", "skip", "latest")
            row = await claims.request(self._ledger, other, "1", "manual")
            await self._take(self._offer(other, row.due, row.occurrence), BUSY)
        left = [
            self._offer(stored, each, claim_requests.due_key(stored.id, each))
            for each in self._due()
        ]
        while left or self._work:
            now, then = self._clock.now(), self._next(left)
            # A waiting run claims again every half minute: here the last time before an event.
            waiting = [each for each in left if each.due <= now]
            for instant, offered in ((then - LOOK, waiting), (then, left)):
                self._clock.set(instant)
                await self._go_on()
                if not AWAY[0] <= instant - self._noon < AWAY[1]:
                    done = [each for each in offered if await self._take(each, TAKES)]
                    left = [each for each in left if each not in done]
        return [await self._became(stored, each) for each in self._due()]

    def _next(self, left: list[ClaimRequest]) -> datetime:
        """Return the time of the next event: a due time, the end of a run, the workers' return."""
        outcomes = [end for _, end in self._work.values()]
        instants = [*outcomes, *(each.due for each in left), self._noon + AWAY[1]]
        return min(each for each in instants if each > self._clock.now())

    def _due(self) -> Iterator[datetime]:
        return (self._noon + place * 10 * MINUTE for place in range(1, 11))

    async def _job(self, name: str, overlap: str, catch_up: str) -> StoredJob:
        policy = {"overlap": overlap, "catch_up": catch_up, "class": CLASS}
        job = new_job(
            now=self._noon,
            name=f"{name}, {self._noon:%d %B}",
            prompt="What is new?",
            every="10m",
            session="new",
            policy=policy,
        )
        async with self._ledger.write() as session:
            return await store.add(session, job, job.name, self._noon)

    def _offer(self, stored: StoredJob, due: datetime, occurrence: str) -> ClaimRequest:
        return ClaimRequest(
            occurrence,
            "agent-prompt",
            "schedule",
            due,
            "worker",
            stored.job.parameters(),
            stored.id,
            flow_run_id=occurrence,
            most=4,
            classes={CLASS: 1} if self._case.full else {},
        )

    async def _take(self, claim_request: ClaimRequest, takes: timedelta) -> bool:
        """Claim the request if it is due; return whether a worker is done with it."""
        if claim_request.due > self._clock.now():
            return False
        answer = await claims.claim(self._ledger, claim_request)
        if isinstance(answer, Waiting) and answer.cancel:
            for flow_run_id in answer.cancel:
                await self._settle(flow_run_id, Status.CANCELLED)
            answer = await claims.claim(self._ledger, claim_request)
        if isinstance(answer, Granted):
            await claims.begin(self._ledger, answer.run_id, answer.fence)
            self._work[claim_request.occurrence] = (answer, self._clock.now() + takes)
        return not isinstance(answer, Waiting)

    async def _go_on(self) -> None:
        """Renew the leases of the active runs, and finish those whose time is over."""
        for flow_run_id, (granted, end) in list(self._work.items()):
            assert await leases.renew(self._ledger, granted.run_id, granted.fence)
            if end <= self._clock.now():
                await self._settle(flow_run_id, Status.SUCCEEDED)

    async def _settle(self, flow_run_id: str, status: Status) -> None:
        granted, _ = self._work.pop(flow_run_id)
        await claims.finish(self._ledger, granted.run_id, granted.fence, Outcome(status))

    async def _became(self, stored: StoredJob, due: datetime) -> Became:
        async with self._ledger.read() as session:
            rows = await session.execute(
                select(RunRow).where(
                    col(RunRow.job_id) == stored.id,
                    col(RunRow.occurrence).startswith("due:"),
                    col(RunRow.due) <= due,
                    func.coalesce(col(RunRow.due_to), col(RunRow.due)) >= due,
                )
            )
        (row,) = rows.scalars()
        assert row.finished_at is not None
        began = None if row.started_at is None else row.started_at - self._noon
        return Became(due - self._noon, row.status, began, row.finished_at - self._noon)


def as_markdown(found: dict[Case, list[Became]], *, full: bool) -> str:
    """Return the table of the cases whose class is, or is not, ``full`` at the start.

    If it is, the table has only the cases with the default catch-up policy.
    """
    due = [f"{NOON + place * 10 * MINUTE:%H:%M}" for place in range(1, 11)]
    lines = [
        f"| overlap | catch up | {' | '.join(due)} |",
        "|---" * (len(due) + 2) + "|",
    ]
    for case, became in found.items():
        if case.full is full and (not full or case.catch_up == "latest"):
            cells = " | ".join(map(str, became))
            lines.append(f"| `{case.overlap}` | `{case.catch_up}` | {cells} |")
    return "\n".join(lines)
