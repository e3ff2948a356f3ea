"""Tasks for idle sessions: add, list, show, change; sessions; claims and what becomes of them.

The only way in for the command line, MCP and programs; the scheduler's verbs are in
`service.task_scheduler`. Whoever acts is `owners.current`. Needs no Prefect. What is said of a run
is kept without the token of a claim in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook import settings
from daybook.api import task_views as views
from daybook.errors import InvalidInput
from daybook.ledger.engine import Ledger, open_ledger
from daybook.ledger.run_json import utc
from daybook.ledger.task_tables import TaskRow, TaskRunRow, TaskSessionRow
from daybook.tasks import claims, queue, sessions
from daybook.tasks import model as spec
from daybook.tasks import views as figures
from daybook.tasks.states import Status

# --- tasks


async def add(
    title: str,
    *,
    instructions: str = "",
    priority: str = spec.MEDIUM,
    owner: str = spec.ANYONE,
    workspace: str = "",
    channel: str = "",
    capabilities: Iterable[str] = (),
    preferred: Iterable[str] = (),
    paused: bool = False,
) -> dict[str, Any]:
    """Queue a task, with its first run. Raises `InvalidInput`.

    `{"id", "run_id", "status", "title", …, "run"}`, as `task_views.both` has it.
    """
    async with open_ledger() as ledger:
        row, run = await queue.add(
            ledger,
            title,
            instructions=instructions,
            priority=priority,
            owner=owner,
            workspace=workspace,
            channel=channel,
            capabilities=list(capabilities),
            preferred=list(preferred),
            paused=paused,
        )
        return views.both(row, run, ledger.now())


async def list_tasks(status: str | None = None, limit: int = 50) -> list[dict[str, Any]]:
    """Tasks, each with its newest run: those that are live as they will be claimed, then those
    that have ended, the newest first. Only those of ``status`` where it is given; else
    `InvalidInput`.
    """
    legal = tuple(str(each) for each in Status)
    if status is not None and status not in legal:
        raise InvalidInput("status", f'"{status}" is not legal', f"legal: {', '.join(legal)}")
    async with open_ledger() as ledger, ledger.read() as session:
        which = None if status is None else Status(status)
        found = await figures.listed(session, which, limit)
        names, now = await _names(session, [run for _, run in found]), ledger.now()
        return [views.both(task, run, now, names) for task, run in found]


async def show(ref: str) -> dict[str, Any]:
    """One task, all its `runs`, the newest first, and under `history` what happened to them.

    ``ref`` is the id of the task or of a run, the unique beginning of one, or the title. Raises
    `NotFound`, `Ambiguous`.
    """
    async with open_ledger() as ledger, ledger.read() as session:
        task, newest = await queue.find(session, ref)
        wanted = select(TaskRunRow).where(col(TaskRunRow.task_id) == task.id)
        ordered = wanted.order_by(col(TaskRunRow.number).desc())
        runs = list((await session.execute(ordered)).scalars())
        names, now = await _names(session, runs), ledger.now()
        history = [
            views.event(each)
            for run in reversed(runs)
            for each in await queue.events(session, run.id)
        ]
        return views.both(task, newest, now, names) | {
            "runs": [views.run(each, now, names) for each in runs],
            "history": history,
        }


async def pause(ref: str, reason: str = "") -> dict[str, Any]:
    """Let nobody claim a task until `resume`; who holds it goes on. Gives the task."""
    async with open_ledger() as ledger:
        await queue.pause(ledger, ref, spec.without_tokens(reason))
        return await _brief(ledger, ref)


async def resume(ref: str) -> dict[str, Any]:
    """Let a paused task be claimed again. Gives the task."""
    async with open_ledger() as ledger:
        await queue.resume(ledger, ref)
        return await _brief(ledger, ref)


async def retry(ref: str) -> dict[str, Any]:
    """Queue another run of a task that failed or was cancelled. Raises `InvalidInput` after the
    10th.
    """
    async with open_ledger() as ledger:
        run = await queue.retry(ledger, ref)
        return await _brief(ledger, run.id)


async def recover(ref: str, reason: str = "") -> dict[str, Any]:
    """Take a run from whoever holds it, or that needs attention, and queue it again."""
    async with open_ledger() as ledger:
        await queue.recover(ledger, ref, spec.without_tokens(reason))
        return await _brief(ledger, ref)


async def cancel(ref: str, reason: str = "") -> dict[str, Any]:
    """End a run that has not ended; whoever holds it is refused from now on."""
    async with open_ledger() as ledger:
        await queue.cancel(ledger, ref, spec.without_tokens(reason))
        return await _brief(ledger, ref)


# --- claims


async def next_run(session: str, lease: timedelta | str | None = None) -> dict[str, Any]:
    """Claim the first run that fits the session of this name: `{"run_id", "token", "lease_until",
    "task"}`.

    The token is told here alone. Raises `NothingClaimable`, saying why, `NotFound`, `InvalidInput`.
    """
    async with open_ledger() as ledger:
        claimed = await claims.claim(ledger, session, spec.lease(lease))
        return {
            "run_id": claimed.run.id,
            "token": claimed.token,
            "lease_until": utc(claimed.run.lease_until),
            "task": views.task(claimed.task),
        }


async def heartbeat(run: str, token: str, lease: timedelta | str | None = None) -> dict[str, Any]:
    """Hold a run longer: its lease, or this one, begins anew now. Raises `TokenRefused`."""
    length = None if lease is None else spec.lease(lease)
    async with open_ledger() as ledger:
        return await _run(ledger, await claims.heartbeat(ledger, run, token, length))


async def complete(run: str, token: str, output: str = "") -> dict[str, Any]:
    """It is done; ``output`` is kept with it. Raises `TokenRefused`, `InvalidInput`."""
    said = spec.without_tokens(spec.text(output, "output"))
    async with open_ledger() as ledger:
        return await _run(ledger, await claims.complete(ledger, run, token, said))


async def fail(run: str, token: str, error: str) -> dict[str, Any]:
    """It could not be done, and why. Raises `TokenRefused`, `InvalidInput`."""
    said = spec.without_tokens(spec.text(error, "error"))
    async with open_ledger() as ledger:
        return await _run(ledger, await claims.fail(ledger, run, token, said))


async def release(run: str, token: str, reason: str = "") -> dict[str, Any]:
    """Give it back to the queue, at its old place. Raises `TokenRefused`, `InvalidInput`."""
    said = spec.without_tokens(reason)
    async with open_ledger() as ledger:
        return await _run(ledger, await claims.release(ledger, run, token, said))


# --- sessions


async def register(
    name: str,
    *,
    agent: str | None = None,
    type: str = "",
    workspace: str = "",
    channel: str = "",
    capabilities: Iterable[str] = (),
) -> dict[str, Any]:
    """Say that an agent is there for tasks: idle, not prompting, until it is silent for long.

    The same name again by the same owner replaces what was said before. Raises `InvalidInput`.
    """
    async with open_ledger() as ledger:
        row = await sessions.register(
            ledger,
            name,
            agent=agent,
            type=type,
            workspace=workspace,
            channel=channel,
            capabilities=list(capabilities),
        )
        return await _session(ledger, row)


async def report(
    name: str, *, state: str | None = None, prompting: bool | None = None
) -> dict[str, Any]:
    """Say how a session is: `idle` or `active`, and whether it waits for a person to answer.

    What is None is as before. Raises `InvalidInput`, `NotFound`.
    """
    async with open_ledger() as ledger:
        row = await sessions.report(ledger, name, state=state, prompting=prompting)
        return await _session(ledger, row)


async def list_sessions() -> list[dict[str, Any]]:
    """The sessions that are registered, by name; one that was silent for long says `expired`."""
    async with open_ledger() as ledger, ledger.read() as session:
        rows, now = await sessions.every(session), ledger.now()
        held = await _held(session)
        hook = hooked()
        return [views.session(each, now, held.get(each.id), hook=hook) for each in rows]


async def find_session(name: str) -> dict[str, Any]:
    """The session of this name. Raises `NotFound`, also for another's."""
    async with open_ledger() as ledger, ledger.read() as session:
        return await _as_shown(session, await sessions.find(session, name), ledger.now())


