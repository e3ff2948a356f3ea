"""The queue of tasks: adding one, pausing it, and what the operator does with its runs.

A task has a run from the beginning, and another with each retry, at most `tasks.CHAIN` of them; the
last of them is what becomes of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook import owners
from daybook.errors import Ambiguous, InvalidInput, NotFound
from daybook.ledger.engine import Ledger
from daybook.ledger.task_tables import TaskEventRow, TaskRow, TaskRunRow
from daybook.names import checked_line
from daybook.tasks import model, rows
from daybook.tasks.states import LIVE, RETRIED, Status

LONGEST_TITLE = 200

FIRST = frozenset({"added", "retried", "expired", "fan_out"})
"""Events that come before others which the same transaction wrote, and which follow from them."""

Pair = tuple[TaskRow, TaskRunRow]


async def add(
    ledger: Ledger,
    title: str,
    *,
    instructions: str = "",
    priority: str = model.MEDIUM,
    owner: str = model.ANYONE,
    workspace: str = "",
    channel: str = "",
    capabilities: Iterable[str] = (),
    preferred: Iterable[str] = (),
    paused: bool = False,
) -> Pair:
    """A new task and its first run, queued now. Raises `InvalidInput`, and nothing is stored."""
    title = checked_line(title, "title", LONGEST_TITLE)
    if not title:
        raise InvalidInput("title", "is blank", f"legal: 1 to {LONGEST_TITLE} characters")
    says: dict[str, Any] = {
        "title": title,
        "instructions": model.text(instructions, "instructions"),
        "priority": model.priority(priority),
        "owner": model.check_owner(owner),
        "workspace": model.word(workspace, "workspace"),
        "channel": model.word(channel, "channel"),
        "capabilities": model.capabilities(capabilities),
        "preferred": model.capabilities(preferred, "preferred"),
        "paused": paused,
    }
    async with ledger.write() as session:
        now, who = ledger.now(), owners.current().owner
        task = TaskRow(**says, created_by=who, created_at=now)
        session.add(task)
        await session.flush()
        run = TaskRunRow(task_id=task.id, status=Status.QUEUED, created_at=now, queued_at=now)
        session.add(run)
        await session.flush()
        rows.note(session, run, "added", now, actor=who)
    return task, run


async def runs(
    session: AsyncSession,
    *,
    status: Collection[Status] | None = None,
    limit: int | None = None,
) -> list[Pair]:
    """Runs with their tasks, those of ``status``; None: the live ones.

    In the order in which they are claimed; where ended ones are among them, the newest first.
    """
    wanted = LIVE if status is None else frozenset(status)
    which = (
        select(TaskRow, TaskRunRow)
        .join(TaskRunRow, col(TaskRunRow.task_id) == col(TaskRow.id))
        .where(col(TaskRunRow.status).in_(wanted))
    )
    if wanted <= LIVE:
        which = which.order_by(col(TaskRow.priority), col(TaskRunRow.queued_at), col(TaskRunRow.id))
    else:
        which = which.order_by(col(TaskRunRow.created_at).desc(), col(TaskRunRow.id))
    return list((await session.execute(which.limit(limit))).tuples())


async def find(session: AsyncSession, ref: str) -> Pair:
    """The run with this id or unique id prefix; or the task with that, or this title, and its
    last run. Raises `NotFound`, `Ambiguous`.
    """
    begins = col(TaskRunRow.id).startswith(ref, autoescape=True)
    titled = select(TaskRow).where(col(TaskRow.title) == ref).limit(5)
    fits = list((await session.execute(titled)).scalars())
    of_runs: list[TaskRunRow] = []
    if not fits and ref:
        prefixed = col(TaskRow.id).startswith(ref, autoescape=True)
        fits = list((await session.execute(select(TaskRow).where(prefixed).limit(5))).scalars())
        of_runs = list((await session.execute(select(TaskRunRow).where(begins).limit(5))).scalars())
    if len(fits) + len(of_runs) > 1:
        told = [f"{task.id[:12]} ({task.title})" for task in fits]
        raise Ambiguous("task", ref, [*told, *(run.id[:12] for run in of_runs)])
    if of_runs:
        return await rows.task_of(session, of_runs[0]), of_runs[0]
    if not fits:
        raise NotFound("task", ref)
    return fits[0], await rows.newest(session, fits[0].id)


async def events(session: AsyncSession, run_id: str) -> list[TaskEventRow]:
    """What happened to a run, the first first."""
    its = select(TaskEventRow).where(col(TaskEventRow.run_id) == run_id)
    found = (await session.execute(its)).scalars()
    return sorted(found, key=lambda each: (each.at, each.event not in FIRST, each.event, each.id))


# --- what the operator does


async def pause(ledger: Ledger, ref: str, reason: str = "") -> Pair:
    """Let nobody be woken for the task, or claim it; who holds it goes on.

    Raises `InvalidInput` for the reason, and as `find`.
    """
    reason = checked_line(reason, "reason")
    return await _switch(ledger, ref, True, reason)


async def resume(ledger: Ledger, ref: str) -> Pair:
    """The task may be claimed again. Raises as `find`."""
    return await _switch(ledger, ref, False, "")


async def _switch(ledger: Ledger, ref: str, paused: bool, reason: str) -> Pair:
    async with ledger.write() as session:
        task, run = await find(session, ref)
        if (task.paused, task.paused_reason) != (paused, reason):
            task.paused, task.paused_reason = paused, reason
            event, who = "paused" if paused else "resumed", owners.current().owner
            rows.note(session, run, event, ledger.now(), actor=who, reason=reason)
        return task, run


async def retry(ledger: Ledger, ref: str) -> TaskRunRow:
    """Another run of a task whose last one failed, was cancelled, or needs attention.

    The one that needs attention is cancelled. Raises `InvalidInput`, also after `tasks.CHAIN` runs.
    """
    async with ledger.write() as session:
        task, old = await find(session, ref)
        now, who = ledger.now(), owners.current().owner
        if old.number != (await rows.newest(session, task.id)).number:
            raise InvalidInput(
                "run", f"{old.id[:8]} was retried already", "legal: the last of a task"
            )
        _only(old, RETRIED)
        if old.number >= model.CHAIN:
            problem = f"has had its {model.CHAIN} runs"
            raise InvalidInput("task", problem, "add it anew, if it is still to be done")
        if old.status == Status.NEEDS_ATTENTION:
            rows.move(old, Status.CANCELLED, now)
            rows.note(session, old, "cancelled", now, actor=who, reason="retried")
        run = TaskRunRow(
            task_id=task.id,
            number=old.number + 1,
            status=Status.QUEUED,
            created_at=now,
            queued_at=now,
        )
        session.add(run)
        await session.flush()
        rows.note(session, run, "retried", now, actor=who, reason=f"after {old.id[:8]}")
        return run


async def recover(ledger: Ledger, ref: str, reason: str = "") -> TaskRunRow:
    """Queue a run again, as if it came now: one that is claimed, or needs attention.

    Its leases count anew, and who held it does not any more. One that is queued and for which the
    operator was called is let wait anew; the ladder is not climbed twice before a claim. Raises
    `InvalidInput` for another one, and as `find`.
    """
    reason = checked_line(reason, "reason")
    async with ledger.write() as session:
        _, run = await find(session, ref)
        now, who = ledger.now(), owners.current().owner
        if not (run.status == Status.QUEUED and run.attention):
            _only(run, {Status.CLAIMED, Status.NEEDS_ATTENTION})
        of = await rows.holder(session, run)
        if run.status == Status.QUEUED:
            run.queued_at = now
        else:
            rows.requeue(run, now)
        run.expiries, run.attention = 0, ""
        rows.note(session, run, "recovered", now, actor=who, reason=reason, of=of)
        return run


async def cancel(ledger: Ledger, ref: str, reason: str = "") -> TaskRunRow:
    """End a live run; the token of who holds it is over. Raises `InvalidInput`, and as `find`."""
    reason = checked_line(reason, "reason")
    async with ledger.write() as session:
        _, run = await find(session, ref)
        now, who = ledger.now(), owners.current().owner
        _only(run, LIVE)
        of = await rows.holder(session, run)
        rows.move(run, Status.CANCELLED, now)
        rows.note(session, run, "cancelled", now, actor=who, reason=reason, of=of)
        return run


def _only(run: TaskRunRow, legal: Collection[Status]) -> None:
    if run.status not in legal:
        these = ", ".join(status for status in Status if status in legal)
        raise InvalidInput("run", f"{run.id[:8]} is {run.status}", f"legal: {these}")
