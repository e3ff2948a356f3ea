"""What keeps runs from their time: nobody leads, clocks that are off, outcomes not written yet."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from daybook.api import overdue, views
from daybook.api.overdue import Known
from daybook.clock import SYSTEM
from daybook.keeper import leadership
from daybook.ledger.engine import open_ledger
from daybook.operations.checks import ledger as book
from daybook.operations.checks.problem import Problem
from daybook.runs import history
from daybook.runs import overdue as book_of_late

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

SHOWN = 5
DRAINED = 60.0
"""Seconds after which somebody would have drained the spool, were there anybody."""


async def ledger_clock() -> list[Problem]:
    """The clock by which due is judged and this machine's agree, and it was not set back."""
    stored, found = await book.stored(), []
    if not stored:
        return []
    async with open_ledger() as ledger:
        now = ledger.now()
        off = overdue.clocks(Known(now, ledger_ahead=ledger.skew()))
    if off:
        what = f"{off} of this machine's"
        found.append(Problem(what, "on both machines: sudo timedatectl set-ntp true"))
    if ahead := [each for each in stored if each.row.audited_until > now + overdue.FAR]:
        names = ", ".join(each.row.name for each in ahead[:SHOWN])
        names += f" and {len(ahead) - SHOWN} more" * (len(ahead) > SHOWN)
        until = views.utc(max(each.row.audited_until for each in ahead))
        what = f"judged already, up to {until}, by a clock that was set back since: {names}"
        wait = "nothing is due until then; what cannot wait: daybook remove it, and add it again"
        found.append(Problem(what, wait))
    return found


def outcomes() -> list[Problem]:
    """No outcome lies in the spool for long, and none was set aside."""
    from daybook.execution import outcome_spool

    found, now = [], SYSTEM.now().timestamp()
    old = [each for each in outcome_spool.waiting() if now - each.stat().st_mtime > DRAINED]
    if old:
        many = "one outcome" if len(old) == 1 else f"{len(old)} outcomes"
        what = f"not in the ledger yet: {many} in {outcome_spool.folder()}"
        found.append(Problem(what, "daybook keeper, for a minute; they may be of another ledger"))
    for each in outcome_spool.aside():
        again = f"mv {shlex.quote(str(each))} {shlex.quote(str(each.with_suffix('.json')))}"
        what = f"{each} holds an outcome that could not be written into the ledger"
        found.append(Problem(what, f"look at it; {again} to try again, or delete it"))
    return found


async def keeper(client: PrefectClient) -> list[Problem]:
    """A keeper leads, and has observed Prefect lately; where no worker runs, that is told first."""
    from daybook.prefect import work_pool

    ledger_id, jobs = await book.whose()
    if not jobs or (await work_pool.read(client, ledger_id)).idle:
        return []
    async with open_ledger() as ledger:
        leader = await leadership.read(ledger, overdue.LEAD)
        told = overdue.keeper(Known(ledger.now(), leader=leader))
        if told == overdue.NO_KEEPER and await ledger.why_unwritable():
            return []  # `book.ledger` tells of it
    # Where none ever led, the first worker has just begun.
    return [Problem(told, "daybook keeper")] if told and leader else []


async def late(client: PrefectClient) -> list[Problem]:
    """No due time has passed of which nothing has begun, nor was one missed lately for that."""
    from daybook.operations.checks import prefect
    from daybook.prefect import work_pool

    ledger_id, stored = await book.whose()
    if not stored:
        return []
    there, ahead = await work_pool.read(client, ledger_id), await prefect.ahead(client)
    async with open_ledger() as ledger:
        async with ledger.read() as session:
            now, live = ledger.now(), await history.live(session)
            rows = [*live, *await book_of_late.unattended(session, now)]
            found = await book_of_late.find(session, stored, rows, now)
        leader = await leadership.read(ledger, overdue.LEAD)
        known = Known(ledger.now(), "", there, ahead, ledger.skew(), leader)
    told = overdue.told(found[:SHOWN], known)
    return [Problem(overdue.in_words(each), "daybook status") for each in told]
