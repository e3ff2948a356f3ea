"""Task sessions: live agents that claim tasks by themselves.

::

    register ──► idle ◄── report ──► active, or prompting
                  │
                  └── silent for `SESSION_TIMEOUT` ──► expired ──report, register──► live again

The actor that registered a session owns it. An agent can act only on its own sessions; for a
session of another owner it gets `NotFound`. The operator can act on all sessions. An expired
session still holds its run until the lease expires. A session can expire even if it holds a run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, true
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook import names, owners
from daybook.errors import InvalidInput, NotFound
from daybook.features.tasks import matching, model, rows
from daybook.features.tasks.matching import IDLE
from daybook.features.tasks.tables import TaskRunRow, TaskSessionRow
from daybook.ledger.engine import Ledger
from daybook.names import validate_name

SESSION_TIMEOUT = timedelta(minutes=15)
"""Time after a session's last sign of life at which it expires."""
TOUCH_INTERVAL = timedelta(minutes=1)
"""Minimum time between two recorded signs of life of a session whose claims get no run."""

NOUN = "task session"


async def register(
    ledger: Ledger,
    name: str,
    *,
    agent: str | None = None,
    type: str = "",
    workspace: str = "",
    channel: str = "",
    capabilities: Iterable[str] = (),
) -> TaskSessionRow:
    """Register a live session, idle and not prompting.

    If the same owner has a session with this name, update that session, which keeps its id and its
    run. If another owner has a session with this name, replace it if it has expired and holds no
    run. Otherwise raise `InvalidInput`, as for any invalid value.
    """
    actor, name = owners.current_actor(), validate_name(name)
    values = {
        "agent": _agent(agent, actor),
        "type": model.check_word(type, "type"),
        "workspace": model.check_word(workspace, "workspace"),
        "channel": model.check_word(channel, "channel"),
        "capabilities": names.validate_capabilities(capabilities),
    }
    async with ledger.write() as session:
        now = ledger.now()
        row = await _named(session, name)
        if row is not None and row.owner != actor.owner:
            if row.expires_at > now or await held_run(session, row) is not None:
                raise InvalidInput("name", f'"{name}" is taken', "use another name")
            # The new session gets a new id, because wakes for the old session must not reach the
            # new owner.
            await session.delete(row)
            await session.flush()
            row = None
        if row is None:
            row = TaskSessionRow(
                name=name,
                owner=actor.owner,
                agent="",
                state=IDLE,
                idle_since=now,
                registered_at=now,
                expires_at=now,
            )
        for field, value in values.items():
            setattr(row, field, value)
        row.user_id = actor.user_id
        _set_state(row, IDLE, False, now)
        touch(row, now)
        session.add(row)
        return row


async def report(
    ledger: Ledger, name: str, *, state: str | None = None, prompting: bool | None = None
) -> TaskSessionRow:
    """Set ``state`` and ``prompting`` unless they are None. An expired session becomes live again.

    Raise `InvalidInput`, `NotFound`.
    """
    if state is not None:
        model.check_state(state)
    async with ledger.write() as session:
        row, now = await find(session, name), ledger.now()
        new = row.state if state is None else state
        _set_state(row, new, row.prompting if prompting is None else prompting, now)
        touch(row, now)
        return row


async def remove(ledger: Ledger, name: str) -> TaskSessionRow:
    """Remove a session, and queue the run that it holds, as `queue.recover` does.

    Raise `NotFound`.
    """
    async with ledger.write() as session:
        row, now = await find(session, name), ledger.now()
        run = await held_run(session, row)
        if run is not None:
            rows.requeue(run, now)
            run.expiries = 0
            actor, reason = owners.current_actor().owner, "its session was removed"
            rows.record_event(session, run, "recovered", now, actor=actor, reason=reason, of=row)
            session.add(run)
            await session.flush()
        await session.delete(row)
        return row


async def set_connected(ledger: Ledger, ids: Collection[str], until: datetime) -> None:
    """Record that an MCP server has connections to these sessions until ``until``.

    If ``until`` is not in the future, the connections are closed. If it is in the future, it is
    also a sign of life of the sessions. Skip sessions that the current actor may not see.
    """
    async with ledger.write() as session:
        now = ledger.now()
        query = select(TaskSessionRow).where(col(TaskSessionRow.id).in_(ids) & _visible())
        for row in (await session.execute(query)).scalars():
            row.connected_until = until
            if until > now:
                touch(row, now)


