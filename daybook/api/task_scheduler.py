"""Operations on the task scheduler: status, pause, resume, drain, backlog, cycle, rebuild.

The scheduler never claims. The keeper runs its cycles; these operations are for the operator.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from daybook.api import task_views as views
from daybook.api import tasks
from daybook.errors import InvalidInput
from daybook.keeper import leader_lease
from daybook.ledger.engine import Ledger, open_ledger
from daybook.ledger.run_json import utc_text
from daybook.ledger.task_tables import TaskRow, TaskRunRow, TaskSessionRow
from daybook.schedules import durations
from daybook.schedules.descriptions import duration_in_words
from daybook.tasks import matching, model, queue, sessions, statistics
from daybook.tasks import pause as switch
from daybook.tasks import views as figures
from daybook.tasks.matching import Candidate, RunRequirements
from daybook.tasks.model import PRIORITIES, redact_tokens
from daybook.tasks.notifier import StarvingRun
from daybook.tasks.pause import PauseState
from daybook.tasks.states import Status
from daybook.tasks.views import TaskCounts
from daybook.tasks.worker_requests import AgentCapabilities

POLL_INTERVAL_SECONDS = 0.5
"""Interval between two checks whether all held runs have ended."""

OnChange = Callable[[list[dict[str, Any]]], None]


async def status() -> dict[str, Any]:
    """Return `{"switch", "runs", "tasks", "statistics", "problems"}`.

    `runs` is whether a keeper leads, and so runs the cycles; `tasks` is as in `as_view`;
    `statistics` are the counts of all cycles, with the last report.
    """
    async with open_ledger() as ledger:
        leader = await leader_lease.read(ledger, leader_lease.LEADERSHIP_NAME)
        async with ledger.read() as session:
            now = ledger.now()
            snapshot = await figures.read_counts(session, now)
            counts = await statistics.read(session)
    if last := counts["last_cycle"]:
        counts["last_cycle"] = last | {"at": utc_text(datetime.fromisoformat(last["at"]))}
    return {
        "switch": _switch_view(snapshot.switch),
        "runs": leader is not None and leader.leads(now),
        "tasks": as_view(snapshot, now),
        "statistics": counts,
        "problems": [str(each) for each in settings_problems() + problems(snapshot, now)],
    }


async def pause(reason: str = "") -> dict[str, Any]:
    """Wake no session and allow no claim until `resume`: `{"paused", "reason", "at", "actor"}`."""
    async with open_ledger() as ledger:
        return _switch_view(await switch.pause(ledger, redact_tokens(reason)))


async def resume() -> dict[str, Any]:
    """End the pause, even if its flag cannot be read."""
    async with open_ledger() as ledger:
        return _switch_view(await switch.resume(ledger))


async def drain(
    timeout: timedelta | str | None = None, reason: str = "", told: OnChange | None = None
) -> dict[str, Any]:
    """Pause, and wait until no session holds a run; without ``timeout``, wait without limit.

    Return `{"drained", "waited_seconds", "left"}`: ``left`` are the runs still held at the end.
    ``told`` is called with the held runs whenever they change. A scheduler that is paused already
    keeps its reason. Raise `InvalidInput`.
    """
    if isinstance(timeout, str):
        timeout = durations.parse(timeout, "timeout")
    async with open_ledger() as ledger:
        async with ledger.read() as session:
            current = await switch.read(session)
        if not current.paused or reason:
            await switch.pause(ledger, redact_tokens(reason) or "draining")
        started, left = time.monotonic(), await _held_runs(ledger)
        reported: list[str] = []
        while left:
            if told and (ids := [each["run_id"] for each in left]) != reported:
                told(left)
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
    return {"drained": not left, "waited_seconds": waited, "left": left}


async def backlog(limit: int = 50) -> dict[str, Any]:
    """Return the queued runs: `{"pending", "oldest_seconds", "by_priority", "starving", "paused",
    "reason", "at", "actor", "runs"}`, where `at` and `actor` describe a current pause.

    ``runs`` are the first ``limit`` runs in claim order, each with `why` it is not claimed yet.
    """
    async with open_ledger() as ledger, ledger.read() as session:
        queued, now = await queue.runs(session, status=[Status.QUEUED]), ledger.now()
        candidates = await figures.live_candidates(session, now)
        listed_sessions = await sessions.visible_sessions(session)
        current_switch = await switch.read(session)
    hook = tasks.has_wake_webhook()
    woken = {each.name for each in listed_sessions if hook or views.session(each, now)["connected"]}
    oldest = min((run.queued_at for _, run in queued), default=None)
    return {
        "pending": len(queued),
        "oldest_seconds": None if oldest is None else _seconds(now - oldest),
        "by_priority": {
            word: sum(task.priority == rank for task, _ in queued)
            for rank, word in enumerate(PRIORITIES)
        },
        "starving": sum(run.starved_cycles > 0 for _, run in queued),
        **_switch_view(current_switch if current_switch.paused else PauseState()),
        "runs": [
            {
                "run_id": run.id,
                "task_id": task.id,
                "title": task.title,
                "priority": PRIORITIES[task.priority],
                "queued_at": utc_text(run.queued_at),
                "queued_seconds": _seconds(now - run.queued_at),
                "starved_cycles": run.starved_cycles,
                "steps": list(run.tiers),
                "attention": run.attention,
                "why": _why(RunRequirements.of(task, run), candidates, woken, now),
            }
            for task, run in queued[:limit]
        ],
    }


async def cycle() -> dict[str, Any]:
    """Run one cycle in this process, in addition to the keeper's; return its report as JSON.

    The report is a `daybook.tasks.statistics.CycleReport`. Prefect is used only to spawn a worker
    or to report a starving run; if it is not reachable, a later cycle does those steps. Raise
    `InvalidInput` for `[tasks]`.
    """
    from daybook.tasks import cycle as cycles

    async with open_ledger() as ledger:
        report = await cycles.cycle(
            ledger,
            policy=model.load_policy(),
            notifier=_notify_prefect,
            capabilities_of=_capabilities,
        )
        return report.as_json() | {"at": utc_text(report.at)}


async def _notify_prefect(starving: StarvingRun) -> None:
    from daybook.prefect import client as prefect
    from daybook.tasks import notifier

    async with prefect.connected() as client:
        await notifier.prefect_notifier(client)(starving)


async def _capabilities() -> AgentCapabilities:
    from daybook.agents import documents
    from daybook.prefect import client as prefect

    async with prefect.connected() as client:
        return await documents.capabilities(client)


async def rebuild() -> dict[str, Any]:
    """Forget the recent wakes, so that every session may be woken again. Return the statistics.

    The counts and completed steps of the escalation policy stay.
    """
    async with open_ledger() as ledger:
        return await statistics.rebuild(ledger)


def as_view(found: TaskCounts, now: datetime) -> dict[str, Any]:
    """Return `{"queued", "claimed", "needs_attention", "oldest_seconds", "starving", "attention",
    "free", "busy", "paused"}`.

    `attention` counts all runs that need an operator, `free` the sessions that could claim now.
    """
    oldest = found.oldest
    return {str(status): count for status, count in found.live.items()} | {
        "oldest_seconds": None if oldest is None else _seconds(now - oldest),
        "starving": found.starving,
        "attention": found.attention,
        "free": found.free,
        "busy": found.busy,
        "paused": found.switch.paused,
    }


@dataclass(frozen=True)
class TaskProblem:
    """A problem (``what``) for an operator, and a ``command`` with what it ``does`` about it."""

    what: str
    command: str
    does: str

    def __str__(self) -> str:
        return f"{self.what}; `{self.command}` {self.does}"


def settings_problems() -> list[TaskProblem]:
    """Return problems of `[tasks]` in the settings; a running keeper keeps its earlier values."""
    try:
        model.load_policy()
    except InvalidInput as error:
        return [
            TaskProblem(
                f"the thresholds of tasks are refused: {error}", "daybook doctor", "says more"
            )
        ]
    return []


def problems(found: TaskCounts, now: datetime) -> list[TaskProblem]:
    """Return the problems that need an operator."""
    listed = []
    switched = found.switch
    if switched.paused:
        is_ = "has been paused" if switched.at else "is paused"
        since = f" for {duration_in_words(now - switched.at)}" if switched.at else ""
        why = f": {switched.reason}" if switched.reason else ""
        what = f"the task scheduler {is_}{since}{why}"
        listed.append(TaskProblem(what, "daybook task scheduler resume", "lets it go on"))
    if count := found.attention:
        what = "a task needs attention" if count == 1 else f"{count:,} tasks need attention"
        listed.append(TaskProblem(what, "daybook task list", "says why"))
    if count := found.starving:
        text = "a task starves: nobody claims it"
        what = text if count == 1 else f"{count:,} tasks starve: nobody claims them"
        listed.append(TaskProblem(what, "daybook task scheduler backlog", "says why"))
    return listed


def _why(
    wanted: RunRequirements, candidates: Sequence[Candidate], woken: Collection[str], now: datetime
) -> str:
    """Return why the run is not claimed, and if no session that fits can be woken."""
    why = figures.why_waiting(wanted, candidates, now)
    free = {each.name for each in candidates if not matching.refusal_reason(wanted, each, now)}
    return f"{why}, but cannot be woken" if free and free.isdisjoint(woken) else why


async def _held_runs(ledger: Ledger) -> list[dict[str, Any]]:
    """Return the runs that sessions hold: `{"run_id", "title", "session", "lease_until"}`."""
    async with ledger.read() as session:
        listed = []
        for run_id in await switch.claimed_run_ids(session, ledger.now()):
            run = await session.get_one(TaskRunRow, run_id)
            if run.session_id is None:  # it ended in the meantime
                continue
            task = await session.get_one(TaskRow, run.task_id)
            holder = await session.get(TaskSessionRow, run.session_id)
            listed.append(
                {
                    "run_id": run.id,
                    "title": task.title,
                    "session": holder.name if holder else None,
                    "lease_until": utc_text(run.lease_until),
                }
            )
        return listed


def _switch_view(found: PauseState) -> dict[str, Any]:
    return found.as_json() | {"at": utc_text(found.at)}


def _seconds(length: timedelta) -> float:
    return round(max(0.0, length.total_seconds()), 3)
