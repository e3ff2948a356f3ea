"""Checks of tasks for task sessions: the scheduler runs, and nothing needs a user's attention."""

from __future__ import annotations

from daybook.api import task_scheduler
from daybook.ledger.engine import open_ledger
from daybook.operations.checks.problem import Problem
from daybook.tasks import views
from daybook.tasks.pause import UNREADABLE


async def tasks() -> list[Problem]:
    """Check that the pause can be read; that it is paused, and starving tasks, are harmless."""
    async with open_ledger() as ledger, ledger.read() as session:
        now = ledger.now()
        state = await views.read_counts(session, now)
    return [
        Problem(each.what, each.command, harmless=UNREADABLE not in each.what)
        for each in task_scheduler.problems(state, now)
    ]
