"""The service of the keeper that runs the cycles of the task scheduler."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from daybook.agents import documents
from daybook.errors import InvalidInput
from daybook.features.tasks import notifier, policy
from daybook.features.tasks.scheduler import LastPolicy, Scheduler
from daybook.features.tasks.settings import load_policy
from daybook.keeper.services import Cycle, Loop, Service
from daybook.keeper.term import Context, Term

_LAST = LastPolicy()
"""The last valid policy of this process, also for its next terms of leadership."""


def read_policy() -> None:
    """Read the policy when the keeper starts: the settings may be invalid when it leads."""
    with suppress(InvalidInput):
        _LAST.policy = load_policy()


def _start(context: Context, _: Term) -> Cycle:
    scheduler = Scheduler(
        context.ledger,
        policy=load_policy,
        notifier=notifier.prefect_notifier(context.client),  # it checks the leadership first
        capabilities_of=partial(documents.capabilities, context.client),
        last=_LAST,
    )
    return partial(_cycle, scheduler)


async def _cycle(scheduler: Scheduler) -> float:
    await scheduler.cycle()
    return scheduler.interval.total_seconds()


LOOPS = (
    Loop(
        interval=lambda: policy.DEFAULTS.interval,
        prepare=read_policy,
        services=(
            Service("tasks", "expires leases of tasks, and wakes task sessions", start=_start),
        ),
    ),
)
