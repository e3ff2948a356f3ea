"""Scheduler cycles over the task queue, with a fake Prefect that records notifications."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlmodel import col, select

from daybook.delivery import outbox, sending
from daybook.delivery.sending import DeliveryResult
from daybook.features.tasks import sessions
from daybook.features.tasks.notifier import StarvingRun
from daybook.features.tasks.policy import SchedulerPolicy
from daybook.features.tasks.scheduler import Scheduler
from daybook.features.tasks.statistics import CycleReport
from daybook.features.tasks.tables import TaskSessionRow
from daybook.jobs import store
from daybook.jobs.model import new_job
from daybook.jobs.store import StoredJob
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Delivery
from daybook.ledger.tables import OutboxRow, RunRow
from tests.world import World

CYCLE = timedelta(seconds=15)
STARVED = timedelta(minutes=2)


def of_task_sessions(queue: str) -> bool:
    """Return whether the destination queue belongs to a connected task session."""
    return outbox.kind_of_queue(queue) is outbox.QueueKind.CLIENT


class NoAnswer(Exception):
    """Prefect is unreachable."""


@dataclass
class Cycling:
    """A task queue with its scheduler.

    ``capable`` maps agents to their capabilities, and ``notified`` lists the runs that the notifier
    received. If ``is_unreachable`` is set, the notifier and the look-up of capabilities both fail.
    """

    world: World
    policy: SchedulerPolicy = field(default_factory=SchedulerPolicy)
    capable: Mapping[str, frozenset[str]] = field(default_factory=dict)
    notified: list[StarvingRun] = field(default_factory=list)
    is_unreachable: bool = False
    asked: int = 0

    def scheduler(self, ledger: Ledger | None = None) -> Scheduler:
        return Scheduler(
            ledger or self.world.ledger,
            policy=lambda: self.policy,
            notifier=self.notifier,
            capabilities_of=self.capabilities,
        )

    async def notifier(self, starving: StarvingRun) -> None:
        if self.is_unreachable:
            raise NoAnswer("no answer")
        self.notified.append(starving)

    async def capabilities(self) -> Mapping[str, frozenset[str]]:
        self.asked += 1
        if self.is_unreachable:
            raise NoAnswer("no answer")
        return self.capable

    async def cycle(self, after: timedelta = timedelta(0)) -> CycleReport:
        """Move the clock by ``after``, run one cycle, and return its report."""
        self.world.clock.move(after)
        return await self.scheduler().cycle()

    async def there(self, name: str = "one", **fields: Any) -> TaskSessionRow:
        """Register a session to which an MCP server is connected for one day."""
        row = await self.world.tasks.register(name, **fields)
        until = self.world.ledger.now() + timedelta(days=1)
        await sessions.set_connected(self.world.ledger, [row.id], until)
        return row

    async def end(self, status: Delivery = Delivery.DELIVERED) -> int:
        """Record ``status`` for all pending wakes of connected sessions, and count them."""
        ledger, queues = self.world.ledger, of_task_sessions
        found = await sending.claim(ledger, "server", most=100, wanted=queues)
        error = "" if status is Delivery.DELIVERED else "the connection is gone"
        tried = [
            DeliveryResult(row.id, row.fence, status, None, 0.01, error=error) for row in found
        ]
        await sending.record(ledger, tried)
        return len(found)

    async def wakes(self) -> list[OutboxRow]:
        """Return all wakes in the outbox, oldest first."""
        of_ours = select(OutboxRow).where(col(OutboxRow.purpose) == outbox.WAKE)
        async with self.world.ledger.read() as session:
            rows = (await session.execute(of_ours)).scalars().all()
        return sorted(rows, key=lambda row: (row.created_at, row.queue))

    async def worker(self, name: str = "helper", **fields: Any) -> StoredJob:
        """Add a job that the scheduler may run as a worker for a task."""
        given: dict[str, Any] = {
            "prompt": "Work.",
            "on_demand": True,
            "tags": ["task-worker"],
            **fields,
        }
        job = new_job(now=self.world.ledger.now(), name=name, **given)
        async with self.world.ledger.write() as session:
            return await store.add(session, job, name, self.world.ledger.now())

    async def requests(self) -> list[RunRow]:
        """Return all runs of jobs, i.e. the requested workers."""
        async with self.world.ledger.read() as session:
            return list((await session.execute(select(RunRow))).scalars())

    async def alerts(self) -> list[OutboxRow]:
        """Return the alerts to the operator."""
        alerts = select(OutboxRow).where(col(OutboxRow.purpose) == outbox.ALERT)
        async with self.world.ledger.read() as session:
            return list((await session.execute(alerts)).scalars())
