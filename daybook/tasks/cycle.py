"""One cycle of the task scheduler: it wakes and escalates, and never claims (requirements 45-49).

::

    look ──► nothing queued, no lease over, no wake under way: nothing is written
      │
    sweep    leases that are over are taken back                     one transaction
      │
    match    each queued run, in order: whom it fits; wake           one transaction, with the
    ladder   its cycles of starving, and the steps it is owed        outbox rows and the requests
      │                                                              of workers
    tell     Prefect, of runs that starve; then that it was told     one transaction

Whoever is killed between two of these has done the former, and the next cycle does the latter. Two
cycles at once decide one after the other: the second sees whom the first has woken.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import or_, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import defer
from sqlalchemy.orm.attributes import set_committed_value
from sqlmodel import col, select

from daybook import owners
from daybook.errors import InvalidInput, Unreachable
from daybook.jobs.actions import AgentPrompt
from daybook.jobs.store import StoredJob
from daybook.ledger.engine import Ledger
from daybook.ledger.task_tables import TaskRow, TaskRunRow, TaskSessionRow
from daybook.schedules.descriptions import span
from daybook.tasks import matching, model, pause, rows, sessions, statistics, wakes, worker_requests
from daybook.tasks.lease_expiry import SWEEP_LIMIT, sweep
from daybook.tasks.matching import Candidate, Wanted
from daybook.tasks.model import Ladder
from daybook.tasks.notifier import NotTaken, Sink, Starving
from daybook.tasks.rows import SCHEDULER
from daybook.tasks.states import LIVE, Status
from daybook.tasks.statistics import Report
from daybook.tasks.wakes import Target
from daybook.tasks.worker_requests import Capable

log = logging.getLogger(__name__)

CapabilitiesOf = Callable[[], Awaitable[Capable]]
"""Asks what each agent can do; called only when a worker is to be spawned."""

ASKING = 10.0
"""Seconds for one question to Prefect."""
AT_ONCE = 500
"""Runs in one statement."""
TOLD_AT_ONCE = 50
"""Of so many runs that starve Prefect is told in one cycle; the rest is owed in the next."""
TELLING = 30.0
"""Seconds in which it begins to be told of one: what was told has to be written down, too."""

REQUEST_WORKER = "request_worker"
NEEDS_ATTENTION = "needs_attention"
"""The event of what the operator is told (`ledger.alerts.ALARMING`), and of the run."""


async def cycle(
    ledger: Ledger,
    *,
    ladder: Ladder,
    sink: Sink,
    capabilities_of: CapabilitiesOf,
    refused: InvalidInput | None = None,
) -> Report:
    """Do one; what fails outside of the ledger is in the report, and is tried again by the next.

    ``refused`` is why ``ladder`` is not that of the settings: it is in the report, too. Raises
    `LedgerUnreachable`.
    """
    seen = await _look(ledger, ladder)
    report = seen.report
    if refused is not None:
        report.error("[tasks] stays as it was", refused)
    if not seen.anything:
        return report
    failed = seen.over and not await _sweep(ledger, report)
    asks = seen.asks and await _anybody(ledger)
    capable = await _capable(capabilities_of, report) if asks else None
    async with ledger.write() as session:
        report.at = ledger.now()
        work = _Cycle(session, ledger.id, ladder, capable, report)
        await work.do(recovery_failed=failed)
    if work.starving:
        await _tell(ledger, sink, work.starving, report)
    return report


# --- look


@dataclass
class _Seen:
    """What there is to do: anything at all, leases that are over, workers to be asked for."""

    report: Report
    anything: bool = False
    over: bool = False
    asks: bool = False


async def _look(ledger: Ledger, ladder: Ladder) -> _Seen:
    live = (
        select(
            TaskRunRow.status,
            TaskRunRow.id,
            TaskRunRow.lease_until,
            TaskRunRow.attention,
            TaskRunRow.queued_at,
            TaskRunRow.starved_cycles,
            TaskRunRow.tiers,
            or_(col(TaskRow.paused), col(TaskRow.owner) == owners.USER),
        )  # type: ignore[call-overload]
        .join(TaskRow, col(TaskRow.id) == col(TaskRunRow.task_id))
        .where(col(TaskRunRow.status).in_(LIVE), col(TaskRunRow.finished_at).is_(None))
    )
    async with ledger.read() as session:
        now = ledger.now()
        seen = _Seen(Report(now))
        under_way = (await statistics.load(session)).under_way
        paused = (await pause.read(session)).paused
        found = (await session.execute(live)).all()
    for status, id_, lease_until, attention, queued_at, starved, tiers, only_waits in found:
        seen.report.scanned += 1
        seen.report.pending += status == Status.QUEUED
        seen.report.active += status == Status.CLAIMED
        seen.over |= lease_until is not None and lease_until <= now
        if status == Status.NEEDS_ATTENTION or attention:
            seen.report.add(NEEDS_ATTENTION, id_)
        if status == Status.QUEUED and not paused and not only_waits:
            owed = model.climb(ladder, now - queued_at, starved, tiers)
            seen.asks |= REQUEST_WORKER in owed.steps
    seen.anything = bool(seen.report.pending or seen.over or under_way)
    return seen


# --- sweep


async def _sweep(ledger: Ledger, report: Report) -> bool:
    """Take back what is over; returns whether that could be done."""
    try:
        async with ledger.write() as session:
            now = ledger.now()
            found = await sweep(session, now, SWEEP_LIMIT)
            recovered = [run.id for run in found]
    except Unreachable:
        raise
    except Exception as error:  # nobody is woken the less for it
        log.exception("leases that are over could not be taken back", extra={"action": "sweep"})
        report.error("sweep", repr(error))
        return False
    for id_ in recovered:
        report.add("recovered", id_)
    return True


# --- match, wake, ladder


async def _anybody(ledger: Ledger) -> bool:
    """Whether there is a job that could be run for a task; else Prefect is not asked."""
    async with ledger.read() as session:
        return bool(await worker_requests.workers(session))


async def _capable(capabilities_of: CapabilitiesOf, report: Report) -> Capable | None:
    try:
        async with asyncio.timeout(ASKING):
            return await capabilities_of()
    except Exception as error:
        report.error("agents cannot be read", str(error) or type(error).__name__)
        return None


@dataclass
class _Fits:
    """Whom a kind of runs fits now, and whether it would fit anybody who is there."""

    now: list[TaskSessionRow]
    ever: bool


@dataclass
class _Cycle:
    """The transaction in which runs are matched; ``starving`` is what is owed after it."""

    session: AsyncSession
    ledger_id: str
    ladder: Ladder
    capable: Capable | None
    report: Report
    starving: list[Starving] = field(default_factory=list)

    async def do(self, *, recovery_failed: bool) -> None:
        report, now = self.report, self.report.at
        self.kept = await statistics.load(self.session)
        fared = await wakes.fared(self.session, self.kept.under_way, now)
        report.wakes_succeeded, report.wakes_failed = fared.succeeded, fared.failed
        for error in dict.fromkeys(fared.errors):
            report.error("wake", error)
        queued = await self._queued()
        asked: list[str] = []
        if (await pause.read(self.session)).paused:
            for run, _ in queued:
                report.add("paused", run.id)
        elif queued:
            asked = await self._match(queued)
        await self._count(len(queued))
        self.kept.under_way = [*fared.under_way, *asked]
        self.kept.recovery_errors += recovery_failed
        self.kept.count(report)
        await statistics.store(self.session, self.kept)

    async def _queued(self) -> Sequence[tuple[TaskRunRow, TaskRow]]:
        waiting = (
            select(TaskRunRow, TaskRow)
            .join(TaskRow, col(TaskRow.id) == col(TaskRunRow.task_id))
            .where(col(TaskRunRow.status) == Status.QUEUED, col(TaskRunRow.finished_at).is_(None))
            .options(defer(TaskRow.instructions))  # type: ignore[arg-type]
        )
        found = (await self.session.execute(waiting)).tuples().all()
        return sorted(found, key=lambda each: Wanted.of(each[1], each[0]).order)

    async def _count(self, pending: int) -> None:
        """How it is after this cycle."""
        await self.session.flush()
        live = select(TaskRunRow.id, TaskRunRow.status, TaskRunRow.attention).where(
            col(TaskRunRow.status).in_(LIVE), col(TaskRunRow.finished_at).is_(None)
        )
        found = (await self.session.execute(live)).tuples().all()
        self.report.pending, self.report.scanned = pending, len(found)
        self.report.active = sum(status == Status.CLAIMED for _, status, _ in found)
        self.report.runs[NEEDS_ATTENTION] = [
            id_ for id_, status, why in found if status == Status.NEEDS_ATTENTION or why
        ]

    async def _match(self, queued: Sequence[tuple[TaskRunRow, TaskRow]]) -> list[str]:
        """Returns the ids of the wakes."""
        report, now, session = self.report, self.report.at, self.session
        self.candidates = await sessions.there(session, now)
        self.notified = await wakes.notified(session, now, self.kept.last_rebuild_at)
        self.fits: dict[tuple[object, ...], _Fits] = {}
        self.woken: set[str] = set()
        self.targets: list[Target] = []
        self.no_way = 0
        self.workers: list[StoredJob] | None = None
        self.climbed: list[str] = []
        for run, task in queued:
            if task.paused:
                report.add("paused", run.id)
                continue
            steps = self._climbed(run, task)
            before = len(self.targets)
            report.add(self._wake(run, task, everyone="fan_out" in steps), run.id)
            if "fan_out" in steps and len(self.targets) > before:
                self._take(run, "fan_out", f"{len(self.targets) - before} woken at once")
            if REQUEST_WORKER in steps:
                await self._request_worker(run, task)
            if "starved" in steps:
                self.starving.append(self._starving(run, task))
            if NEEDS_ATTENTION in steps:
                since = run.queued_at.replace(microsecond=0).isoformat()
                run.attention = f"nobody has claimed it since {since}"
                self._take(run, NEEDS_ATTENTION, run.attention)
                await rows.alert(session, run, "starved", now)
        await self._write_climbed()
        report.wakes_tried = len(self.targets) + self.no_way
        report.wakes_failed += self.no_way
        if self.no_way:
            # Without names and numbers: it is kept once, and leaves room for other errors.
            report.error("wake", "no MCP server is connected to a session, and no wake_url is set")
        return await wakes.ask(session, self.targets, self.ladder.wake_url, now)

    def _fitting(self, wanted: Wanted) -> _Fits:
        """Asked once for all runs that want the same."""
        key = (wanted.owner, wanted.workspace, wanted.channel, tuple(wanted.capabilities))
        if key not in self.fits:
            now, them = self.report.at, self.candidates
            fit = [row for row, each in them if not matching.verdict(wanted, each, now)]
            ever = any(not matching.fits_ever(wanted, each) for _, each in them)
            self.fits[key] = _Fits(fit, ever)
        return self.fits[key]

    def _wake(self, run: TaskRunRow, task: TaskRow, *, everyone: bool) -> str:
        """Wake whom it fits best, or all whom it fits; returns the counter in which the run is."""
        wanted, now, url = Wanted.of(task, run), self.report.at, self.ladder.wake_url
        fits = self._fitting(wanted)
        free = [row for row in fits.now if row.id not in self.woken]
        if not free:
            return "no_match" if fits.ever else "unclaimable"
        fresh = [row for row in free if (run.id, row.id) not in self.notified]
        if not fresh:
            return "recently_notified"
        fresh.sort(key=lambda row: matching.preference(wanted, Candidate.of(row, False)))
        reached = [row for row in fresh if wakes.has_way(row, url, now)]
        if not reached:
            self.no_way += 1
            self.woken.add(fresh[0].id)
            return "woken"
        why = f"queued for {self._waited(run)}" + (", all that fit are woken" if everyone else "")
        for row in reached if everyone else reached[:1]:
            self.targets.append(Target(task, run, row, why))
            self.woken.add(row.id)
        return "woken"

    # --- the ladder

    def _waited(self, run: TaskRunRow) -> str:
        return span(self.report.at - run.queued_at)

    def _climbed(self, run: TaskRunRow, task: TaskRow) -> tuple[str, ...]:
        """Count this cycle; the steps that the run is owed. What a person is to do only waits."""
        if task.owner == owners.USER:
            return ()
        waited = self.report.at - run.queued_at
        owed = model.climb(self.ladder, waited, run.starved_cycles, run.tiers)
        if owed.cycles != run.starved_cycles:
            self.climbed.append(run.id)
            set_committed_value(run, "starved_cycles", owed.cycles)
        return owed.steps

    async def _write_climbed(self) -> None:
        """One cycle more for all who climbed: a long queue is no row after the other."""
        for start in range(0, len(self.climbed), AT_ONCE):
            few = col(TaskRunRow.id).in_(self.climbed[start : start + AT_ONCE])
            more = update(TaskRunRow).where(few)
            await self.session.execute(
                more.values(starved_cycles=TaskRunRow.starved_cycles + 1),
                execution_options={"synchronize_session": False},
            )

    def _take(self, run: TaskRunRow, step: str, reason: str) -> None:
        _take(self.session, run, step, reason, self.report.at)

    async def _request_worker(self, run: TaskRunRow, task: TaskRow) -> None:
        """Where no agent is capable the step is skipped, and looked at again; also after the
        operator was told, who may add the job then.

        A run that has had `MOST_WORKERS` gets no more: they claimed it, and gave it back. While
        `AT_ONCE` are under way it waits for one of them to end.
        """
        if await worker_requests.had_enough(self.session, run):
            run.tiers = [*run.tiers, REQUEST_WORKER]
            return
        if self.capable is None:
            return
        if self.workers is None:
            self.workers = await worker_requests.workers(self.session)
            self.room = worker_requests.AT_ONCE - await worker_requests.under_way(
                self.session, self.workers
            )
        if self.room <= 0:
            return
        stored = worker_requests.choose(self.workers, task, self.capable)
        if stored is None or not isinstance(stored.job.action, AgentPrompt):
            return
        has = self.capable[stored.job.action.agent]
        asked = await worker_requests.ask(
            self.session, stored, task, run, has=has, now=self.report.at
        )
        run.spawned_run_id = asked.id
        self.room -= 1
        self._take(run, REQUEST_WORKER, f"run {asked.id[:12]} of {stored.row.name}")
        self.report.add("spawn_requested", run.id)

    def _starving(self, run: TaskRunRow, task: TaskRow) -> Starving:
        return Starving(
            ledger_id=self.ledger_id,
            run_id=run.id,
            fence=run.fence,
            task_id=task.id,
            title=task.title,
            priority=task.priority,
            capabilities=tuple(task.capabilities),
            queued_at=run.queued_at,
            cycles=run.starved_cycles,
            at=self.report.at,
        )


def _take(session: AsyncSession, run: TaskRunRow, step: str, reason: str, now: datetime) -> None:
    """Write down that a step is taken."""
    event = worker_requests.REQUESTED if step == REQUEST_WORKER else step
    run.tiers = [*run.tiers, step]
    session.add(run)
    rows.note(session, run, event, now, actor=SCHEDULER, reason=reason)


# --- tell


async def _tell(ledger: Ledger, sink: Sink, starving: Sequence[Starving], report: Report) -> None:
    """Tell of each, and write down of which that was done.

    What the sink does not take keeps no other from being told; after another failure, such as that
    Prefect is away, the rest is owed.
    """
    told: list[Starving] = []
    until = time.monotonic() + TELLING
    for each in starving:
        if len(told) >= TOLD_AT_ONCE or time.monotonic() > until:
            break
        try:
            async with asyncio.timeout(ASKING):
                await sink(each)
        except NotTaken as error:
            report.error("Prefect does not take the event of a run that starves", error)
            continue
        except Exception as error:
            failed = str(error) or type(error).__name__
            report.error("starved runs could not be told of", failed)
            break
        told.append(each)
        report.add("starved", each.run_id)
    async with ledger.write() as session:
        now = ledger.now()
        for each in told:
            run = await session.get(TaskRunRow, each.run_id)
            # One that was claimed meanwhile begins anew.
            same = run is not None and (run.status, run.fence) == (Status.QUEUED, each.fence)
            if run is not None and same and "starved" not in run.tiers:
                reason = f"after {each.cycles} cycles"
                _take(session, run, "starved", reason, now)
        kept = await statistics.load(session)
        kept.amend(report, starved=len(told))
        await statistics.store(session, kept)
