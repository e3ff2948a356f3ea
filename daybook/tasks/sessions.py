"""Task sessions: live agents that claim tasks by themselves (requirement 46).

::

    register ──► idle ◄── report ──► active, or prompting
                  │
                  └── not heard of for `SILENT` ──► expired ──report, register──► there again

Who registered a session owns it: an agent acts on its own, and is told of another's that there is
none. The operator acts on all. A session that is expired still holds its run until the lease is
over, and a run does not keep its session alive.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, true
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook import owners
from daybook.errors import InvalidInput, NotFound
from daybook.ledger.engine import Ledger
from daybook.ledger.task_tables import TaskRunRow, TaskSessionRow
from daybook.names import validate_name
from daybook.tasks import matching, model, rows
from daybook.tasks.matching import IDLE

SILENT = timedelta(minutes=15)
"""How long a session is there after it was heard of; over exactly at its end."""
OFTEN = timedelta(minutes=1)
"""One that asks in vain more often is not written down each time."""

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
    """A session that is there, idle and not prompting.

    One of this name and owner is brought up to date, and keeps its id and its run. Raises
    `InvalidInput`, also for a name that another's session has, unless that is expired and holds
    nothing.
    """
    actor, name = owners.current(), validate_name(name)
    says = {
        "agent": _agent(agent, actor),
        "type": model.word(type, "type"),
        "workspace": model.word(workspace, "workspace"),
        "channel": model.word(channel, "channel"),
        "capabilities": model.capabilities(capabilities),
    }
    async with ledger.write() as session:
        now = ledger.now()
        row = await _named(session, name)
        if row is not None and row.owner != actor.owner:
            if row.expires_at > now or await held_by(session, row) is not None:
                raise InvalidInput("name", f'"{name}" is taken', "legal: another name")
            # Its id goes with it: what is sent to that is not the other's.
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
        for field, value in says.items():
            setattr(row, field, value)
        row.user_id = actor.user_id
        _report(row, IDLE, False, now)
        touch(row, now)
        session.add(row)
        return row


async def report(
    ledger: Ledger, name: str, *, state: str | None = None, prompting: bool | None = None
) -> TaskSessionRow:
    """What the session does now; what is None is as before. It is there, if it was expired too.

    Raises `InvalidInput`, `NotFound`.
    """
    if state is not None:
        model.state(state)
    async with ledger.write() as session:
        row, now = await find(session, name), ledger.now()
        new = row.state if state is None else state
        _report(row, new, row.prompting if prompting is None else prompting, now)
        touch(row, now)
        return row


async def remove(ledger: Ledger, name: str) -> TaskSessionRow:
    """Forget a session; a run that it holds is queued again, as if recovered. Raises `NotFound`."""
    async with ledger.write() as session:
        row, now = await find(session, name), ledger.now()
        run = await held_by(session, row)
        if run is not None:
            rows.requeue(run, now)
            run.expiries = 0
            who, why = owners.current().owner, "its session was removed"
            rows.note(session, run, "recovered", now, actor=who, reason=why, of=row)
            session.add(run)
            await session.flush()
        await session.delete(row)
        return row


async def connected(ledger: Ledger, ids: Collection[str], until: datetime) -> None:
    """Somebody holds connections to these sessions until then, and hears of them.

    ``until`` of now or before: not any more.
    """
    async with ledger.write() as session:
        now = ledger.now()
        which = select(TaskSessionRow).where(col(TaskSessionRow.id).in_(ids) & _mine())
        for row in (await session.execute(which)).scalars():
            row.connected_until = until
            if until > now:
                touch(row, now)


async def every(session: AsyncSession) -> list[TaskSessionRow]:
    """All sessions that whoever asks may see, expired ones too, by name."""
    mine = select(TaskSessionRow).where(_mine()).order_by(col(TaskSessionRow.name))
    return list((await session.execute(mine)).scalars())


async def find(session: AsyncSession, name: str) -> TaskSessionRow:
    """The session of this name; raises `NotFound`, also for one of somebody else."""
    row = await _named(session, name.strip())
    actor = owners.current()
    if row is None or (actor.is_agent and row.owner != actor.owner):
        raise NotFound(NOUN, name)
    return row


async def holding(session: AsyncSession, now: datetime) -> frozenset[str]:
    """The ids of the sessions that hold a run whose lease is not over."""
    held = select(TaskRunRow.session_id).where(rows.at_work(now))
    return frozenset((await session.execute(held)).scalars())


async def there(
    session: AsyncSession, now: datetime
) -> list[tuple[TaskSessionRow, matching.Candidate]]:
    """Those that are not expired, whoever owns them, by name; and what is known of each."""
    holds = await holding(session, now)
    wanted = select(TaskSessionRow).where(col(TaskSessionRow.expires_at) > now)
    found = (await session.execute(wanted.order_by(col(TaskSessionRow.name)))).scalars()
    return [(row, matching.Candidate.of(row, row.id in holds)) for row in found]


async def held_by(session: AsyncSession, row: TaskSessionRow) -> TaskRunRow | None:
    """The run that a session holds, also one whose lease is over and that was not taken back."""
    its = select(TaskRunRow).where(col(TaskRunRow.session_id) == row.id)
    run: TaskRunRow | None = (await session.execute(its)).scalar_one_or_none()
    return run


def touch(row: TaskSessionRow, now: datetime) -> None:
    """The session was heard of."""
    row.expires_at = now + SILENT


def fades(row: TaskSessionRow, now: datetime) -> bool:
    """Whether one that is there was not heard of for `OFTEN`."""
    return now < row.expires_at < now + SILENT - OFTEN


async def _named(session: AsyncSession, name: str) -> TaskSessionRow | None:
    wanted = select(TaskSessionRow).where(col(TaskSessionRow.name) == name)
    row: TaskSessionRow | None = (await session.execute(wanted)).scalar_one_or_none()
    return row


def _mine() -> ColumnElement[bool]:
    actor = owners.current()
    return col(TaskSessionRow.owner) == actor.owner if actor.is_agent else true()


def _agent(given: str | None, actor: owners.Actor) -> str:
    """Whose tasks the session may do; an agent's may do its own."""
    its = owners.agent_id(actor.owner)
    agent = (its if given is None else given).strip()
    if agent:
        owners.check(owners.BY_AGENT + agent, "agent")
    if actor.is_agent and agent != its:
        raise InvalidInput("agent", f'"{agent}" is not yours', f'legal: "{its}"')
    return agent


def _report(row: TaskSessionRow, state: str, prompting: bool, now: datetime) -> None:
    was = row.state == IDLE and not row.prompting
    row.state, row.prompting = state, prompting
    if not was and state == IDLE and not prompting:
        row.idle_since = now
