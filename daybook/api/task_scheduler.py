"""The scheduler of tasks: how it is, pause, resume, drain, what waits, a cycle on demand, rebuild.

It never claims. The keeper carries out its cycles; here is what the operator asks of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from daybook.api import overdue, tasks
from daybook.api import task_views as views
from daybook.errors import InvalidInput
from daybook.keeper import leadership
from daybook.ledger.engine import Ledger, open_ledger
from daybook.ledger.run_json import utc
from daybook.ledger.task_tables import TaskRow, TaskRunRow, TaskSessionRow
from daybook.schedules import durations
from daybook.schedules.descriptions import span
from daybook.tasks import escalation, matching, queue, sessions, statistics
from daybook.tasks import pause as switch
from daybook.tasks import views as figures
from daybook.tasks.matching import Candidate, Wanted
from daybook.tasks.model import PRIORITIES, without_tokens
from daybook.tasks.notifier import Starving
from daybook.tasks.pause import Switch
from daybook.tasks.states import Status
from daybook.tasks.views import Figures
from daybook.tasks.worker_requests import Capable

LOOKS = 0.5
"""Seconds between two looks whether all have ended."""

Told = Callable[[list[dict[str, Any]]], None]


async def status() -> dict[str, Any]:
    """`{"switch", "runs", "tasks", "statistics", "problems"}`.

    `runs` is whether a keeper leads, which carries out the cycles; `tasks` is as `as_view` has it,
    `statistics` what the cycles did, with the last report.
    """
    async with open_ledger() as ledger:
        leader = await leadership.read(ledger, overdue.LEAD)
        async with ledger.read() as session:
            now = ledger.now()
            found = await figures.read(session, now)
            told = await statistics.read(session)
    if last := told["last_cycle"]:
        told["last_cycle"] = last | {"at": utc(datetime.fromisoformat(last["at"]))}
    return {
        "switch": _switch(found.switch),
        "runs": leader is not None and leader.leads(now),
        "tasks": as_view(found, now),
        "statistics": told,
        "problems": [str(each) for each in illegal() + problems(found, now)],
    }


async def pause(reason: str = "") -> dict[str, Any]:
    """Nobody is woken and nothing claimed until `resume`: `{"paused", "reason", "at", "actor"}`."""
    async with open_ledger() as ledger:
        return _switch(await switch.pause(ledger, without_tokens(reason)))


async def resume() -> dict[str, Any]:
    """Go on; also where the flag could not be read."""
    async with open_ledger() as ledger:
        return _switch(await switch.resume(ledger))


async def drain(
    timeout: timedelta | str | None = None, reason: str = "", told: Told | None = None
) -> dict[str, Any]:
    """Pause, and wait until no session holds a run; for ever without ``timeout``.

    `{"drained", "waited_seconds", "left"}`: ``left`` are the runs that are held at the end, as
    ``told`` is given them whenever they change. A scheduler that is paused already keeps its
    reason. Raises `InvalidInput`.
    """
    if isinstance(timeout, str):
        timeout = durations.parse(timeout, "timeout")
    async with open_ledger() as ledger:
        async with ledger.read() as session:
            before = await switch.read(session)
        if not before.paused or reason:
            await switch.pause(ledger, without_tokens(reason) or "draining")
        begun, left = time.monotonic(), await _held(ledger)
        shown: list[str] = []
        while left:
            if told and (ids := [each["run_id"] for each in left]) != shown:
                told(left)
                shown = ids
            waited = time.monotonic() - begun
            if timeout is not None and waited >= timeout.total_seconds():
                break
            rest = LOOKS if timeout is None else timeout.total_seconds() - waited
            await asyncio.sleep(min(LOOKS, rest))
            left = await _held(ledger)
    waited = round(time.monotonic() - begun, 3)
    return {"drained": not left, "waited_seconds": waited, "left": left}


async def backlog(limit: int = 50) -> dict[str, Any]:
    """What is queued: `{"pending", "oldest_seconds", "by_priority", "starving", "paused", "reason",
    "at", "actor", "runs"}`, where `at` and `actor` are of a pause that is.

    ``runs`` are the first ``limit``, in the order in which they are claimed, each with `why`
    nobody has it yet.
    """
    async with open_ledger() as ledger, ledger.read() as session:
        found, now = await queue.runs(session, status=[Status.QUEUED]), ledger.now()
        there = await figures.there(session, now)
        listed = await sessions.every(session)
        switched = await switch.read(session)
    hook = tasks.hooked()
    woken = {each.name for each in listed if hook or views.session(each, now)["connected"]}
    oldest = min((run.queued_at for _, run in found), default=None)
    return {
        "pending": len(found),
        "oldest_seconds": None if oldest is None else _seconds(now - oldest),
        "by_priority": {
            word: sum(task.priority == place for task, _ in found)
            for place, word in enumerate(PRIORITIES)
        },
        "starving": sum(run.starved_cycles > 0 for _, run in found),
        **_switch(switched if switched.paused else Switch()),
        "runs": [
            {
                "run_id": run.id,
                "task_id": task.id,
                "title": task.title,
                "priority": PRIORITIES[task.priority],
                "queued_at": utc(run.queued_at),
                "queued_seconds": _seconds(now - run.queued_at),
                "starved_cycles": run.starved_cycles,
                "steps": list(run.tiers),
                "attention": run.attention,
                "why": _why(Wanted.of(task, run), there, woken, now),
            }
            for task, run in found[:limit]
        ],
    }


async def cycle() -> dict[str, Any]:
    """Do one cycle here and now, beside the keeper's: `daybook.tasks.statistics.Report` as JSON.

    Prefect is asked only where a worker is to be spawned, or told that a run starves; without it
    those steps are owed. Raises `InvalidInput` for `[tasks]`.
    """
    from daybook.tasks import cycle as cycles

    async with open_ledger() as ledger:
        report = await cycles.cycle(
            ledger, ladder=escalation.here(), sink=_tell_prefect, capabilities_of=_capabilities
        )
        return report.as_json() | {"at": utc(report.at)}


async def _tell_prefect(starving: Starving) -> None:
    from daybook.prefect import client as prefect
    from daybook.tasks import notifier

    async with prefect.connected() as client:
        await notifier.of_prefect(client)(starving)


async def _capabilities() -> Capable:
    from daybook.agents import documents
    from daybook.prefect import client as prefect

    async with prefect.connected() as client:
        return await documents.capabilities(client)


async def rebuild() -> dict[str, Any]:
    """Forget who was woken a moment ago, so that all may be woken anew; what the ladder has counted
    and done is kept. Gives the statistics.
    """
    async with open_ledger() as ledger:
        return await statistics.rebuild(ledger)


def as_view(found: Figures, now: datetime) -> dict[str, Any]:
    """`{"queued", "claimed", "needs_attention", "oldest_seconds", "starving", "attention", "free",
    "busy", "paused"}`.

    `attention` are all runs that somebody should see to, `free` the sessions that could claim now.
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
class Wrong:
    """What somebody should see to, and the command that ``does`` something about it."""

    what: str
    command: str
    does: str

    def __str__(self) -> str:
        return f"{self.what}; `{self.command}` {self.does}"


