"""One cycle of the task scheduler. A cycle wakes sessions and escalates, and never claims.

::

    inspect  ──► nothing queued, no lease expired, no wake under way: write nothing
      │
    expire   requeue runs whose lease has expired                    one transaction
      │
    match    for each queued run, in order: find the session, wake   one transaction, with the
    escalate count its starving cycles, take the steps that are due      outbox rows and the worker
      │                                                                  requests
    notify   report starving runs to Prefect, then record that       one transaction

If a cycle is killed between two of these steps, it has done the earlier steps, and the next cycle
does the later steps. Two concurrent cycles decide one after the other, so the second cycle sees the
wakes of the first.
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
from daybook.duration_text import duration_in_words
from daybook.errors import InvalidInput, Unreachable
from daybook.features.tasks import (
    matching,
    pause,
    rows,
    sessions,
    statistics,
    wakes,
    worker_requests,
)
from daybook.features.tasks.lease_expiry import expire_leases
from daybook.features.tasks.matching import Candidate, RunRequirements
from daybook.features.tasks.notifier import EventRejected, Notifier, StarvingRun
from daybook.features.tasks.policy import SchedulerPolicy, escalate
from daybook.features.tasks.states import LIVE, TaskRunStatus
from daybook.features.tasks.statistics import CycleReport
from daybook.features.tasks.tables import TaskRow, TaskRunRow, TaskSessionRow
from daybook.features.tasks.wakes import WakeTarget
from daybook.features.tasks.worker_requests import AgentCapabilities
from daybook.jobs.actions import AgentPrompt
from daybook.jobs.store import StoredJob
from daybook.ledger.engine import Ledger

log = logging.getLogger(__name__)

CapabilityLoader = Callable[[], Awaitable[AgentCapabilities]]
"""Loads the capabilities of each agent.

It is called only if a cycle may have to request a worker.
"""

REQUEST_TIMEOUT_SECONDS = 10.0
"""Timeout for reporting one starving run to Prefect, and for loading agents' capabilities."""
MAX_RUNS_PER_STATEMENT = 500
"""Maximum number of runs in one UPDATE statement."""
MAX_NOTIFICATIONS = 50
"""Maximum number of starving runs that a cycle reports. The next cycle reports the others."""
NOTIFY_TIMEOUT_SECONDS = 30.0
"""Time after which a cycle starts no further report, so that it can record the sent reports."""

REQUEST_WORKER = "request_worker"
NEEDS_ATTENTION = "needs_attention"
"""Name of an escalation step, a counter, an event of the run, and the operator's alert."""


async def cycle(
    ledger: Ledger,
    *,
    policy: SchedulerPolicy,
    notifier: Notifier,
    capabilities_of: CapabilityLoader,
    refused: InvalidInput | None = None,
) -> CycleReport:
    """Run one cycle, and return its report.

    If a step outside the ledger fails, the report lists the failure, and the next cycle tries
    again, except after an event that Prefect rejected. If the policy in the settings is invalid,
    ``policy`` replaces it and ``refused`` is the error; the report lists this error, too. Raise
    `LedgerUnreachable`.
    """
    findings = await _inspect(ledger, policy)
    report = findings.report
    if refused is not None:
        report.error("[tasks] is invalid, so its last valid values apply", refused)
    if not findings.anything:
        return report
    recovery_failed = findings.has_expired_leases and not await _expire_leases(
        ledger, policy, report
    )
    may_request_worker = False
    if findings.may_need_worker:  # if there is no job for workers, do not query Prefect
        async with ledger.read() as session:
            may_request_worker = bool(await worker_requests.worker_jobs(session))
    capable = await _load_capabilities(capabilities_of, report) if may_request_worker else None
    async with ledger.write() as session:
        report.at = ledger.now()
        work = _Cycle(session, ledger.id, policy, capable, report)
        await work.do(recovery_failed=recovery_failed)
    if work.starving:
        await _notify(ledger, notifier, work.starving, policy.actor, report)
    return report


# --- inspect


@dataclass
class _Findings:
    """Results of a cycle's inspection. ``anything`` is True if the cycle has work to do.

    ``report`` is the cycle's report so far. ``has_expired_leases`` is True if the lease of a run
    has ended. ``may_need_worker`` is True if the cycle may have to request a worker.
    """

    report: CycleReport
    anything: bool = False
    has_expired_leases: bool = False
    may_need_worker: bool = False


