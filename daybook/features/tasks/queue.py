"""Queue of tasks: adding and pausing tasks, and the operator's actions on their runs.

A task has one run from the start, and another for each retry, at most
`daybook.features.tasks.model.MAX_RUNS_PER_TASK`. The outcome of the task is that of its last run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from sqlalchemy import case, true
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased
from sqlmodel import col, select

from daybook import names, owners
from daybook.errors import InvalidInput
from daybook.features.tasks import model, rows
from daybook.features.tasks.states import ENDED, LIVE, RETRYABLE, TaskRunStatus
from daybook.features.tasks.tables import TASK, TASK_RUN, TaskEventRow, TaskRow, TaskRunRow
from daybook.ledger import references
from daybook.ledger.engine import Ledger
from daybook.names import check_id_form, validate_line

MAX_TITLE_LENGTH = 200

LEADING_EVENTS = frozenset({"added", "retried", "expired", "fan_out"})
"""Events that cause the other events of their transaction, and are therefore listed first."""

TaskAndRun = tuple[TaskRow, TaskRunRow]


async def add(
    ledger: Ledger,
    title: str,
    *,
    instructions: str = "",
    priority: str = model.MEDIUM,
    owner: str = model.ANY_SESSION,
    workspace: str = "",
    channel: str = "",
    capabilities: Iterable[str] = (),
    preferred: Iterable[str] = (),
    paused: bool = False,
) -> TaskAndRun:
    """Add a task and its first run, which is queued now. Return both.

    Raise `InvalidInput`; then nothing was stored.
    """
    title = validate_line(title, "title", MAX_TITLE_LENGTH)
    if not title:
        raise InvalidInput("title", "is blank", f"use 1 to {MAX_TITLE_LENGTH} characters")
    check_id_form(title, "title")
    values: dict[str, Any] = {
        "title": title,
        "instructions": model.check_text(instructions, "instructions"),
        "priority": model.priority_index(priority),
        "owner": model.check_owner(owner),
        "workspace": model.check_word(workspace, "workspace"),
        "channel": model.check_word(channel, "channel"),
        "capabilities": names.validate_capabilities(capabilities),
        "preferred": names.validate_capabilities(preferred, "preferred"),
        "paused": paused,
    }
    async with ledger.write() as session:
        now, actor = ledger.now(), owners.current_actor().owner
        task = TaskRow(**values, created_by=actor, created_at=now)
        session.add(task)
        await session.flush()
        run = TaskRunRow(
            task_id=task.id, status=TaskRunStatus.QUEUED, created_at=now, queued_at=now
        )
        session.add(run)
        await session.flush()
        rows.record_event(session, run, "added", now, actor=actor)
    return task, run


async def runs(
    session: AsyncSession,
    *,
    status: Collection[TaskRunStatus] | None = None,
    limit: int | None = None,
) -> list[TaskAndRun]:
    """Return at most ``limit`` runs in the states ``status``, with their tasks.

    None stands for the live states. The runs are in claim order. But if ``status`` contains a state
    of ended runs, the newest runs come first.
    """
    wanted = LIVE if status is None else frozenset(status)
    query = (
        select(TaskRow, TaskRunRow)
        .join(TaskRunRow, col(TaskRunRow.task_id) == col(TaskRow.id))
        .where(col(TaskRunRow.status).in_(wanted))
    )
    if wanted <= LIVE:
        query = query.order_by(col(TaskRow.priority), col(TaskRunRow.queued_at), col(TaskRunRow.id))
    else:
        query = query.order_by(col(TaskRunRow.created_at).desc(), col(TaskRunRow.id))
    return list((await session.execute(query.limit(limit))).tuples())


async def list_tasks(
    session: AsyncSession, status: TaskRunStatus | None, limit: int
) -> list[TaskAndRun]:
    """Return at most ``limit`` tasks with their newest runs: first live tasks, then ended tasks.

    Of the live tasks, those that need attention come first, then claimed tasks, then queued tasks,
    each group in claim order. Ended tasks are sorted by the time of their end, latest first. With
    ``status``, return only tasks whose newest run has that state.
    """
    pairs: list[TaskAndRun] = []
    newer = aliased(TaskRunRow)
    newest = (
        select(TaskRow, TaskRunRow)
        .join(TaskRunRow, col(TaskRunRow.task_id) == col(TaskRow.id))
        .where(
            ~select(newer.id)
            .where(newer.task_id == TaskRunRow.task_id, newer.number > TaskRunRow.number)
            .exists()
        )
    )
    run = TaskRunRow
    status_rank = case(
        (col(run.status) == TaskRunStatus.NEEDS_ATTENTION, 0),
        (col(run.status) == TaskRunStatus.CLAIMED, 1),
        else_=2,
    )
    live = (status_rank, col(TaskRow.priority), col(run.queued_at), col(run.id))
    ended = (col(run.finished_at).desc(), col(run.id))
    for group, order in ((LIVE, live), (ENDED, ended)):
        statuses = group if status is None else group & {status}
        if statuses and len(pairs) < limit:
            newest_of_group = newest.where(col(run.status).in_(statuses)).order_by(*order)
            pairs += (
                (await session.execute(newest_of_group.limit(limit - len(pairs)))).tuples().all()
            )
    return pairs


async def find(session: AsyncSession, ref: str) -> TaskAndRun:
    """Return a run with its task. ``ref`` is an id of the run or the task, or the task's title.

    For a task, return its newest run. The id may be a unique short id (see `ledger.references`).
    Raise `NotFound`, `Ambiguous`.
    """
    scope = {TASK: true(), TASK_RUN: true()}
    match = await references.resolve(session, ref, scope)
    if match.noun is TASK_RUN:
        run = await session.get_one(TaskRunRow, match.id)
        return await rows.task_of(session, run), run
    return await session.get_one(TaskRow, match.id), await rows.newest_run(session, match.id)


async def events(session: AsyncSession, run_id: str) -> list[TaskEventRow]:
    """Return the events of a run, oldest first."""
    query = select(TaskEventRow).where(col(TaskEventRow.run_id) == run_id)
    rows_found = (await session.execute(query)).scalars()
    return sorted(
        rows_found,
        key=lambda each: (each.at, each.event not in LEADING_EVENTS, each.event, each.id),
    )


# --- actions of the operator


async def pause(ledger: Ledger, ref: str, reason: str = "") -> TaskAndRun:
    """Stop wakes and claims for the task. A session that holds its run continues.

    Raise `InvalidInput` for an invalid reason, and the errors of `find`.
    """
    reason = validate_line(reason, "reason")
    return await _set_paused(ledger, ref, True, reason)


async def resume(ledger: Ledger, ref: str) -> TaskAndRun:
    """Allow wakes and claims for the task again. Raise the same errors as `find`."""
    return await _set_paused(ledger, ref, False, "")


async def _set_paused(ledger: Ledger, ref: str, paused: bool, reason: str) -> TaskAndRun:
    async with ledger.write() as session:
        task, run = await find(session, ref)
        if (task.paused, task.paused_reason) != (paused, reason):
            task.paused, task.paused_reason = paused, reason
            event, actor = "paused" if paused else "resumed", owners.current_actor().owner
            rows.record_event(session, run, event, ledger.now(), actor=actor, reason=reason)
        return task, run


async def retry(ledger: Ledger, ref: str) -> TaskRunRow:
    """Add a run to a task whose last run failed, was cancelled, or needs attention. Return it.

    If the old run needs attention, cancel it. Raise `InvalidInput` for a run in any other state,
    for a run that was already retried, and after `MAX_RUNS_PER_TASK` runs. Also raise the same
    errors as `find`.
    """
    async with ledger.write() as session:
        task, old = await find(session, ref)
        now, actor = ledger.now(), owners.current_actor().owner
        if old.number != (await rows.newest_run(session, task.id)).number:
            raise InvalidInput(
                "run", f"{old.id[:8]} has already been retried", "use the newest run of the task"
            )
        _require_status(old, RETRYABLE)
        if old.number >= model.MAX_RUNS_PER_TASK:
            problem = f"has had {model.MAX_RUNS_PER_TASK} runs, the maximum"
            raise InvalidInput("task", problem, "add the task again")
        if old.status == TaskRunStatus.NEEDS_ATTENTION:
            rows.change_status(old, TaskRunStatus.CANCELLED, now)
            rows.record_event(session, old, "cancelled", now, actor=actor, reason="retried")
        run = TaskRunRow(
            task_id=task.id,
            number=old.number + 1,
            status=TaskRunStatus.QUEUED,
            created_at=now,
            queued_at=now,
        )
        session.add(run)
        await session.flush()
        rows.record_event(session, run, "retried", now, actor=actor, reason=f"after {old.id[:8]}")
        return run


async def recover(ledger: Ledger, ref: str, reason: str = "") -> TaskRunRow:
    """Queue a claimed run, or a run that needs attention, as if it had just arrived. Return it.

    The run's number of lease expiries restarts, and its session no longer holds it. For a queued
    run about which the operator was alerted, the waiting time starts again, so that it does not
    count as starving. Its escalation steps are not repeated before a claim.

    Raise `InvalidInput` for any other run or an invalid reason, and the same errors as `find`.
    """
    reason = validate_line(reason, "reason")
    async with ledger.write() as session:
        _, run = await find(session, ref)
        now, actor = ledger.now(), owners.current_actor().owner
        if not (run.status == TaskRunStatus.QUEUED and run.attention):
            _require_status(run, {TaskRunStatus.CLAIMED, TaskRunStatus.NEEDS_ATTENTION})
        holder = await rows.holder(session, run)
        if run.status == TaskRunStatus.QUEUED:
            run.queued_at = now
        else:
            rows.requeue(run, now)
        run.expiries, run.starved_cycles, run.attention = 0, 0, ""
        rows.record_event(session, run, "recovered", now, actor=actor, reason=reason, of=holder)
        return run


async def cancel(ledger: Ledger, ref: str, reason: str = "") -> TaskRunRow:
    """Cancel a live run, and make its token invalid. Return the run.

    Raise `InvalidInput` for an ended run or an invalid reason, and the same errors as `find`.
    """
    reason = validate_line(reason, "reason")
    async with ledger.write() as session:
        _, run = await find(session, ref)
        now, actor = ledger.now(), owners.current_actor().owner
        _require_status(run, LIVE)
        holder = await rows.holder(session, run)
        rows.change_status(run, TaskRunStatus.CANCELLED, now)
        rows.record_event(session, run, "cancelled", now, actor=actor, reason=reason, of=holder)
        return run


def _require_status(run: TaskRunRow, legal: Collection[TaskRunStatus]) -> None:
    if run.status not in legal:
        names = ", ".join(status for status in TaskRunStatus if status in legal)
        raise InvalidInput(
            "run", f"{run.id[:8]} is {run.status}", f"use a run in one of the states {names}"
        )
