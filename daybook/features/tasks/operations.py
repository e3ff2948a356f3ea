"""Operations on tasks and task sessions: queue, list, change, claim and finish.

The command line, MCP and programs use these operations. They return the models of `views`, act for
`owners.current_actor()` and work without Prefect. They remove a claim's token from every text that
they store with a run. `scheduler_operations` has the operations on the scheduler.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook import settings
from daybook.errors import InvalidInput, NothingClaimable
from daybook.features.tasks import claims, queue, sessions
from daybook.features.tasks import model as task_model
from daybook.features.tasks.settings import TaskSettings
from daybook.features.tasks.states import TaskRunStatus
from daybook.features.tasks.tables import TaskRow, TaskRunRow, TaskSessionRow
from daybook.features.tasks.views import (
    ClaimedTaskRun,
    Task,
    TaskDetails,
    TaskEvent,
    TaskRun,
    TaskSession,
    TaskWithRun,
    TitledTaskRun,
)
from daybook.ledger.engine import Ledger, open_ledger
from daybook.names import Id
from daybook.redaction import redact_tokens
from daybook.schedules import durations

# --- tasks


async def add(
    title: str,
    *,
    instructions: str = "",
    priority: str = task_model.MEDIUM,
    owner: str = task_model.ANY_SESSION,
    workspace: str = "",
    channel: str = "",
    capabilities: Iterable[str] = (),
    preferred: Iterable[str] = (),
    paused: bool = False,
) -> TaskWithRun:
    """Queue a task with its first run. Return both. Raise `InvalidInput`."""
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
        return TaskWithRun.of(row, run, ledger.now(), {})


async def list_tasks(status: str | None = None, limit: int = 50) -> list[TaskWithRun]:
    """Return up to ``limit`` tasks, each with its newest run: first live tasks, then ended tasks.

    Of the live tasks, those that need attention come first, then claimed ones, then queued ones in
    claim order. Ended tasks are sorted by their end, the latest first. ``status`` selects the tasks
    whose newest run has that status. Raise `InvalidInput` for an unknown status.
    """
    statuses = tuple(str(each) for each in TaskRunStatus)
    if status is not None and status not in statuses:
        hint = f"use one of {', '.join(statuses)}"
        raise InvalidInput("status", f'"{status}" is not a status', hint)
    async with open_ledger() as ledger, ledger.read() as session:
        selected = None if status is None else TaskRunStatus(status)
        listed = await queue.list_tasks(session, selected, limit)
        names, now = await _names(session, [run for _, run in listed]), ledger.now()
        return [TaskWithRun.of(task, run, now, names) for task, run in listed]


async def show(ref: str) -> TaskDetails:
    """Return one task with all its `runs`, newest first, and its `history`, oldest event first.

    ``ref`` is the id of the task or of one of its runs, a unique prefix of such an id, or the
    task's title. Raise `NotFound`, `Ambiguous`.
    """
    async with open_ledger() as ledger, ledger.read() as session:
        task, newest = await queue.find(session, ref)
        query = select(TaskRunRow).where(col(TaskRunRow.task_id) == task.id)
        ordered = query.order_by(col(TaskRunRow.number).desc())
        runs = list((await session.execute(ordered)).scalars())
        names, now = await _names(session, runs), ledger.now()
        history = [
            TaskEvent.of(each)
            for run in reversed(runs)
            for each in await queue.events(session, run.id)
        ]
        views_of_runs = [TaskRun.of(each, now, names) for each in runs]
        return TaskDetails.of(task, newest, now, names, runs=views_of_runs, history=history)


async def pause(ref: str, reason: str = "") -> TaskWithRun:
    """Stop wakes and claims for a task until `resume`. Return the task.

    A session that holds the task's run continues. Raise `NotFound`, `Ambiguous`, and `InvalidInput`
    for an invalid reason.
    """
    async with open_ledger() as ledger:
        _, run = await queue.pause(ledger, ref, redact_tokens(reason))
        return await _read_task(ledger, Id(run.id))


async def resume(ref: str) -> TaskWithRun:
    """Allow claims of a paused task again. Return the task. Raise `NotFound`, `Ambiguous`."""
    async with open_ledger() as ledger:
        _, run = await queue.resume(ledger, ref)
        return await _read_task(ledger, Id(run.id))


async def retry(ref: str) -> TaskWithRun:
    """Queue another run of a task that failed, was cancelled, or needs attention. Return the task.

    Raise `NotFound`, `Ambiguous`, and `InvalidInput` for any other task, a run that is not the
    task's newest, and after the 10th run.
    """
    async with open_ledger() as ledger:
        run = await queue.retry(ledger, ref)
        return await _read_task(ledger, Id(run.id))


async def recover(ref: str, reason: str = "") -> TaskWithRun:
    """Put a run that is claimed or needs attention back into the queue. Return its task.

    For a queued run about which the operator was alerted, the waiting time starts again. Raise
    `NotFound`, `Ambiguous`, and `InvalidInput` for any other run or an invalid reason.
    """
    async with open_ledger() as ledger:
        run = await queue.recover(ledger, ref, redact_tokens(reason))
        return await _read_task(ledger, Id(run.id))


async def cancel(ref: str, reason: str = "") -> TaskWithRun:
    """Cancel a live run. Return the task. Later calls with the run's token are refused.

    Raise `NotFound`, `Ambiguous`, and `InvalidInput` for a run that has ended or an invalid reason.
    """
    async with open_ledger() as ledger:
        run = await queue.cancel(ledger, ref, redact_tokens(reason))
        return await _read_task(ledger, Id(run.id))


# --- claims


async def next_run(
    session: str,
    lease: timedelta | str | None = None,
    *,
    priority_min: str = task_model.LOWEST,
    idempotency_key: str | None = None,
    wait: timedelta | str | None = None,
) -> ClaimedTaskRun:
    """Claim the first run that the session ``session`` can claim, of at least ``priority_min``.

    If there is no such run, wait for one, at most for ``wait``; the session stays live meanwhile.
    Only this call returns the run's token. If you did not get the answer, repeat the call with the
    same ``idempotency_key``: it returns the run that the session already holds, with a new token
    and lease. If the session no longer holds the run of a key, a call with this key claims nothing,
    and does not wait. Raise `NothingClaimable` with the reason, `NotFound` for the session, and
    `InvalidInput` for an invalid value.
    """
    if isinstance(wait, str):
        wait = durations.parse(wait, "wait")
    deadline = time.monotonic() + (wait.total_seconds() if wait else 0.0)
    while True:
        try:
            return await _claim(session, lease, priority_min, idempotency_key)
        except NothingClaimable as error:
            left = deadline - time.monotonic()
            if error.is_final or left <= 0:
                raise
        # Claim again after each part of a long wait, because a claim is a sign of life.
        part = min(left, sessions.TOUCH_INTERVAL.total_seconds())
        await wait_until_claimable(session, part, priority_min)


async def _claim(
    session: str, lease: timedelta | str | None, priority_min: str, key: str | None
) -> ClaimedTaskRun:
    async with open_ledger() as ledger:
        length = task_model.lease_duration(lease)
        claimed = await claims.claim(ledger, session, length, priority_min=priority_min, key=key)
        assert claimed.run.lease_until is not None  # the run was claimed just now
        return ClaimedTaskRun(
            run_id=claimed.run.id,
            token=claimed.token,
            lease_until=claimed.run.lease_until,
            task=Task.of(claimed.task),
        )


async def heartbeat(run: str, token: str, lease: timedelta | str | None = None) -> TitledTaskRun:
    """Renew the lease of a run from now. Return the run.

    ``lease`` is the new duration; None keeps the previous one. Raise `TokenRefused`, `NotFound`,
    `Ambiguous`, and `InvalidInput` for an invalid lease.
    """
    length = None if lease is None else task_model.lease_duration(lease)
    async with open_ledger() as ledger:
        return await _read_run(ledger, await claims.heartbeat(ledger, run, token, length))


async def complete(run: str, token: str, output: str = "") -> TitledTaskRun:
    """Record that the work is done, with its ``output``. Return the run.

    Raise `TokenRefused`, `NotFound`, `Ambiguous`, and `InvalidInput` for an invalid output.
    """
    text = redact_tokens(task_model.check_text(output, "output"))
    async with open_ledger() as ledger:
        return await _read_run(ledger, await claims.complete(ledger, run, token, text))


async def fail(run: str, token: str, error: str) -> TitledTaskRun:
    """Record that the work failed with ``error``. Return the run.

    Raise `TokenRefused`, `NotFound`, `Ambiguous`, and `InvalidInput` for an invalid error text.
    """
    text = redact_tokens(task_model.check_text(error, "error"))
    async with open_ledger() as ledger:
        return await _read_run(ledger, await claims.fail(ledger, run, token, text))


async def release(run: str, token: str, reason: str = "") -> TitledTaskRun:
    """Put the run back into the queue, at its old position. Return the run.

    Raise `TokenRefused`, `NotFound`, `Ambiguous`, and `InvalidInput` for an invalid reason.
    """
    text = redact_tokens(reason)
    async with open_ledger() as ledger:
        return await _read_run(ledger, await claims.release(ledger, run, token, text))


# --- sessions


async def register(
    name: str,
    *,
    agent: str | None = None,
    type: str = "",
    workspace: str = "",
    channel: str = "",
    capabilities: Iterable[str] = (),
) -> TaskSession:
    """Register a task session as idle and not prompting. Return the session.

    It expires 15 minutes after its last call, unless it has an open MCP stream. If its owner
    registers it again, the session is updated and keeps the run that it holds. Raise `InvalidInput`
    for an invalid value, and if another owner's session has the name, unless that session has
    expired and holds no run.
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
        return await _read_session(ledger, row)