async def disconnected(
    session: AsyncSession, ids: Collection[str], now: datetime
) -> frozenset[str]:
    """Return those of the sessions ``ids`` that have no connection to an MCP server."""
    until = col(TaskSessionRow.connected_until)
    query = select(TaskSessionRow.id).where(
        col(TaskSessionRow.id).in_(ids), until.is_(None) | (until <= now)
    )
    return frozenset((await session.execute(query)).scalars())


async def visible_sessions(session: AsyncSession) -> list[TaskSessionRow]:
    """Return the sessions that the current actor may see, even expired ones, sorted by name."""
    query = select(TaskSessionRow).where(_visible()).order_by(col(TaskSessionRow.name))
    return list((await session.execute(query)).scalars())


async def find(session: AsyncSession, name: str) -> TaskSessionRow:
    """Return the session with this name.

    Raise `NotFound`, also if the current actor is an agent and does not own the session.
    """
    row = await _named(session, name.strip())
    actor = owners.current_actor()
    if row is None or (actor.is_agent and row.owner != actor.owner):
        known = [each.name for each in await visible_sessions(session)]
        raise NotFound(NOUN, name, known=known)
    return row


async def busy_session_ids(session: AsyncSession, now: datetime) -> frozenset[str]:
    """Return the ids of the sessions that hold a run whose lease has not expired."""
    held = select(TaskRunRow.session_id).where(rows.is_leased(now))
    return frozenset((await session.execute(held)).scalars())


async def live_sessions(
    session: AsyncSession, now: datetime
) -> list[tuple[TaskSessionRow, matching.Candidate]]:
    """Return the live sessions of all owners, sorted by name, each with its `Candidate`."""
    busy_ids = await busy_session_ids(session, now)
    query = select(TaskSessionRow).where(col(TaskSessionRow.expires_at) > now)
    rows_found = (await session.execute(query.order_by(col(TaskSessionRow.name)))).scalars()
    return [(row, matching.Candidate.of(row, row.id in busy_ids)) for row in rows_found]


async def held_run(session: AsyncSession, row: TaskSessionRow) -> TaskRunRow | None:
    """Return the run that the session holds, even if its lease has expired. Return None if none."""
    query = select(TaskRunRow).where(col(TaskRunRow.session_id) == row.id)
    run: TaskRunRow | None = (await session.execute(query)).scalar_one_or_none()
    return run


def touch(row: TaskSessionRow, now: datetime) -> None:
    """Record a sign of life of the session, so that it stays live for `SESSION_TIMEOUT`."""
    row.expires_at = now + SESSION_TIMEOUT


def is_touch_due(row: TaskSessionRow, now: datetime) -> bool:
    """Return whether a live session's last recorded sign of life is older than `TOUCH_INTERVAL`."""
    return now < row.expires_at < now + SESSION_TIMEOUT - TOUCH_INTERVAL


async def _named(session: AsyncSession, name: str) -> TaskSessionRow | None:
    query = select(TaskSessionRow).where(col(TaskSessionRow.name) == name)
    row: TaskSessionRow | None = (await session.execute(query)).scalar_one_or_none()
    return row


def _visible() -> ColumnElement[bool]:
    actor = owners.current_actor()
    return col(TaskSessionRow.owner) == actor.owner if actor.is_agent else true()


def _agent(given: str | None, actor: owners.Actor) -> str:
    """Return the agent whose tasks the session may do, or "".

    Raise `InvalidInput` for an invalid name, and if an agent names an agent other than itself.
    """
    own_agent = owners.agent_id(actor.owner)
    agent = (own_agent if given is None else given).strip()
    if agent:
        owners.validate_owner(owners.AGENT_PREFIX + agent, "agent")
    if actor.is_agent and agent != own_agent:
        raise InvalidInput("agent", f'"{agent}" is another agent', f'use "{own_agent}"')
    return agent


def _set_state(row: TaskSessionRow, state: str, prompting: bool, now: datetime) -> None:
    was_free = row.state == IDLE and not row.prompting
    row.state, row.prompting = state, prompting
    if not was_free and state == IDLE and not prompting:
        row.idle_since = now
