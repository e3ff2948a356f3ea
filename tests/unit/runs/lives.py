"""Workers and a keeper that crash and come back, on a clock that moves from event to event.

Each of them claims, begins, renews, records outcomes and expires leases in the ledger as the real
one does; Prefect is replaced by a table of the times at which it starts each due time. What the
runs really did is recorded here, apart from the ledger: each lives from its claim to its end, or to
the death of its process.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from sqlmodel import col, select

from daybook.errors import FenceRefused, IllegalTransition
from daybook.jobs import lateness, store
from daybook.jobs.model import new_job
from daybook.jobs.store import StoredJob
from daybook.ledger.engine import Ledger
from daybook.ledger.states import LIVE, Outcome, Status
from daybook.ledger.tables import RunRow
from daybook.runs import audit, claim_requests, claims, leases, outcomes
from daybook.runs.claim_requests import ClaimRequest, Finished, Granted, Waiting
from daybook.testing import ManualClock
from daybook.timing import TIMING

SECOND = timedelta(seconds=1)
TICK = 5 * SECOND
"""Between two passes of the keeper, and between two polls of a worker."""
AUDIT = 30 * SECOND
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
NEVER = datetime.max.replace(tzinfo=UTC)
RUN, KEEPER, LEDGER, ALL = "a run", "the keeper", "the ledger", "all"
WORKERS = ("worker-1", "worker-2")
STEPS = 2000


@dataclass(frozen=True)
class Fault:
    """An outage of ``who`` from ``at`` on, counted from the creation of the job, for ``lasts``.

    A worker is killed together with its runs. `RUN` kills only the runs, `ALL` kills everything.
    `LEDGER` kills nothing: the ledger is unreachable.
    """

    who: str
    at: timedelta
    lasts: timedelta


@dataclass(frozen=True)
class Case:
    """A job that is due once per ``every``; a run begins after ``prepares`` and lasts ``takes``."""

    every: timedelta
    prepares: timedelta
    takes: timedelta
    on_lost: str
    workers: int
    faults: tuple[Fault, ...]


@dataclass
class Run:
    """One claim: a process that lives from ``since`` to ``until``; ``began`` is set if it began."""

    due: datetime
    granted: Granted
    holder: str
    since: datetime
    renewed: datetime
    began: datetime | None = None
    until: datetime = NEVER
    killed: bool = False

    @property
    def lives(self) -> bool:
        return self.until == NEVER


@dataclass
class Life:
    """One case, simulated from ``began`` on. ``rows`` has the row of each due time."""

    ledger: Ledger
    clock: ManualClock
    case: Case
    began: datetime
    runs: list[Run] = field(default_factory=list)
    up: list[tuple[datetime, datetime]] = field(default_factory=list)
    """From when to when a worker was there and could reach the ledger."""
    rows: dict[datetime, RunRow] = field(default_factory=dict)
    _offered: dict[datetime, datetime] = field(default_factory=dict)
    """When Prefect offers each due time that has not begun or ended there."""
    _starts: dict[datetime, int] = field(default_factory=dict)
    _lives: dict[str, int] = field(default_factory=dict)
    _was_away: set[str] = field(default_factory=set)
    _audited: datetime = LONG_AGO

    async def simulate(self) -> None:
        """Simulate the case until every due time has its outcome."""
        case, stored = self.case, await self._job()
        last = max(each.at + each.lasts for each in case.faults)
        count = (last + case.every + 2 * case.takes) // case.every
        dues = [self.began + number * case.every for number in range(1, count + 1)]
        self._offered = {each: each for each in dues}
        for _ in range(STEPS):
            await self._step(stored)
            if not self._offered and not any(run.lives for run in self.runs):
                rows = await self._rows(stored)
                if not any(row.state in LIVE for row in rows):
                    break
            self.clock.set(self._following())
        else:
            raise AssertionError("it does not come to its end")
        for due in dues:
            (self.rows[due],) = [row for row in rows if row.due <= due <= (row.due_to or row.due)]
        async with self.ledger.write() as session:
            await outcomes.archive_job(session, stored, self.clock.now())

    # --- what really happened

    def another_lived(self, due: datetime, since: datetime, up_to: datetime) -> bool:
        """Return whether a run of another due time was alive at some moment of that period."""
        return any(
            run.due != due and run.since <= up_to and run.until >= since for run in self.runs
        )

    def could_be_claimed(self, due: datetime) -> bool:
        """Return whether a worker was available for two polls while ``due`` was not too late."""
        window = min(max(self.case.every / 2, lateness.MIN_WINDOW), lateness.MAX_WINDOW)
        end = due + max(lateness.ON_TIME_GRACE, min(window, self.case.every))
        return any(min(until, end) - max(since, due) > 2 * TICK for since, until in self.up)

    # --- one step

    async def _job(self) -> StoredJob:
        self.clock.set(self.began)
        job = new_job(
            now=self.began,
            name=f"{self.began:%Y-%m-%d}",
            prompt="What is new?",
            every=f"{self.case.every // SECOND}s",
            session="new",
            policy={"on_lost": self.case.on_lost, "retries": 0, "retry_delay": "1s"},
        )
        async with self.ledger.write() as session:
            return await store.add(session, job, job.name, self.began)

    async def _rows(self, stored: StoredJob) -> list[RunRow]:
        of_job = select(RunRow).where(col(RunRow.job_id) == stored.id)
        async with self.ledger.read() as session:
            return list((await session.execute(of_job)).scalars())

    def _away(self, who: str) -> bool:
        since = self.clock.now() - self.began
        return any(
            each.who in (who, ALL) and each.at <= since < each.at + each.lasts
            for each in self.case.faults
        )

    async def _step(self, stored: StoredJob) -> None:
        now = self.clock.now()
        workers = WORKERS[: self.case.workers]
        self._kill(workers, now)
        reachable = not self._away(LEDGER)
        there = [each for each in workers if reachable and not self._away(each)]
        if there and (not self.up or self.up[-1][1] != NEVER):
            self.up.append((now, NEVER))
        elif not there and self.up and self.up[-1][1] == NEVER:
            self.up[-1] = (self.up[-1][0], now)
        for run in self.runs if reachable else []:
            await self._go_on(run, now)
        if reachable and not self._away(KEEPER):
            await self._keep(stored, now)
        for place, due in enumerate(sorted(self._offered)):
            if there and self._offered[due] <= now:
                await self._claim(stored, due, there[place % len(there)])

    def _kill(self, workers: tuple[str, ...], now: datetime) -> None:
        for who in (*workers, RUN):
            if not self._away(who):
                self._was_away.discard(who)
            elif who not in self._was_away:
                self._was_away.add(who)
                self._lives[who] = self._lives.get(who, 0) + 1
                for run in self.runs:
                    if run.lives and who in (RUN, run.holder.partition("/")[0]):
                        run.until, run.killed = now, True

    def _holder(self, worker: str) -> str:
        return f"{worker}/{self._lives.get(worker, 0)}"

    async def _go_on(self, run: Run, now: datetime) -> None:
        granted, worker = run.granted, run.holder.partition("/")[0]
        given = self.ledger, granted.run_id, granted.fence
        try:
            if run.killed:
                if run.holder == self._holder(worker) and not self._away(worker):
                    run.killed = False  # its worker is alive, and reports the death
                    await claims.holder_died(*given, "its process was killed")
            elif not run.lives:
                pass
            elif run.began is None and now >= run.since + self.case.prepares:
                await claims.begin(*given)
                run.began = run.renewed = now
            elif run.began is not None and now >= run.began + self.case.takes:
                run.until = now
                await claims.finish(*given, Outcome(Status.SUCCEEDED))
            elif now >= run.renewed + TIMING.run_lease_renewal:
                run.renewed = now
                if not await leases.renew(*given):
                    run.until = now  # a refused renewal stops the run
        except (FenceRefused, IllegalTransition):
            run.until = min(run.until, now)

    async def _keep(self, stored: StoredJob, now: datetime) -> None:
        await leases.expire_all(self.ledger)
        if now - self._audited >= AUDIT:
            self._audited = now
            await audit.advance(self.ledger, stored.id, now)
        for row in await self._rows(stored):
            if row.state is Status.WAITING and row.until is not None:
                self._offered[row.due] = row.until  # `ensure` moves its Prefect run there

    async def _claim(self, stored: StoredJob, due: datetime, worker: str) -> None:
        key = claim_requests.due_key(stored.id, due)
        claim_request = ClaimRequest(
            key,
            "agent-prompt",
            "schedule",
            due,
            self._holder(worker),
            stored.job.parameters(),
            stored.id,
            flow_run_id=key,
            flow_starts=self._starts.get(due, 0) + 1,
            started=False,
        )
        answer = await claims.claim(self.ledger, claim_request)
        now = self.clock.now()
        match answer:
            case Granted():
                del self._offered[due]
                self._starts[due] = claim_request.flow_starts
                self.runs.append(Run(due, answer, claim_request.holder, now, now))
            case Waiting(until=until):
                self._offered[due] = until
            case Finished():
                del self._offered[due]
            case _:
                raise AssertionError(answer)

    def _following(self) -> datetime:
        """Return when something happens next; a poll or an audit is at least one tick away."""
        now, case = self.clock.now(), self.case
        instants = []
        if self.up and self.up[-1][1] == NEVER:
            instants += [max(each, now + TICK) for each in self._offered.values()]
        for fault in case.faults:
            instants += [self.began + fault.at, self.began + fault.at + fault.lasts]
        for run in self.runs:
            if run.lives:
                done = run.since + case.prepares if run.began is None else run.began + case.takes
                instants += [
                    max(done, now + SECOND),
                    max(run.renewed + TIMING.run_lease_renewal, now + SECOND),
                ]
            else:  # until its lease is suspected, and until it is declared lost
                instants += [run.renewed + TIMING.run_lease, run.renewed + 2 * TIMING.run_lease]
        coming = [each for each in instants if each > now]
        return min(coming) if coming else now + TICK
