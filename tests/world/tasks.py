"""Task queue of a `World`, with shortcuts to its rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlmodel import select

from daybook import owners
from daybook.features.tasks import claims, queue, sessions
from daybook.features.tasks import lease_expiry as sweep
from daybook.features.tasks.policy import DEFAULTS, SchedulerPolicy
from daybook.features.tasks.tables import TaskEventRow, TaskRunRow, TaskSessionRow

if TYPE_CHECKING:
    from tests.world import World

AGENT = owners.Actor("agent:maria", via="mcp")
OTHER = owners.Actor("agent:otto", via="mcp")


class Tasks:
    def __init__(self, world: World) -> None:
        self._world = world

    async def add(self, title: str = "tidy up", **fields: Any) -> TaskRunRow:
        """Add a task; return its first run."""
        _, run = await queue.add(self._world.ledger, title, **fields)
        return run

    async def register(self, name: str = "one", **fields: Any) -> TaskSessionRow:
        """Register a task session."""
        return await sessions.register(self._world.ledger, name, **fields)

    async def claim(
        self, name: str = "one", lease: str | None = None, **options: Any
    ) -> claims.Claimed:
        return await claims.claim(self._world.ledger, name, lease, **options)

    async def claimed(self, name: str = "one", lease: str | None = None) -> claims.Claimed:
        """Add a task and a task session that has claimed it."""
        await self.add()
        await self.register(name)
        return await self.claim(name, lease)

    async def sweep(self, limit: int = DEFAULTS.sweep_limit) -> list[str]:
        """Run one sweep; return the ids of the task runs whose lease it expired."""
        now, policy = self._world.ledger.now(), SchedulerPolicy(sweep_limit=limit)
        async with self._world.ledger.write() as session:
            return [run.id for run in await sweep.expire_leases(session, now, policy)]

    async def run(self, run_id: str) -> TaskRunRow:
        async with self._world.ledger.read() as session:
            row = await session.get(TaskRunRow, run_id)
        assert row is not None
        return row

    async def runs(self) -> list[TaskRunRow]:
        async with self._world.ledger.read() as session:
            return list((await session.execute(select(TaskRunRow))).scalars())

    async def session(self, name: str = "one") -> TaskSessionRow:
        async with self._world.ledger.read() as session:
            return await sessions.find(session, name)

    async def events(self, run_id: str) -> list[TaskEventRow]:
        async with self._world.ledger.read() as session:
            return await queue.events(session, run_id)

    def everything(self) -> dict[str, list[tuple[Any, ...]]]:
        """Return all rows of all task tables, with every column."""
        tables = ("tasks", "task_runs", "task_sessions", "task_events")
        query = self._world.database.query
        return {name: sorted(query(f"SELECT * FROM {name}"), key=str) for name in tables}
