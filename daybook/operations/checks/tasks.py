"""Tasks for idle sessions: the scheduler goes on, and nothing waits for somebody to look at it."""

from __future__ import annotations

from daybook.api import task_scheduler
from daybook.ledger.engine import open_ledger
from daybook.operations.checks.problem import Problem
from daybook.tasks import views
from daybook.tasks.pause import UNREADABLE


async def tasks() -> list[Problem]:
    """The pause can be read; that it is paused, and what starves, is worth knowing."""
    async with open_ledger() as ledger, ledger.read() as session:
        now = ledger.now()
        found = await views.read(session, now)
    return [
        Problem(each.what, each.command, harmless=UNREADABLE not in each.what)
        for each in task_scheduler.problems(found, now)
    ]