async def report(
    name: str, *, state: str | None = None, prompting: bool | None = None
) -> TaskSession:
    """Report a session's state: `idle` or `active`, and whether it waits for a person's answer.

    None leaves a value unchanged. An expired session becomes live again. Raise `NotFound`, and
    `InvalidInput` for an unknown state.
    """
    async with open_ledger() as ledger:
        row = await sessions.report(ledger, name, state=state, prompting=prompting)
        return await _read_session(ledger, row)


async def list_sessions() -> list[TaskSession]:
    """Return the sessions that the actor may see, sorted by name, including expired ones."""
    async with open_ledger() as ledger, ledger.read() as session:
        rows, now = await sessions.visible_sessions(session), ledger.now()
        query = select(TaskRunRow.session_id, TaskRunRow.id).where(
            col(TaskRunRow.session_id).is_not(None)
        )
        held = {str(key): run for key, run in (await session.execute(query)).all()}
        webhook = bool(wake_url())
        return [TaskSession.of(each, now, held.get(each.id), webhook=webhook) for each in rows]


async def find_session(name: str) -> TaskSession:
    """Return the session with this name. Raise `NotFound`. An agent finds only its own sessions."""
    async with open_ledger() as ledger, ledger.read() as session:
        return await _session_view(session, await sessions.find(session, name), ledger.now())


