"""Scheduler that runs the cycles of the task queue with the last valid policy.

`rebuild` clears the recent wakes, so that sessions can be woken again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import func
from sqlmodel import col, select

from daybook.errors import InvalidInput
from daybook.features.tasks import sessions, statistics, wakes
from daybook.features.tasks.cycle import CapabilityLoader, cycle
from daybook.features.tasks.notifier import Notifier
from daybook.features.tasks.policy import DEFAULTS, SchedulerPolicy
from daybook.features.tasks.states import TaskRunStatus
from daybook.features.tasks.statistics import CycleReport, RebuildResult
from daybook.features.tasks.tables import TaskRunRow
from daybook.ledger.engine import Ledger


@dataclass
class LastPolicy:
    """The last valid policy, or None if none has been valid yet."""

    policy: SchedulerPolicy | None = None


class Scheduler:
    """Runs cycles of the task queue.

    ``policy`` is called for each cycle, because the settings may have changed. If it raises
    `InvalidInput`, the ``last`` valid policy stays in force, and the report lists the error.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        policy: Callable[[], SchedulerPolicy],
        notifier: Notifier,
        capabilities_of: CapabilityLoader,
        last: LastPolicy | None = None,
    ) -> None:
        self._ledger, self._load_policy = ledger, policy
        self._notifier, self._capabilities_of = notifier, capabilities_of
        self._last = LastPolicy() if last is None else last
        with suppress(InvalidInput):  # the settings may be valid at the first cycle
            self._last.policy = policy()

    @property
    def interval(self) -> timedelta:
        """Return the time between two cycles."""
        return (self._last.policy or DEFAULTS).interval

    async def cycle(self) -> CycleReport:
        """Run one cycle now.

        Raise `LedgerUnreachable`, and `InvalidInput` if the policy has never been valid.
        """
        refused = None
        try:
            self._last.policy = self._load_policy()
        except InvalidInput as error:
            if self._last.policy is None:
                raise
            refused = error
        return await cycle(
            self._ledger,
            policy=self._last.policy,
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
