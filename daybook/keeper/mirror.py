"""Mirror: the Prefect run of an ended row shows how it ended (`docs/promise.md` 13).

::

    Prefect has          then                        (always once: afterwards the mark is gone)
    ───────────────────  ───────────────────────────────────────────────────────────────────────
    the same, or is gone  nothing
    another state         the row's is forced, unless Prefect was told before: what came later was
                          done by hand, or is a Retry, and is not undone
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import ObjectNotFound

from daybook.keeper import prefect_runs
from daybook.ledger import mirror as marks
from daybook.ledger.engine import Ledger
from daybook.ledger.states import TERMINAL
from daybook.ledger.tables import RunRow
from daybook.runs import prefect_states

log = logging.getLogger(__name__)

OWN_TIME = timedelta(seconds=15)
"""How long a flow has to set its state by itself, after its outcome was written: before that it
sends what is to be told (`runs.delivery.WITHIN`), and makes its artifact."""
SKEW = timedelta(seconds=2)
"""By how much Prefect's clock may be behind the ledger's."""


@dataclass
class Mirrored:
    """How many rows agreed, and on how many Prefect runs their state was forced."""

    agreed: int = 0
    forced: int = 0

    def __bool__(self) -> bool:
        return bool(self.forced)


async def mirror(ledger: Ledger, client: PrefectClient, limit: int = 100) -> Mirrored:
    """Bring Prefect to what the ledger says of runs that ended; at most ``limit`` of them."""
    async with ledger.read() as session:
        rows = await marks.unmirrored(session, ledger.now() - OWN_TIME, limit)
    return await these(ledger, client, rows)


async def now(ledger: Ledger, client: PrefectClient, run_id: str) -> Mirrored:
    """The same for one run, at once: its process is gone, or there never was one."""
    async with ledger.read() as session:
        row = await session.get(RunRow, run_id)
    return await these(ledger, client, [row] if row is not None else [])


async def these(ledger: Ledger, client: PrefectClient, rows: Sequence[RunRow]) -> Mirrored:
    """The same for those of ``rows`` that are ended and still to be mirrored."""
    done = Mirrored()
    rows = [row for row in rows if row.unmirrored and row.state in TERMINAL]
    if not rows:
        return done
    runs = await prefect_runs.read(client, [row.flow_run_id for row in rows])
    differing: list[tuple[RunRow, FlowRun]] = []
    for row in rows:
        run = runs.get(str(row.flow_run_id))
        if run is not None and not await _settled(client, row, run):
            differing.append((row, run))
    ids = {row.id for row, _ in differing}
    agreed = [row for row in rows if row.id not in ids]
    await _written_down(ledger, agreed)
    done.agreed = len(agreed)
    for row, run in differing:
        done.forced += await _force(ledger, client, row, run)
    return done


async def _settled(client: PrefectClient, row: RunRow, run: FlowRun) -> bool:
    """Whether Prefect shows what ``row`` says, or has shown it before somebody changed it."""
    state, finished = run.state, row.finished_at
    if state is None or finished is None or _agrees(state, row):
        return True
    if state.name == prefect_states.WAITING:
        return False  # no person's hand, but one of us who wrote over what came in between
    retried = not state.is_final()
    return any(
        _agrees(each, row) or (retried and each.is_final())
        for each in await prefect_runs.history(client, run.id)
        if each.timestamp >= finished - SKEW
    )


def _agrees(state: State[Any], row: RunRow) -> bool:
    wanted = prefect_states.state_of(row.state, "")
    return (state.type, state.name) == (wanted.type, wanted.name)


async def _force(ledger: Ledger, client: PrefectClient, row: RunRow, run: FlowRun) -> bool:
    async with ledger.read() as session:
        newest = await session.get(RunRow, row.id)
    if newest is None or not newest.unmirrored or newest.finished_at != row.finished_at:
        return False  # another process did it, or the outcome was corrected
    message = prefect_states.message(row.state, row.id, row.error, row.reason)
    state = prefect_states.state_of(row.state, message)
    with suppress(ObjectNotFound):  # deleted meanwhile: there is nothing to tell
        await client.set_flow_run_state(run.id, state, force=True)
    log.info(
        "Prefect's %s is %s, as the ledger says", run.name, row.status, extra={"action": "mirrored"}
    )
    await _written_down(ledger, [row])
    return True


async def _written_down(ledger: Ledger, rows: Sequence[RunRow]) -> None:
    # A late outcome that was written meanwhile is a later one, and keeps its mark.
    last = max((row.finished_at for row in rows if row.finished_at), default=None)
    await marks.mirrored(ledger, [row.id for row in rows], last)
