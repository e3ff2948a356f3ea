"""Retention on request: the service that the keeper runs each hour (`keeper.retention`)."""

from __future__ import annotations

from datetime import timedelta

from pydantic import BaseModel

from daybook.keeper import retention as keeper
from daybook.ledger.engine import Ledger, open_ledger
from daybook.runs import outcomes
from daybook.runs import retention as book
from daybook.schedules import durations


class PruneResult(BaseModel, frozen=True):
    """The numbers of deleted runs, session messages, outbox rows (``deliveries``) and task runs.

    ``removed`` are the names of the removed jobs, or with ``dry_run`` of those that would be
    removed; ``jobs`` are the names of the archived jobs that were deleted with their last run.
    """

    removed: list[str]
    runs: int
    messages: int
    deliveries: int
    tasks: int
    jobs: list[str]
    dry_run: bool


async def prune(*, disabled_for: str | None = None, dry_run: bool = False) -> PruneResult:
    """Delete all history that the settings no longer keep.

    ``disabled_for``, such as `90d`, first removes the jobs that have been disabled and unedited for
    that long, as `jobs.remove` does; only this step needs Prefect. With ``dry_run``, list those
    jobs and delete nothing. Raise `InvalidInput` for an invalid duration.
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
    return PruneResult(
        removed=removed,
        runs=total.runs,
        messages=total.messages,
        deliveries=total.deliveries,
        tasks=total.tasks,
        jobs=total.jobs,
        dry_run=dry_run,
    )


async def _remove(ledger: Ledger, age: timedelta, *, dry_run: bool) -> list[str]:
    """Return the names of the jobs disabled for ``age``; remove them unless ``dry_run`` is true."""
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
