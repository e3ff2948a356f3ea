"""Operations on the ledger: delete old history, and replace the key of its block copies."""

from __future__ import annotations

from dataclasses import replace

from pydantic import BaseModel

from daybook import home as homes
from daybook import prefect
from daybook.errors import InvalidInput, LedgerKeyMissing
from daybook.keeper import retention
from daybook.keeper.retention import PruneReport
from daybook.ledger.engine import Ledger, open_ledger
from daybook.resources import copies, encryption, mirror
from daybook.runs import retention as run_retention
from daybook.runs.retention import RetentionLimits
from daybook.schedules import durations


class KeyRenewal(BaseModel, frozen=True):
    """Names of blocks, such as `secret ops`.

    The blocks in ``copied`` were copied again; the copies in ``discarded`` were deleted for good.
    """

    copied: list[str]
    discarded: list[str]


async def rekey(*, discard: bool = False) -> KeyRenewal:
    """Copy all blocks from Prefect again, and encrypt the copies with this home's key.

    If the home has no key, create one. Raise `InvalidInput`, and change nothing, if this home has
    the key of the present copies, or if the ledger has no key yet. Raise it also if Prefect has
    lost some of the blocks and ``discard`` is false. Raise `LedgerKeyMissing` if the file of the
    home's key holds no key. If the process dies halfway, the keeper completes the work.
    """
    from daybook.keeper import blocks

    async with open_ledger() as ledger, prefect.client.answering() as client:
        async with ledger.read() as session:
            try:
                await copies.key(session, homes.current_home())
            except LedgerKeyMissing:
                pass
            else:
                raise InvalidInput("key", "this home has the ledger's key", "no new one is needed")
        lost = await mirror.list_lost(ledger, client, blocks.BLOCK_TYPES)
        if lost and not discard:
            problem = f"Prefect has lost {', '.join(lost)}: only the old key can restore them"
            hint = "copy the old ledger-key file back, or give up these blocks with --discard"
            raise InvalidInput("key", problem, hint)
        encryption.read_or_create_key(homes.current_home().ledger_key)
        async with ledger.write() as session:
            await copies.remove_key(session)
        report = await blocks.reconcile_blocks(ledger, client)
    if report.key_problem:
        raise LedgerKeyMissing(report.key_problem)
    return KeyRenewal(copied=report.copied, discarded=lost)


class PruneResult(BaseModel, frozen=True, extra="allow"):
    """The numbers of deleted runs, session messages and outbox rows (``deliveries``).

    ``steps`` counts the steps, and the questions to a person, whose texts were deleted. ``removed``
    are the names of the jobs that were removed; with ``dry_run``, of the jobs that would be
    removed. ``jobs`` are the names of the archived jobs that were deleted with their last run.
    Further fields are the numbers of rows that features deleted, by the names of the features.
    """

    __pydantic_extra__: dict[str, int]

    removed: list[str]
    runs: int
    messages: int
    deliveries: int
    steps: int
    jobs: list[str]
    dry_run: bool


async def prune(*, disabled_for: str | None = None, dry_run: bool = False) -> PruneResult:
    """Delete all history that is older than the settings allow. Return the numbers.

    First remove the jobs that have been disabled for ``disabled_for`` (such as `90d`; default: the
    setting `keep_disabled_days`) and that were not edited or run in this time. If another job names
    a job, the job stays. A call with ``disabled_for`` and without ``dry_run`` needs Prefect,
    because it deletes the deployments of the removed jobs at once, as `jobs.remove` does. No other
    call needs Prefect. With ``dry_run``, return the names of the jobs that would be removed, and
    delete nothing. Raise `InvalidInput` for an invalid duration, and `PrefectUnreachable`.
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
    counts = {name: each for name, each in vars(total).items() if name not in ("features", "left")}
    return PruneResult.model_validate({**total.features, **counts, "dry_run": dry_run})


async def _removable(ledger: Ledger, keep: RetentionLimits) -> list[str]:
    if keep.disabled is None:
        return []
    async with ledger.read() as session:
        stored = await run_retention.disabled_since(session, ledger.now() - keep.disabled)
    return [each.row.name for each in stored]


async def _prune(ledger: Ledger, keep: RetentionLimits) -> PruneReport:
    total = PruneReport(left=True)
    while total.left:
        await retention.prune(ledger, keep, total)
    return total


async def _prune_and_delete_deployments(ledger: Ledger, keep: RetentionLimits) -> PruneReport:
    """Delete the history, remove jobs, and delete their deployments.

    Raise `PrefectUnreachable` before anything is deleted.
    """
    async with prefect.client.answering() as client:
        total = await _prune(ledger, keep)
        # If the process dies after this point, the next sync deletes the deployments.
        await prefect.reconcile.delete_leftover_deployments(
            ledger, client, prefect.report.ReconcileReport()
        )
    return total
