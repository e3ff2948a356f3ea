"""Mirror: the Prefect run of an ended row shows how it ended (`docs/promise.md` 13).

::

    Prefect has          then                        (always once: afterwards the mark is gone)
    ───────────────────  ───────────────────────────────────────────────────────────────────────
    the same, or is gone  nothing
    another state         the row's is forced, unless Prefect was told before: what came later was
                          done by hand, or is a Retry, and is not undone
    no run of the row     one is made in the row's state, which no worker is ever offered; its key
                          lets a second try find it

A run whose name is not its job's name and due time is renamed. The run of a range of due times is
named after the whole range, again whenever the range has grown.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

from daybook.jobs import store
from daybook.jobs.store import StoredJob
from daybook.ledger.engine import Ledger
from daybook.ledger.states import TERMINAL
from daybook.ledger.tables import RunRow
from daybook.prefect import deployment, flow_runs, run_names, state_history, states
from daybook.prefect import unmirrored as marks
from daybook.timing import TIMING

log = logging.getLogger(__name__)

SKEW = timedelta(seconds=2)
"""By how much Prefect's clock may be behind the ledger's."""
DEPLOYMENT_AWAY = timedelta(hours=1)
"""How long after a due time it waits to be shown until Prefect has its job's deployment again."""


@dataclass
class Mirrored:
    """How many rows agreed, on how many Prefect runs their state was forced, how many were made."""

    agreed: int = 0
    forced: int = 0
    made: int = 0

    def __bool__(self) -> bool:
        return bool(self.forced or self.made)


async def mirror(ledger: Ledger, client: PrefectClient, limit: int = 100) -> Mirrored:
    """Bring Prefect to what the ledger says of runs that ended; at most ``limit`` of them."""
    async with ledger.read() as session:
        rows = await marks.unmirrored(session, ledger.now() - TIMING.own_state_limit, limit)
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
    known = await _jobs(ledger, rows)
    rows = await _with_runs(ledger, client, rows, known, done)
    runs = await flow_runs.read(client, [row.flow_run_id for row in rows])
    differing: list[tuple[RunRow, FlowRun]] = []
    for row in rows:
        run = runs.get(str(row.flow_run_id))
        if run is None:
            continue
        if row.job_id in known and row.retry_of is None:
            await _name(client, run, run_names.of_row(known[row.job_id], row))
        if not await _settled(client, row, run):
            differing.append((row, run))
    ids = {row.id for row, _ in differing}
    agreed = [row for row in rows if row.id not in ids]
    await _written_down(ledger, agreed)
    done.agreed = len(agreed)
    for row, run in differing:
        done.forced += await _force(ledger, client, row, run)
    return done


async def _name(client: PrefectClient, run: FlowRun, wanted: str) -> None:
    try:
        await run_names.give(client, run, wanted)
    except PrefectHTTPStatusError as error:
        if not flow_runs.is_of_one(error):
            raise
        log.warning("%s is not named: %s", run.name, error, extra={"action": "name_failed"})


async def _jobs(ledger: Ledger, rows: Sequence[RunRow]) -> dict[str | None, StoredJob]:
    ids = {row.job_id for row in rows if row.job_id}
    async with ledger.read() as session:
        return {each.id: each for each in await store.every(session, ids)} if ids else {}


async def _with_runs(
    ledger: Ledger,
    client: PrefectClient,
    rows: Sequence[RunRow],
    known: Mapping[str | None, StoredJob],
    done: Mirrored,
) -> list[RunRow]:
    """Return those of ``rows`` that have a Prefect run, after making one for those without."""
    found = list[RunRow]()
    for row in rows:
        if row.flow_run_id is not None:
            found.append(row)
            continue
        stored = known.get(row.job_id)
        if stored is None or stored.row.deployment_id is None:
            await _written_down(ledger, [row])  # the job was removed: there is nothing to show
            continue
        try:
            flow_run_id = await _make(ledger, client, row, stored)
        except PrefectHTTPStatusError as error:
            if not flow_runs.is_of_one(error):
                raise
            log.warning("run %s is not shown in Prefect: %s", row.id[:8], error)
            await _written_down(ledger, [row])
            continue
        if flow_run_id is None:
            # Prefect lost the deployment, and the next sync makes it again.
            if row.finished_at is None or ledger.now() - row.finished_at > DEPLOYMENT_AWAY:
                await _written_down(ledger, [row])
            continue
        done.made += 1
        if newest := await marks.carried_by(ledger, row.id, flow_run_id):
            found.append(newest)
    return found


async def _make(
    ledger: Ledger, client: PrefectClient, row: RunRow, stored: StoredJob
) -> str | None:
    """Make the Prefect run of a row that no run carried; None if its deployment is not there.

    The run gets the deployment's parameters: those of the row may not fit the deployment any more,
    and nothing runs with them.
    """
    key = f"{ledger.id}:{row.occurrence}:{row.prefect_runs + 1}"
    made = await deployment.make_run(
        client,
        str(stored.row.deployment_id),
        key,
        {},
        name=run_names.of_row(stored, row),
        state=states.of_row(row),
    )
    return None if made is None else str(made.id)


async def _settled(client: PrefectClient, row: RunRow, run: FlowRun) -> bool:
    """Whether Prefect shows what ``row`` says, or has shown it before somebody changed it."""
    state, finished = run.state, row.finished_at
    if state is None or finished is None or _agrees(state, row):
        return True
    if row.due_to is not None:
        # Ended as this row when it was one due time: what came afterwards is a Retry of it.
        return any(_agrees(each, row) for each in await state_history.read(client, run.id))
    if state.name == states.WAITING:
        return False  # no person's hand, but one of us who wrote over what came in between
    retried = not state.is_final()
    return any(
        _agrees(each, row) or (retried and each.is_final())
        for each in await client.read_flow_run_states(run.id)
        if each.timestamp >= finished - SKEW
    )


def _agrees(state: State[Any], row: RunRow) -> bool:
    wanted = states.state_of(row.state, "")
    return (state.type, state.name) == (wanted.type, wanted.name)


async def _force(ledger: Ledger, client: PrefectClient, row: RunRow, run: FlowRun) -> bool:
    async with ledger.read() as session:
        newest = await session.get(RunRow, row.id)
    if newest is None or not newest.unmirrored or newest.finished_at != row.finished_at:
        return False  # another process did it, or the outcome was corrected
    with suppress(ObjectNotFound):  # deleted meanwhile: there is nothing to tell
        await client.set_flow_run_state(run.id, states.of_row(row), force=True)
    log.info(
        "Prefect's %s is %s, as the ledger says", run.name, row.status, extra={"action": "mirrored"}
    )
    await _written_down(ledger, [row])
    return True


async def _written_down(ledger: Ledger, rows: Sequence[RunRow]) -> None:
    # A late outcome that was written meanwhile is a later one, and keeps its mark.
    last = max((row.finished_at for row in rows if row.finished_at), default=None)
    await marks.mirrored(ledger, [row.id for row in rows], last)