async def _inspect(ledger: Ledger, policy: SchedulerPolicy) -> _Findings:
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
        findings = _Findings(CycleReport(now))
        under_way = (await statistics.load(session)).under_way
        paused = (await pause.read(session)).paused
        live_runs = (await session.execute(live)).all()
    for status, id_, lease_until, attention, queued_at, starved, tiers, only_waits in live_runs:
        findings.report.scanned += 1
        findings.report.pending += status == TaskRunStatus.QUEUED
        findings.report.active += status == TaskRunStatus.CLAIMED
        findings.has_expired_leases |= lease_until is not None and lease_until <= now
        if status == TaskRunStatus.NEEDS_ATTENTION or attention:
            findings.report.add(NEEDS_ATTENTION, id_)
        if status == TaskRunStatus.QUEUED and not paused and not only_waits:
            owed = escalate(policy, now - queued_at, starved, tiers)
            findings.may_need_worker |= REQUEST_WORKER in owed.steps
    findings.anything = bool(findings.report.pending or findings.has_expired_leases or under_way)
    return findings


# --- expire leases


async def _expire_leases(ledger: Ledger, policy: SchedulerPolicy, report: CycleReport) -> bool:
    """Expire leases, and list their runs in the report. Return False if that failed."""
    try:
        async with ledger.write() as session:
            now = ledger.now()
            expired = await expire_leases(session, now, policy)
            recovered = [run.id for run in expired]
            marked = sum(run.status == TaskRunStatus.NEEDS_ATTENTION for run in expired)
    except Unreachable:
        raise
    except Exception as error:  # continue with matching and waking
        log.exception("cannot expire leases", extra={"action": "expire"})
        report.error("lease expiry", repr(error))
        return False
    for id_ in recovered:
        report.add("recovered", id_)
    report.marked += marked
    return True


# --- match, wake, escalate


async def _load_capabilities(
    capabilities_of: CapabilityLoader, report: CycleReport
) -> AgentCapabilities | None:
    try:
        async with asyncio.timeout(REQUEST_TIMEOUT_SECONDS):
            return await capabilities_of()
    except Exception as error:
        report.error("cannot read the agents", str(error) or type(error).__name__)
        return None


@dataclass
class _Fits:
    """Sessions that fit requirements.

    ``now`` are the sessions that fit and are free. ``ever`` is True if a live session fits, even if
    it is busy.
    """

    now: list[TaskSessionRow]
    ever: bool