def illegal() -> list[Wrong]:
    """That `[tasks]` in the settings is not legal; a keeper that runs goes on with what it had."""
    try:
        escalation.here()
    except InvalidInput as error:
        return [
            Wrong(f"the thresholds of tasks are refused: {error}", "daybook doctor", "says more")
        ]
    return []


def problems(found: Figures, now: datetime) -> list[Wrong]:
    """What somebody should see to."""
    said = []
    switched = found.switch
    if switched.paused:
        is_ = "has been paused" if switched.at else "is paused"
        since = f" for {span(now - switched.at)}" if switched.at else ""
        why = f": {switched.reason}" if switched.reason else ""
        what = f"the task scheduler {is_}{since}{why}"
        said.append(Wrong(what, "daybook task scheduler resume", "lets it go on"))
    if count := found.attention:
        what = "a task needs attention" if count == 1 else f"{count:,} tasks need attention"
        said.append(Wrong(what, "daybook task list", "says why"))
    if count := found.starving:
        one = "a task starves: nobody claims it"
        what = one if count == 1 else f"{count:,} tasks starve: nobody claims them"
        said.append(Wrong(what, "daybook task scheduler backlog", "says why"))
    return said


def _why(wanted: Wanted, there: Sequence[Candidate], woken: Collection[str], now: datetime) -> str:
    """Why nobody has it, and whether anybody of those who could is told."""
    why = figures.why_waiting(wanted, there, now)
    free = {each.name for each in there if not matching.verdict(wanted, each, now)}
    return f"{why}, but cannot be woken" if free and free.isdisjoint(woken) else why


async def _held(ledger: Ledger) -> list[dict[str, Any]]:
    """The runs that sessions hold: `{"run_id", "title", "session", "lease_until"}`."""
    async with ledger.read() as session:
        held = []
        for run_id in await switch.holding(session, ledger.now()):
            run = await session.get_one(TaskRunRow, run_id)
            if run.session_id is None:  # it has ended meanwhile
                continue
            task = await session.get_one(TaskRow, run.task_id)
            of = await session.get(TaskSessionRow, run.session_id)
            held.append(
                {
                    "run_id": run.id,
                    "title": task.title,
                    "session": of.name if of else None,
                    "lease_until": utc(run.lease_until),
                }
            )
        return held


def _switch(found: Switch) -> dict[str, Any]:
    return found.as_json() | {"at": utc(found.at)}


def _seconds(length: timedelta) -> float:
    return round(max(0.0, length.total_seconds()), 3)
