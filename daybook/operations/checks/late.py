"""Checks for what delays runs: no leading keeper, skewed clocks, spooled outcomes, overdue runs."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from daybook.api import overdue, task_scheduler, views
from daybook.api.overdue import DelayFacts
from daybook.clock import SYSTEM_CLOCK
from daybook.keeper import leader_lease
from daybook.ledger.engine import open_ledger
from daybook.operations.checks import Problem
from daybook.operations.checks import ledger as book
from daybook.runs import history
from daybook.runs import overdue as book_of_late
from daybook.tasks import counts as task_counts
from daybook.tasks.pause import UNREADABLE

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

MAX_LISTED = 5
SPOOL_GRACE_SECONDS = 60.0
"""Age of a spooled outcome that any running process would have recorded."""


async def ledger_clock() -> list[Problem]:
    """Check that the ledger's clock and this machine's agree, and that it was not set back."""
    stored, problems = await book.stored_jobs(), []
    if not stored:
        return []
    async with open_ledger() as ledger:
        now = ledger.now()
        skew = overdue.clock_problem(DelayFacts(now, ledger_ahead=ledger.skew()))
    if skew:
        message = f"{skew} of this machine's"
        problems.append(Problem(message, "on both machines: sudo timedatectl set-ntp true"))
    if ahead := [each for each in stored if each.row.audited_until > now + overdue.MAX_CLOCK_SKEW]:
        names = ", ".join(each.row.name for each in ahead[:MAX_LISTED])
        names += f" and {len(ahead) - MAX_LISTED} more" * (len(ahead) > MAX_LISTED)
        until = views.utc_text(max(each.row.audited_until for each in ahead))
        message = f"judged already, up to {until}, by a clock that was set back since: {names}"
        fix = "nothing is due until then; what cannot wait: daybook remove it, and add it again"
        problems.append(Problem(message, fix))
    return problems


def outcomes() -> list[Problem]:
    """Check that no outcome stays in the spool for long, and that none was set aside."""
    from daybook.execution import outcome_spool

    problems, now = [], SYSTEM_CLOCK.now().timestamp()
    stuck = [
        each
        for each in outcome_spool.pending_files()
        if now - each.stat().st_mtime > SPOOL_GRACE_SECONDS
    ]
    if stuck:
        count = "one outcome" if len(stuck) == 1 else f"{len(stuck)} outcomes"
        message = f"not in the ledger yet: {count} in {outcome_spool.folder()}"
        problems.append(
            Problem(message, "daybook keeper, for a minute; they may be of another ledger")
        )
    for each in outcome_spool.set_aside_files():
        retry = f"mv {shlex.quote(str(each))} {shlex.quote(str(each.with_suffix('.json')))}"
        message = f"{each} holds an outcome that could not be written into the ledger"
        problems.append(Problem(message, f"look at it; {retry} to try again, or delete it"))
    return problems


async def keeper(client: PrefectClient) -> list[Problem]:
    """Check that a keeper leads and has observed Prefect lately; skipped while no worker runs."""
    from daybook.prefect import work_pool

    ledger_id, jobs = await book.id_and_jobs()
    if not jobs or (await work_pool.read(client, ledger_id)).idle:
        return []
    async with open_ledger() as ledger:
        leader = await leader_lease.read(ledger, leader_lease.LEADERSHIP_NAME)
        problem = overdue.keeper_problem(DelayFacts(ledger.now(), leader=leader))
        if problem == overdue.NO_KEEPER and await ledger.why_unwritable():
            return []  # `checks.ledger.ledger` reports it
    # If there never was a leader, the first worker has just started.
    return [Problem(problem, "daybook keeper")] if problem and leader else []


async def late(client: PrefectClient) -> list[Problem]:
    """Check that no due time passed without a started run, or was missed lately for that reason."""
    from daybook.operations.checks import prefect
    from daybook.prefect import work_pool

    ledger_id, stored = await book.id_and_jobs()
    if not stored:
        return []
    pool, ahead = await work_pool.read(client, ledger_id), await prefect.clock_ahead(client)
    async with open_ledger() as ledger:
        async with ledger.read() as session:
            now, live = ledger.now(), await history.live(session)
            candidates = [*live, *await book_of_late.unattended(session, now)]
            overdue_runs = await book_of_late.find(session, stored, candidates, now)
        leader = await leader_lease.read(ledger, leader_lease.LEADERSHIP_NAME)
        known = DelayFacts(ledger.now(), "", pool, ahead, ledger.skew(), leader)
    described = overdue.overdue_views(overdue_runs[:MAX_LISTED], known)
    return [Problem(overdue.as_sentence(each), "daybook status") for each in described]


async def tasks() -> list[Problem]:
    """Check that the pause can be read; that it is paused, and starving tasks, are harmless."""
    async with open_ledger() as ledger, ledger.read() as session:
        now = ledger.now()
        state = await task_counts.read_counts(session, now)
    return [
        Problem(each.what, each.command, harmless=UNREADABLE not in each.what)
        for each in task_scheduler.problems(state, now)
    ]