@dataclass
class _Cycle:
    """Transaction that matches runs to sessions.

    ``starving`` are the runs to report after the transaction.
    """

    session: AsyncSession
    ledger_id: str
    policy: SchedulerPolicy
    capable: AgentCapabilities | None
    report: CycleReport
    starving: list[StarvingRun] = field(default_factory=list)

    async def do(self, *, recovery_failed: bool) -> None:
        report, now = self.report, self.report.at
        self.kept = await statistics.load(self.session)
        results = await wakes.wake_results(self.session, self.kept.under_way, now)
        report.wakes_succeeded, report.wakes_failed = results.succeeded, results.failed
        for error in dict.fromkeys(results.errors):
            report.error("wake", error)
        queued = await self._queued()
        wake_ids: list[str] = []
        if (await pause.read(self.session)).paused:
            for run, _ in queued:
                report.add("paused", run.id)
        elif queued:
            wake_ids = await self._match(queued)
        await self._count(len(queued))
        self.kept.under_way = [*results.under_way, *wake_ids]
        self.kept.recovery_errors += recovery_failed
        self.kept.count(report)
        await statistics.store(self.session, self.kept)

    async def _queued(self) -> Sequence[tuple[TaskRunRow, TaskRow]]:
        waiting = (
            select(TaskRunRow, TaskRow)
            .join(TaskRow, col(TaskRow.id) == col(TaskRunRow.task_id))
            .where(
                col(TaskRunRow.status) == TaskRunStatus.QUEUED,
                col(TaskRunRow.finished_at).is_(None),
            )
            .options(defer(TaskRow.instructions))  # type: ignore[arg-type]
        )
        pairs = (await self.session.execute(waiting)).tuples().all()
        return sorted(pairs, key=lambda each: RunRequirements.of(each[1], each[0]).order)

    async def _count(self, pending: int) -> None:
        """Record in the report the number of runs in each state after this cycle."""
        await self.session.flush()
        live = select(TaskRunRow.id, TaskRunRow.status, TaskRunRow.attention).where(
            col(TaskRunRow.status).in_(LIVE), col(TaskRunRow.finished_at).is_(None)
        )
        live_runs = (await self.session.execute(live)).tuples().all()
        self.report.pending, self.report.scanned = pending, len(live_runs)
        self.report.active = sum(status == TaskRunStatus.CLAIMED for _, status, _ in live_runs)
        self.report.runs[NEEDS_ATTENTION] = [
            id_
            for id_, status, attention in live_runs
            if status == TaskRunStatus.NEEDS_ATTENTION or attention
        ]

    async def _match(self, queued: Sequence[tuple[TaskRunRow, TaskRow]]) -> list[str]:
        """Match queued runs to sessions, and escalate. Return the outbox ids of the wakes."""
        report, now, session = self.report, self.report.at, self.session
        self.candidates = await sessions.live_sessions(session, now)
        report.sessions = len(self.candidates)
        self.notified = await wakes.recently_woken(
            session, now, self.policy.wake_cooldown, self.kept.last_rebuild_at
        )
        self.fits: dict[tuple[object, ...], _Fits] = {}
        self.woken: set[str] = set()
        self.targets: list[WakeTarget] = []
        self.unreachable_count = 0
        self.workers: list[StoredJob] | None = None
        self.counted: list[str] = []
        for run, task in queued:
            if task.paused:
                report.add("paused", run.id)
                continue
            steps = self._escalate(run, task)
            before = len(self.targets)
            report.add(self._wake(run, task, all_sessions="fan_out" in steps), run.id)
            if "fan_out" in steps and len(self.targets) > before:
                self._record_step(run, "fan_out", f"woken sessions: {len(self.targets) - before}")
            if REQUEST_WORKER in steps:
                await self._request_worker(run, task)
            if "starved" in steps:
                self.starving.append(self._starved_run(run, task))
            if NEEDS_ATTENTION in steps:
                since = run.queued_at.replace(microsecond=0).isoformat()
                run.attention = f"no session has claimed it since {since}"
                self._record_step(run, NEEDS_ATTENTION, run.attention)
                report.marked += 1
                await rows.alert_operator(session, run, "starved", now)
        await self._write_starved_cycles()
        report.wakes_tried = len(self.targets) + self.unreachable_count
        report.wakes_failed += self.unreachable_count
        if self.unreachable_count:
            # The text has no names or numbers, so that it is stored only once and leaves room for
            # other errors.
            report.error("wake", "a session has no MCP connection, and wake_url is not set")
        return await wakes.enqueue(session, self.targets, self.policy, now)

    def _fitting(self, wanted: RunRequirements) -> _Fits:
        """Return the sessions that fit.

        Compute them once for all runs with the same requirements.
        """
        key = (wanted.owner, wanted.workspace, wanted.channel, tuple(wanted.capabilities))
        if key not in self.fits:
            now, candidates = self.report.at, self.candidates
            fit = [
                row for row, each in candidates if not matching.refusal_reason(wanted, each, now)
            ]
            ever = any(not matching.mismatch_reason(wanted, each) for _, each in candidates)
            self.fits[key] = _Fits(fit, ever)
        return self.fits[key]

    def _wake(self, run: TaskRunRow, task: TaskRow, *, all_sessions: bool) -> str:
        """Wake the session that fits best. With ``all_sessions``, wake all sessions that fit.

        Skip sessions that this cycle has already woken, or that were recently woken for the run.
        Return the name of the counter of this cycle that counts the run.
        """
        wanted, now, url = RunRequirements.of(task, run), self.report.at, self.policy.wake_url
        fits = self._fitting(wanted)
        free = [row for row in fits.now if row.id not in self.woken]
        if not free:
            return "no_match" if fits.ever else "unclaimable"
        fresh = [row for row in free if (run.id, row.id) not in self.notified]
        if not fresh:
            return "recently_notified"
        fresh.sort(key=lambda row: matching.preference(wanted, Candidate.of(row, False)))
        reachable = [row for row in fresh if wakes.can_be_woken(row, url, now)]
        if not reachable:
            self.unreachable_count += 1
            self.woken.add(fresh[0].id)
            return "woken"
        reason = f"queued for {duration_in_words(now - run.queued_at)}"
        if all_sessions:
            reason += ", all fitting sessions are woken"
        for row in reachable if all_sessions else reachable[:1]:
            self.targets.append(WakeTarget(task, run, row, self.policy.wake_text(reason)))
            self.woken.add(row.id)
        return "woken"

    # --- escalate

    def _escalate(self, run: TaskRunRow, task: TaskRow) -> tuple[str, ...]:
        """Count this cycle for the run.

        Return the steps that are due; none for a task of the user.
        """
        if task.owner == owners.USER:
            return ()
        waited = self.report.at - run.queued_at
        owed = escalate(self.policy, waited, run.starved_cycles, run.tiers)
        if owed.cycles != run.starved_cycles:
            self.counted.append(run.id)
            set_committed_value(run, "starved_cycles", owed.cycles)
        return owed.steps

    async def _write_starved_cycles(self) -> None:
        """Add one starving cycle to all counted runs, with few statements even for a long queue."""
        for start in range(0, len(self.counted), MAX_RUNS_PER_STATEMENT):
            few = col(TaskRunRow.id).in_(self.counted[start : start + MAX_RUNS_PER_STATEMENT])
            more = update(TaskRunRow).where(few)
            await self.session.execute(
                more.values(starved_cycles=TaskRunRow.starved_cycles + 1),
                execution_options={"synchronize_session": False},
            )

    def _record_step(self, run: TaskRunRow, step: str, reason: str) -> None:
        _record_step(self.session, run, step, reason, self.report.at, actor=self.policy.actor)

    async def _request_worker(self, run: TaskRunRow, task: TaskRow) -> None:
        """Request a worker for the run.

        If no job has a capable agent, skip the step. The next cycle tries again, even after the
        operator was notified, because the operator may add a suitable job then. A run that has had
        `MAX_WORKERS_PER_RUN` workers gets no more, because after each request it was claimed and
        queued again. If `MAX_CONCURRENT_WORKERS` workers are in progress, the run waits until one
        of them ends.
        """
        if await worker_requests.has_max_workers(self.session, run):
            run.tiers = [*run.tiers, REQUEST_WORKER]
            return
        if self.capable is None:
            return
        if self.workers is None:
            self.workers = await worker_requests.worker_jobs(self.session)
            self.room = (
                worker_requests.MAX_CONCURRENT_WORKERS
                - await worker_requests.count_under_way(self.session, self.workers)
            )
        if self.room <= 0:
            return
        stored = worker_requests.choose(self.workers, task, self.capable)
        if stored is None or not isinstance(stored.job.action, AgentPrompt):
            return
        has = self.capable[stored.job.action.agent]
        requested = await worker_requests.request_worker(
            self.session, stored, task, run, has=has, now=self.report.at
        )
        run.spawned_run_id = requested.id
        self.room -= 1
        self._record_step(run, REQUEST_WORKER, f"run {requested.id[:12]} of {stored.row.name}")
        self.report.add("spawn_requested", run.id)

    def _starved_run(self, run: TaskRunRow, task: TaskRow) -> StarvingRun:
        return StarvingRun(
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


def _record_step(
    session: AsyncSession, run: TaskRunRow, step: str, reason: str, now: datetime, *, actor: str
) -> None:
    """Record that an escalation step was taken."""
    event = worker_requests.REQUESTED if step == REQUEST_WORKER else step
    run.tiers = [*run.tiers, step]
    session.add(run)
    rows.record_event(session, run, event, now, actor=actor, reason=reason)


# --- notify


async def _notify(
    ledger: Ledger,
    notifier: Notifier,
    starving: Sequence[StarvingRun],
    actor: str,
    report: CycleReport,
) -> None:
    """Report each starving run, and record the reports that were sent.

    An event that Prefect rejects counts as sent, because Prefect would reject it again in each
    cycle. After any other failure, for example if Prefect is unreachable, the next cycle reports
    the remaining runs.
    """
    sent: list[StarvingRun] = []
    rejected: dict[str, str] = {}
    until = time.monotonic() + NOTIFY_TIMEOUT_SECONDS
    for each in starving:
        if len(sent) >= MAX_NOTIFICATIONS or time.monotonic() > until:
            break
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_SECONDS):
                await notifier(each)
        except EventRejected as error:
            report.error("Prefect rejected the event of a starving run", error)
            rejected[each.run_id] = str(error)
        except Exception as error:
            failed = str(error) or type(error).__name__
            report.error("cannot report starving runs", failed)
            break
        else:
            report.add("starved", each.run_id)
        sent.append(each)
    async with ledger.write() as session:
        now = ledger.now()
        for each in sent:
            run = await session.get(TaskRunRow, each.run_id)
            # If a run was claimed in the meantime, its escalation starts again.
            same = run is not None and (run.status, run.fence) == (TaskRunStatus.QUEUED, each.fence)
            if run is not None and same and "starved" not in run.tiers:
                reason = f"after {each.cycles} cycles"
                if each.run_id in rejected:
                    reason += f"; Prefect rejected the event: {rejected[each.run_id]}"
                _record_step(session, run, "starved", reason, now, actor=actor)
        kept = await statistics.load(session)
        kept.amend(report, starved=len(sent) - len(rejected))
        await statistics.store(session, kept)