async def remove_session(name: str) -> TaskSession:
    """Remove a session, and put the run that it holds back into the queue.

    Return the session as it was. Raise `NotFound`.
    """
    async with open_ledger() as ledger:
        async with ledger.read() as session:
            removed = await _session_view(session, await sessions.find(session, name), ledger.now())
        await sessions.remove(ledger, name)
        return removed


def wake_url() -> str:
    """Return the address of the webhook that wakes sessions without an MCP connection, or ""."""
    return str(settings.part(TaskSettings).tasks.get("wake_url") or "")


# --- results


async def _read_task(ledger: Ledger, ref: Id) -> TaskWithRun:
    async with ledger.read() as session:
        task, run = await queue.find(session, ref)
        return TaskWithRun.of(task, run, ledger.now(), await _names(session, [run]))


async def _read_run(ledger: Ledger, row: TaskRunRow) -> TitledTaskRun:
    async with ledger.read() as session:
        task = await session.get_one(TaskRow, row.task_id)
        names = await _names(session, [row])
        return TitledTaskRun.of(row, ledger.now(), names, title=task.title)


async def _read_session(ledger: Ledger, row: TaskSessionRow) -> TaskSession:
    async with ledger.read() as session:
        return await _session_view(session, row, ledger.now())


async def _session_view(session: AsyncSession, row: TaskSessionRow, now: datetime) -> TaskSession:
    held = await sessions.held_run(session, row)
    held_id = None if held is None else held.id
    return TaskSession.of(row, now, held_id, webhook=bool(wake_url()))


async def _names(session: AsyncSession, runs: Iterable[TaskRunRow]) -> dict[str, str]:
    """Return the names of the sessions that hold these runs, by session id."""
    ids = {each.session_id for each in runs if each.session_id}
    if not ids:
        return {}
    query = select(TaskSessionRow.id, TaskSessionRow.name).where(col(TaskSessionRow.id).in_(ids))
    return {key: name for key, name in (await session.execute(query)).all()}


POLL_INTERVAL_SECONDS = 1.0
"""Interval between two checks for a claimable run."""


async def is_claimable(name: str) -> bool:
    """Return whether the session with this name could claim a run now. Raise `NotFound`."""
    async with open_ledger() as ledger:
        return await _waits(ledger, name, task_model.LOWEST)


async def wait_until_claimable(
    name: str, seconds: float, priority_min: str = task_model.LOWEST
) -> bool:
    """Wait at most ``seconds`` until the session can claim a run. Return whether it can.

    Only runs of at least ``priority_min`` count. Another session may still claim the run first.
    Raise `NotFound`, and `InvalidInput` for the priority.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    async with open_ledger() as ledger:
        while not await _waits(ledger, name, priority_min):
            left = deadline - loop.time()
            if left <= 0:
                return False
            await asyncio.sleep(min(POLL_INTERVAL_SECONDS, left))
        return True


async def _waits(ledger: Ledger, name: str, priority_min: str) -> bool:
    async with ledger.read() as session:
        row = await sessions.find(session, name)
        return await claims.is_run_available(session, row, ledger.now(), priority_min)
