"""Retention on request, by the service that the keeper runs each hour (`keeper.retention`)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from daybook.keeper import retention as keeper
from daybook.ledger.engine import Ledger, open_ledger
from daybook.runs import outcomes
from daybook.runs import retention as book
from daybook.schedules import durations


async def prune(*, disabled_for: str | None = None, dry_run: bool = False) -> dict[str, Any]:
    """Delete all history that the settings no longer keep.

    ``disabled_for``, such as `90d`, first removes the jobs that have been disabled and unedited for
    that long, as `jobs.remove` does; only that needs Prefect. With ``dry_run``, list those jobs and
    delete nothing. Return `{"removed", "runs", "messages", "deliveries", "tasks", "jobs",
    "dry_run"}`: the names of the removed jobs, the numbers of deleted runs, messages of
    conversations, callbacks and messages without a run, and task runs, and the names of the
    archived jobs that were deleted with their last run. Raise `InvalidInput`.
    """
    age = durations.parse(disabled_for, "disabled_for") if disabled_for is not None else None
    async with open_ledger() as ledger:
        removed = [] if age is None else await _remove(ledger, age, dry_run=dry_run)
        total = keeper.PruneReport(left=not dry_run)
        while total.left:
            batch = await keeper.prune(ledger)
            total.runs, total.messages = total.runs + batch.runs, total.messages + batch.messages
            total.deliveries += batch.deliveries
            total.tasks += batch.tasks
            total.jobs, total.left = [*total.jobs, *batch.jobs], batch.left
    return {
        "removed": removed,
        "runs": total.runs,
        "messages": total.messages,
        "deliveries": total.deliveries,
        "tasks": total.tasks,
        "jobs": total.jobs,
        "dry_run": dry_run,
    }


async def _remove(ledger: Ledger, age: timedelta, *, dry_run: bool) -> list[str]:
    """Archive the jobs that were disabled for ``age`` and delete their deployments; return their
    names.
    """
    from daybook.prefect import client as prefect
    from daybook.prefect.reconcile import ReconcileReport, delete_leftover_deployments

    if dry_run:
        async with ledger.read() as session:
            stored = await book.disabled_since(session, ledger.now() - age)
        return [each.row.name for each in stored]
    async with prefect.connected() as client:
        await prefect.check_connection(client)
        async with ledger.write() as session:
            stored = await book.disabled_since(session, ledger.now() - age)
            for each in stored:
                await outcomes.archive_job(session, each, ledger.now())
        # After a crash from here on, the next sync deletes the deployments.
        await delete_leftover_deployments(ledger, client, ReconcileReport())
    return [each.row.name for each in stored]
