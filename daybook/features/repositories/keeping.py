"""The service that finishes landings after a kill, and removes folders that are not needed.

It runs on each machine, because the worktrees are in the home of the machine where the run was.
"""

from __future__ import annotations

import asyncio
import logging
import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from sqlalchemy import ColumnElement, delete, exists
from sqlalchemy.orm import defer
from sqlmodel import col, select

from daybook.clock import SYSTEM_CLOCK
from daybook.errors import DaybookError
from daybook.execution import sandboxing
from daybook.features.repositories import review, settings, worktrees
from daybook.features.repositories.locks import StillLocked
from daybook.features.repositories.tables import ENDED, ChangeRow, ChangeStatus
from daybook.home import current_home
from daybook.keeper.services import Cycle, Loop, Service
from daybook.keeper.term import Context, Term
from daybook.ledger.engine import Ledger
from daybook.ledger.states import LIVE
from daybook.ledger.tables import JobRow, RunRow
from daybook.runs.retention import BATCH_SIZE, RetentionLimits

log = logging.getLogger(__name__)

INTERVAL = timedelta(seconds=30)
CYCLE_TIMEOUT_SECONDS = 3_600.0
"""Maximum duration of a cycle, which verifies and pushes changes."""
MERGE_PERIOD = timedelta(days=7)
"""How long after a decision the keeper looks whether the user has merged a change."""
ABANDONED_AGE = timedelta(days=1)
"""Age at which a folder counts as left by a killed process, if no change belongs to it."""

_ID = re.compile(r"[0-9a-f]{32}")


async def tend(ledger: Ledger) -> None:
    """Do one cycle."""
    for row in await _rows(ledger, col(ChangeRow.status) == ChangeStatus.LANDING):
        await _finish(row)
    for row in await _rows(
        ledger,
        col(ChangeRow.status) == ChangeStatus.WAITING,
        # A user may merge a branch of an own folder by hand.
        col(ChangeRow.candidate) != "",
        col(ChangeRow.repo).startswith("/"),
        col(ChangeRow.decided_at) > ledger.now() - MERGE_PERIOD,
    ):
        with suppress(DaybookError):
            await review.notice_merge(row.run_id)
    await _remove_folders(ledger)
    await _remove_caches(ledger)


async def _rows(ledger: Ledger, *conditions: ColumnElement[bool]) -> list[ChangeRow]:
    query = (
        select(ChangeRow)
        .where(*conditions)
        .order_by(col(ChangeRow.started_at))
        .limit(BATCH_SIZE)
        .options(defer(ChangeRow.patch))  # type: ignore[arg-type]  # up to 2 MB
    )
    async with ledger.read() as session:
        found = list((await session.execute(query)).scalars())
    return [each for each in found if await review.is_here(each)]


async def _finish(row: ChangeRow) -> None:
    try:
        await review.land(row.run_id, wait_seconds=0.0)
    except StillLocked:
        return  # the process that has decided it lands it
    except Exception as error:
        # Such as one of Prefect's client. It must not stop the other changes.
        log.warning(
            "the change of run %s has not landed: %s: %s",
            row.run_id[:8],
            type(error).__name__,
            error,
            extra={"action": "change_not_landed"},
        )


async def _remove_folders(ledger: Ledger) -> None:
    root = worktrees.folder_of("")
    names = await asyncio.to_thread(_names, root)
    run_ids = {found[0] for name in names if (found := _ID.match(name))}
    if not run_ids:
        return
    changes = col(ChangeRow.run_id).in_(run_ids)
    runs = select(RunRow.id).where(col(RunRow.id).in_(run_ids), col(RunRow.status).in_(LIVE))
    async with ledger.read() as session:
        found_changes = await session.execute(
            select(ChangeRow.run_id, ChangeRow.status, ChangeRow.started_at).where(changes)
        )
        by_run = {run_id: (status, at) for run_id, status, at in found_changes}
        live = set((await session.execute(runs)).scalars())
    oldest = ledger.now() - timedelta(days=settings.load().keep_worktrees_days)
    for name in names:
        run_id = name[:32]
        if run_id in live:
            continue
        status, at = by_run.get(run_id, ("", None))
        if name == run_id and at is not None:
            is_over = status in ENDED or (at < oldest and status != ChangeStatus.LANDING)
        else:
            may_lock = name.endswith(".lock") and at is not None and status not in ENDED
            is_over = not may_lock and await asyncio.to_thread(_is_abandoned, root / name)
        if is_over:
            await asyncio.to_thread(_remove, root / name)


async def _remove_caches(ledger: Ledger) -> None:
    """Remove the caches of programs of jobs that were removed."""
    root = current_home().path / sandboxing.CACHES
    job_ids = set(filter(_ID.fullmatch, await asyncio.to_thread(_names, root)))
    if not job_ids:
        return
    kept = select(JobRow.id).where(col(JobRow.id).in_(job_ids), col(JobRow.archived_at).is_(None))
    async with ledger.read() as session:
        job_ids -= set((await session.execute(kept)).scalars())
    for each in job_ids:
        await asyncio.to_thread(_remove, root / each)


def _names(root: Path) -> list[str]:
    try:
        return sorted(each.name for each in root.iterdir())
    except FileNotFoundError:
        return []


def _is_abandoned(path: Path) -> bool:
    try:
        changed = datetime.fromtimestamp(path.lstat().st_mtime, UTC)
    except FileNotFoundError:
        return False
    return changed < SYSTEM_CLOCK.now() - ABANDONED_AGE


def _remove(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            worktrees.remove_folder(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s is not removed: %s", path, error, extra={"action": "worktree_kept"})


async def delete_old(ledger: Ledger, _: RetentionLimits) -> int:
    """Delete one batch of changes whose runs are deleted."""
    condition = ~exists().where(col(RunRow.id) == col(ChangeRow.run_id))
    old = select(ChangeRow.run_id).where(condition).limit(BATCH_SIZE)
    async with ledger.read() as session:
        if (await session.execute(old.limit(1))).first() is None:
            return 0
    async with ledger.write() as session:
        found = list((await session.execute(old)).scalars())
        await session.execute(delete(ChangeRow).where(col(ChangeRow.run_id).in_(found)))
        return len(found)


def _start(context: Context, _: Term) -> Cycle:
    return partial(tend, context.ledger)


LOOPS = (
    Loop(
        everywhere=True,
        interval=lambda: INTERVAL,
        services=(
            Service(
                "worktrees",
                "lands changes after a kill, and removes worktrees that are not needed",
                start=_start,
                timeout=CYCLE_TIMEOUT_SECONDS,
            ),
        ),
    ),
)
