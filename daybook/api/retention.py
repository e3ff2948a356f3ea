"""Letting go of the past by hand (requirement 19); the keeper does it each hour."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from daybook.keeper import retention as keeper
from daybook.ledger.engine import Ledger, open_ledger
from daybook.runs import outcomes
from daybook.runs import retention as book
from daybook.schedules import durations


async def prune(*, disabled_for: str | None = None, dry_run: bool = False) -> dict[str, Any]:
    """Let go of what the settings keep no longer, until nothing of it is left.

    ``disabled_for``, such as `90d`, first removes the jobs that are off and were neither switched
    nor edited for so long, as `jobs.remove` does; only that needs Prefect. With ``dry_run`` only
    those are named. Returns `{"removed", "runs", "messages", "tasks", "jobs", "dry_run"}`: the
    names of the jobs that were removed, how many runs, messages and runs of tasks went, and the
    names of the jobs of which nothing was left. Raises `InvalidInput`.
    """
    age = durations.parse(disabled_for, "disabled_for") if disabled_for is not None else None
    async with open_ledger() as ledger:
        removed = [] if age is None else await _remove(ledger, age, dry_run=dry_run)
        done = keeper.Pruned(left=not dry_run)
        while done.left:
            some = await keeper.prune(ledger)
            done.runs, done.messages = done.runs + some.runs, done.messages + some.messages
            done.tasks += some.tasks
            done.jobs, done.left = [*done.jobs, *some.jobs], some.left
    return {
        "removed": removed,
        "runs": done.runs,
        "messages": done.messages,
        "tasks": done.tasks,
        "jobs": done.jobs,
        "dry_run": dry_run,
    }


async def _remove(ledger: Ledger, age: timedelta, *, dry_run: bool) -> list[str]:
    """Archive the jobs that were off for so long and delete their deployments; their names."""
    from daybook.prefect import client as prefect
    from daybook.prefect.reconcile import Report, remove_left_over

    if dry_run:
        async with ledger.read() as session:
            found = await book.off_since(session, ledger.now() - age)
        return [each.row.name for each in found]
    async with prefect.connected() as client:
        await prefect.answers(client)
        async with ledger.write() as session:
            found = await book.off_since(session, ledger.now() - age)
            for each in found:
                await outcomes.archive(session, each, ledger.now())
        # A crash from here on leaves the deployments to the next sync.
        await remove_left_over(ledger, client, Report())
    return [each.row.name for each in found]
