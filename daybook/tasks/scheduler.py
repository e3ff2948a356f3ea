"""Scheduler that runs the cycles of the task queue with the last valid policy.

`rebuild` clears the recent wakes, so that sessions can be woken again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

from sqlalchemy import func
from sqlmodel import col, select

from daybook.errors import InvalidInput
from daybook.ledger.engine import Ledger
from daybook.ledger.task_tables import TaskRunRow
from daybook.tasks import sessions, statistics, wakes
from daybook.tasks.cycle import CapabilityLoader, cycle
from daybook.tasks.notifier import Notifier
from daybook.tasks.policy import DEFAULTS, SchedulerPolicy
from daybook.tasks.states import TaskRunStatus
from daybook.tasks.statistics import CycleReport, RebuildResult


class Scheduler:
    """Runs cycles of the task queue.

    ``policy`` is called for each cycle, because the settings may have changed. If it raises
    `InvalidInput`, the last valid policy stays in force, and the report lists the error.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        policy: Callable[[], SchedulerPolicy],
        notifier: Notifier,
        capabilities_of: CapabilityLoader,
    ) -> None:
        self._ledger, self._load_policy = ledger, policy
        self._notifier, self._capabilities_of = notifier, capabilities_of
        self._policy: SchedulerPolicy | None = None
        # This process may become the leader much later, and the settings may be valid then.
        with suppress(InvalidInput):
            self._policy = policy()

    @property
    def interval(self) -> timedelta:
        """Return the time between two cycles."""
        return (self._policy or DEFAULTS).interval

    async def cycle(self) -> CycleReport:
        """Run one cycle now.

        Raise `LedgerUnreachable`, and `InvalidInput` if the policy has never been valid.
        """
        refused = None
        try:
            self._policy = self._load_policy()
        except InvalidInput as error:
            if self._policy is None:
                raise
            refused = error
        return await cycle(
            self._ledger,
            policy=self._policy,
            notifier=self._notifier,
            capabilities_of=self._capabilities_of,
            refused=refused,
        )


async def rebuild(ledger: Ledger, policy: SchedulerPolicy) -> RebuildResult:
    """Clear the recent wakes, so that sessions can be woken again. Escalations continue."""
    async with ledger.write() as session:
        stored, now = await statistics.load(session), ledger.now()
        cleared = await wakes.recently_woken(
            session, now, policy.wake_cooldown, stored.last_rebuild_at
        )
        stored.rebuilds, stored.last_rebuild_at = stored.rebuilds + 1, now
        await statistics.store(session, stored)
        counted = (
            select(TaskRunRow.status, func.count())
            .where(col(TaskRunRow.finished_at).is_(None))
            .group_by(col(TaskRunRow.status))
        )
        by_status = dict((await session.execute(counted)).tuples().all())
        return RebuildResult(
            at=now,
            pending=by_status.get(TaskRunStatus.QUEUED, 0),
            active=by_status.get(TaskRunStatus.CLAIMED, 0),
            sessions=len(await sessions.live_sessions(session, now)),
            cleared=len(cleared),
            statistics=await statistics.read(session),
        )
