"""Operations on the task scheduler: status, pause, resume, drain, backlog, cycle, rebuild.

The scheduler wakes task sessions, but never claims a run for them. The keeper runs its cycles. The
operations are for the operator.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from daybook.duration_text import duration_in_words
from daybook.errors import InvalidInput
from daybook.features.tasks import (
    counts,
    matching,
    notifier,
    operations,
    queue,
    scheduler,
    sessions,
    statistics,
    wakes,
)
from daybook.features.tasks import cycle as cycles
from daybook.features.tasks import pause as scheduler_pause
from daybook.features.tasks.counts import TaskCounts
from daybook.features.tasks.matching import Candidate, RunRequirements
from daybook.features.tasks.model import PRIORITIES
from daybook.features.tasks.notifier import StarvingRun
from daybook.features.tasks.pause import PauseState
from daybook.features.tasks.settings import load_policy
from daybook.features.tasks.states import TaskRunStatus
from daybook.features.tasks.statistics import CycleSummary, RebuildResult
from daybook.features.tasks.tables import TaskRow, TaskRunRow, TaskSessionRow
from daybook.features.tasks.views import (
    Backlog,
    DrainResult,
    HeldTaskRun,
    QueuedTaskRun,
    SchedulerStatus,
    TaskTotals,
    seconds,
)
from daybook.features.tasks.worker_requests import AgentCapabilities
from daybook.keeper import leader_lease
from daybook.ledger.engine import Ledger, open_ledger
from daybook.redaction import redact_tokens
from daybook.schedules import durations

POLL_INTERVAL_SECONDS = 0.5
"""Interval between two reads of the runs that sessions hold."""

OnChange = Callable[[Sequence[HeldTaskRun]], None]


async def status() -> SchedulerStatus:
    """Return the state of the scheduler, its counts and its problems."""
    async with open_ledger() as ledger:
        leader = await leader_lease.read(ledger, leader_lease.LEADERSHIP_NAME)
        async with ledger.read() as session:
            now = ledger.now()
            snapshot = await counts.read_counts(session, now)
            return SchedulerStatus(
                switch=snapshot.pause,
                runs=leader is not None and leader.leads(now),
                tasks=TaskTotals.of(snapshot, now),
                statistics=await statistics.read(session),
                problems=[str(each) for each in settings_problems() + problems(snapshot, now)],
            )


async def pause(reason: str = "") -> PauseState:
    """Stop wakes and claims until `resume`. Return the state of the pause.

    Raise `InvalidInput` for an invalid reason.
    """
    async with open_ledger() as ledger:
        return await scheduler_pause.pause(ledger, redact_tokens(reason))


async def resume() -> PauseState:
    """End the pause, even if its stored state cannot be read. Return the state of the pause."""
    async with open_ledger() as ledger:
        return await scheduler_pause.resume(ledger)


async def drain(
    timeout: timedelta | str | None = None, reason: str = "", on_change: OnChange | None = None
) -> DrainResult:
    """Pause the scheduler, and wait until no session holds a run, at most for ``timeout``.

    If ``timeout`` is None, wait without a limit. While sessions hold runs, call ``on_change`` with
    these runs, first at the start and then after each change. If the scheduler is already paused,
    the reason of the pause changes only if ``reason`` is given. Return the runs that sessions still
    hold, and the time waited in seconds. Raise `InvalidInput` for an invalid timeout or reason.
    """
    if isinstance(timeout, str):
        timeout = durations.parse(timeout, "timeout")
    async with open_ledger() as ledger:
        async with ledger.read() as session:
            current = await scheduler_pause.read(session)
        if not current.paused or reason:
            await scheduler_pause.pause(ledger, redact_tokens(reason) or "draining")
        started, left = time.monotonic(), await _held_runs(ledger)
        reported: list[str] = []
        while left:
            if on_change and (ids := [each.run_id for each in left]) != reported:
                on_change(left)
                reported = ids
            waited = time.monotonic() - started
            if timeout is not None and waited >= timeout.total_seconds():
                break
            remaining = (
                POLL_INTERVAL_SECONDS if timeout is None else timeout.total_seconds() - waited
            )
            await asyncio.sleep(min(POLL_INTERVAL_SECONDS, remaining))
            left = await _held_runs(ledger)
    waited = round(time.monotonic() - started, 3)
    return DrainResult(drained=not left, waited_seconds=waited, left=left)


async def backlog(limit: int = 50) -> Backlog:
    """Return the counts of all queued runs, and the first ``limit`` queued runs in claim order."""
    async with open_ledger() as ledger, ledger.read() as session:
        queued, now = await queue.runs(session, status=[TaskRunStatus.QUEUED]), ledger.now()
        live = await sessions.live_sessions(session, now)
        pause_state = await scheduler_pause.read(session)
    url = operations.wake_url()
    wakeable = {row.name for row, _ in live if wakes.can_be_woken(row, url, now)}
    oldest = min((run.queued_at for _, run in queued), default=None)
    candidates = [each for _, each in live]
    return Backlog(
        pending=len(queued),
        oldest_seconds=None if oldest is None else seconds(now - oldest),
        by_priority={
            word: sum(task.priority == rank for task, _ in queued)
            for rank, word in enumerate(PRIORITIES)
        },
        starving=sum(run.starved_cycles > 0 and not task.paused for task, run in queued),
        **dict(pause_state if pause_state.paused else PauseState()),
        runs=[
            QueuedTaskRun(
                run_id=run.id,
                task_id=task.id,
                title=task.title,
                priority=PRIORITIES[task.priority],
                queued_at=run.queued_at,
                queued_seconds=seconds(now - run.queued_at),
                starved_cycles=run.starved_cycles,
                steps=run.tiers,
                attention=run.attention,
                why=_why(RunRequirements.of(task, run), candidates, wakeable, now),
            )
            for task, run in queued[:limit]
        ],
    )


async def cycle() -> CycleSummary:
    """Run one cycle in this process, in addition to the keeper's cycles. Return its summary.

    Without Prefect, a later cycle requests the worker and reports a starving run. Raise
    `InvalidInput` for invalid settings in `[tasks]`.
    """
    async with open_ledger() as ledger:
        report = await cycles.cycle(
            ledger,
            policy=load_policy(),
            notifier=_notify_prefect,
            capabilities_of=_capabilities,
        )
        return report.summary()


async def _notify_prefect(starving: StarvingRun) -> None:
    from daybook.prefect import client as prefect

    async with prefect.connected() as client:
        await notifier.prefect_notifier(client)(starving)


async def _capabilities() -> AgentCapabilities:
    from daybook.agents import documents
    from daybook.prefect import client as prefect

    async with prefect.connected() as client:
        return await documents.capabilities(client)


async def rebuild() -> RebuildResult:
    """Clear the record of recent wakes, so that the scheduler may wake every session again.

    The counts and the completed steps of the escalation policy stay. Raise `InvalidInput` for
    invalid settings in `[tasks]`.
    """
    policy = load_policy()
    async with open_ledger() as ledger:
        return await scheduler.rebuild(ledger, policy)


@dataclass(frozen=True)
class TaskProblem:
    """A problem for the operator, and its fix.

    ``what`` is the problem, ``command`` is the command to run, and ``does`` is the command's
    effect.
    """

    what: str
    command: str
    does: str

    def __str__(self) -> str:
        return f"{self.what}; `{self.command}` {self.does}"


def settings_problems() -> list[TaskProblem]:
    """Return the problems of the settings in `[tasks]`.

    A running keeper still uses the earlier values.
    """
    try:
        load_policy()
    except InvalidInput as error:
        return [
            TaskProblem(
                f"the settings in [tasks] are invalid: {error}", "daybook doctor", "shows details"
            )
        ]
    return []


def problems(found: TaskCounts, now: datetime) -> list[TaskProblem]:
    """Return the problems of the tasks that need an operator."""
    listed = []
    switched = found.pause
    if switched.paused:
        is_ = "has been paused" if switched.at else "is paused"
        since = f" for {duration_in_words(now - switched.at)}" if switched.at else ""
        why = f": {switched.reason}" if switched.reason else ""
        what = f"the task scheduler {is_}{since}{why}"
        listed.append(TaskProblem(what, "daybook task scheduler resume", "resumes it"))
    if count := found.attention:
        what = "a task needs attention" if count == 1 else f"{count:,} tasks need attention"
        listed.append(TaskProblem(what, "daybook task list", "shows why"))
    if count := found.starving:
        text = "a task is starving: no session claims it"
        what = text if count == 1 else f"{count:,} tasks are starving: no session claims them"
        listed.append(TaskProblem(what, "daybook task scheduler backlog", "shows why"))
    return listed


def _why(
    wanted: RunRequirements, candidates: Sequence[Candidate], woken: Collection[str], now: datetime
) -> str:
    """Return the reason why no session claims the run."""
    why = matching.why_waiting(wanted, candidates, now)
    free = {each.name for each in candidates if not matching.refusal_reason(wanted, each, now)}
    return f"{why}, but cannot be woken" if free and free.isdisjoint(woken) else why


async def _held_runs(ledger: Ledger) -> list[HeldTaskRun]:
    async with ledger.read() as session:
        listed = []
        for run_id in await scheduler_pause.claimed_run_ids(session, ledger.now()):
            run = await session.get_one(TaskRunRow, run_id)
            if run.session_id is None:  # the run has just ended
                continue
            task = await session.get_one(TaskRow, run.task_id)
            holder = await session.get(TaskSessionRow, run.session_id)
            listed.append(
                HeldTaskRun(
                    run_id=run.id,
                    title=task.title,
                    session=holder.name if holder else None,
                    lease_until=run.lease_until,
                )
            )
        return listed
