"""Retention on request: the service that the keeper runs each hour (`keeper.retention`)."""

from __future__ import annotations

from dataclasses import replace

from pydantic import BaseModel

from daybook.keeper import retention as keeper
from daybook.keeper.retention import PruneReport
from daybook.ledger.engine import Ledger, open_ledger
from daybook.runs import retention as book
from daybook.runs.retention import RetentionLimits
from daybook.schedules import durations


class PruneResult(BaseModel, frozen=True):
    """The numbers of deleted runs, session messages, outbox rows (``deliveries``) and task runs.

    ``steps`` is the number of steps, and of questions to a person, whose texts were removed.
    ``removed`` are the names of the removed jobs, or with ``dry_run`` of those that would be
    removed; ``jobs`` are the names of the archived jobs that were deleted with their last run.
    """

    removed: list[str]
    runs: int
    messages: int
    deliveries: int
    tasks: int
    steps: int
    jobs: list[str]
    dry_run: bool


async def prune(*, disabled_for: str | None = None, dry_run: bool = False) -> PruneResult:
    """Delete all history that the settings no longer keep.

    First remove the jobs that have been disabled for ``disabled_for``, such as `90d`, by default
    for the setting `keep_disabled_days`, and were neither edited nor run meanwhile; a job that
    another one names stays. Only ``disabled_for`` needs Prefect, to delete their deployments at
    once, as `jobs.remove` does. With ``dry_run``, list those jobs and delete nothing. Raise
    `InvalidInput` for an invalid duration.
    """
    keep = RetentionLimits.of_settings()
    if disabled_for is not None:
        keep = replace(keep, disabled=durations.parse(disabled_for, "disabled_for"))
    async with open_ledger() as ledger:
        if dry_run:
            total = PruneReport(removed=await _removable(ledger, keep))
        elif disabled_for is None:
            total = await _prune(ledger, keep)
        else:
            total = await _prune_and_delete_deployments(ledger, keep)
    return PruneResult(
        removed=total.removed,
        runs=total.runs,
        messages=total.messages,
        deliveries=total.deliveries,
        tasks=total.tasks,
        steps=total.steps,
        jobs=total.jobs,
        dry_run=dry_run,
    )


async def _removable(ledger: Ledger, keep: RetentionLimits) -> list[str]:
    if keep.disabled is None:
        return []
    async with ledger.read() as session:
        stored = await book.disabled_since(session, ledger.now() - keep.disabled)
    return [each.row.name for each in stored]


async def _prune(ledger: Ledger, keep: RetentionLimits) -> PruneReport:
    total = PruneReport(left=True)
    while total.left:
        batch = await keeper.prune(ledger, keep)
        total.runs, total.messages = total.runs + batch.runs, total.messages + batch.messages
        total.deliveries += batch.deliveries
        total.tasks += batch.tasks
        total.steps += batch.steps
        total.removed += batch.removed
        total.jobs, total.left = [*total.jobs, *batch.jobs], batch.left
    return total


async def _prune_and_delete_deployments(ledger: Ledger, keep: RetentionLimits) -> PruneReport:
    """Raise `PrefectUnreachable` before anything is deleted."""
    from daybook.prefect import client as prefect
    from daybook.prefect.reconcile import ReconcileReport, delete_leftover_deployments

    async with prefect.answering() as client:
        total = await _prune(ledger, keep)
        # After a crash from here on, the next sync deletes the deployments.
        await delete_leftover_deployments(ledger, client, ReconcileReport())
    return total