async def remove_session(name: str) -> dict[str, Any]:
    """Forget a session; a run that it holds is queued again. Gives what it was."""
    async with open_ledger() as ledger:
        async with ledger.read() as session:
            gone = await _as_shown(session, await sessions.find(session, name), ledger.now())
        await sessions.remove(ledger, name)
        return gone


def hooked() -> bool:
    """Whether a webhook wakes the sessions to which no MCP server is connected."""
    return bool(settings.load().tasks.get("wake_url"))


# --- as they are shown


async def _brief(ledger: Ledger, ref: str) -> dict[str, Any]:
    async with ledger.read() as session:
        task, run = await queue.find(session, ref)
        return views.both(task, run, ledger.now(), await _names(session, [run]))


async def _run(ledger: Ledger, row: TaskRunRow) -> dict[str, Any]:
    async with ledger.read() as session:
        task = await session.get_one(TaskRow, row.task_id)
        names = await _names(session, [row])
        return views.run(row, ledger.now(), names) | {"title": task.title}


async def _session(ledger: Ledger, row: TaskSessionRow) -> dict[str, Any]:
    async with ledger.read() as session:
        return await _as_shown(session, row, ledger.now())


async def _as_shown(session: AsyncSession, row: TaskSessionRow, now: datetime) -> dict[str, Any]:
    held = await sessions.held_by(session, row)
    return views.session(row, now, None if held is None else held.id, hook=hooked())


async def _names(session: AsyncSession, runs: Iterable[TaskRunRow]) -> dict[str, str]:
    """The names of the sessions that hold these runs, by id."""
    ids = {each.session_id for each in runs if each.session_id}
    if not ids:
        return {}
    wanted = select(TaskSessionRow.id, TaskSessionRow.name).where(col(TaskSessionRow.id).in_(ids))
    return {key: name for key, name in (await session.execute(wanted)).all()}


async def _held(session: AsyncSession) -> dict[str, str]:
    """Which run each session holds, by the session's id."""
    wanted = select(TaskRunRow.session_id, TaskRunRow.id).where(
        col(TaskRunRow.session_id).is_not(None)
    )
    return {str(key): run for key, run in (await session.execute(wanted)).all()}
