"""State mirror: the Prefect run of an ended row shows its outcome.

The mirror forces the Prefect run of an `unmirrored` row to the row's state, once (the first half of
promise 13).

::

    Prefect has           then                       (always once: afterwards the mark is cleared)
    ────────────────────  ───────────────────────────────────────────────────────────────────────
    the row's state       nothing
    another state         the row's state is forced, unless Prefect has shown it before: then the
                          present state was set by hand, or is a Retry, and is not undone
    deleted the run       nothing
    no run for the row    a run is created in the row's state, so no worker ever gets it; its key
                          lets a second attempt find it
    no deployment for     nothing, if the job was removed or has none, or Prefect refuses the run;
    such a run            if Prefect lost the deployment, the row waits up to `DEPLOYMENT_GRACE`

The mirror renames a run whose name is not its job's name and due time. It names the run of a range
of due times after the whole range, and renames the run whenever the range has grown.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

from daybook.jobs import store
from daybook.jobs.store import StoredJob
from daybook.ledger.engine import Ledger
from daybook.ledger.states import TERMINAL
from daybook.ledger.tables import RunRow
from daybook.prefect import deployment, flow_runs, run_log, run_names, states, unmirrored
from daybook.timing import TIMING

log = logging.getLogger(__name__)

MAX_CLOCK_SKEW = timedelta(seconds=2)
"""Maximum time by which Prefect's clock may be behind the ledger's."""
DEPLOYMENT_GRACE = timedelta(hours=1)
"""Time that an outcome without a Prefect run waits until its job's deployment is recreated."""


@dataclass
class MirrorResult:
    """Numbers of rows that needed no new state, runs with a forced state, and new runs."""

    agreed: int = 0
    forced: int = 0
    made: int = 0

    def __bool__(self) -> bool:
        return bool(self.forced or self.made)


async def mirror(ledger: Ledger, client: PrefectClient, limit: int = 100) -> MirrorResult:
    """Show the outcomes of at most ``limit`` ended runs in Prefect, oldest first."""
    async with ledger.read() as session:
        rows = await unmirrored.unmirrored_rows(
            session, ledger.now() - TIMING.own_state_limit, limit
        )
    return await mirror_rows(ledger, client, rows)


async def mirror_run(ledger: Ledger, client: PrefectClient, run_id: str) -> MirrorResult:
    """Mirror one run at once; the caller knows that no process of the run will set its state."""
    async with ledger.read() as session:
        row = await session.get(RunRow, run_id)
    return await mirror_rows(ledger, client, [row] if row is not None else [])


async def mirror_rows(
    ledger: Ledger, client: PrefectClient, rows: Sequence[RunRow]
) -> MirrorResult:
    """Mirror the ``rows`` that have ended and are still marked."""
    done = MirrorResult()
    rows = [row for row in rows if row.unmirrored and row.state in TERMINAL]
    if not rows:
        return done
    job_ids = {row.job_id for row in rows if row.job_id}
    async with ledger.read() as session:
        stored = await store.all_jobs(session, job_ids) if job_ids else []
    jobs: dict[str | None, StoredJob] = {each.id: each for each in stored}
    rows = await _with_runs(ledger, client, rows, jobs, done)
    runs = await flow_runs.read(client, [row.flow_run_id for row in rows])
    differing: list[tuple[RunRow, FlowRun]] = []
    for row in rows:
        run = runs.get(str(row.flow_run_id))
        if run is None:
            continue
        if row.job_id in jobs and row.retry_of is None:
            await _rename(client, run, run_names.of_row(jobs[row.job_id], row))
        if not await _is_settled(client, row, run):
            differing.append((row, run))
    ids = {row.id for row, _ in differing}
    agreed = [row for row in rows if row.id not in ids]
    await _clear_marks(ledger, agreed)
    done.agreed = len(agreed)
    for row, run in differing:
        done.forced += await _force(ledger, client, row, run)
    return done


async def _rename(client: PrefectClient, run: FlowRun, name: str) -> None:
    try:
        await run_names.rename_run(client, run, name)
    except PrefectHTTPStatusError as error:
        if not flow_runs.is_run_error(error):
            raise
        log.warning("cannot rename %s: %s", run.name, error, extra={"action": "name_failed"})


async def _with_runs(
    ledger: Ledger,
    client: PrefectClient,
    rows: Sequence[RunRow],
    jobs: Mapping[str | None, StoredJob],
    done: MirrorResult,
) -> list[RunRow]:
    """Return the ``rows`` that have a Prefect run; first try to create the missing runs."""
    with_runs = list[RunRow]()
    for row in rows:
        if row.flow_run_id is not None:
            with_runs.append(row)
            continue
        stored = jobs.get(row.job_id)
        if stored is None or stored.row.deployment_id is None:
            # The job was removed or has no deployment: Prefect cannot show the outcome.
            await _clear_marks(ledger, [row])
            continue
        try:
            flow_run_id = await _make(ledger, client, row, stored)
        except PrefectHTTPStatusError as error:
            if not flow_runs.is_run_error(error):
                raise
            log.warning("cannot show run %s in Prefect: %s", row.id[:8], error)
            await _clear_marks(ledger, [row])
            continue
        if flow_run_id is None:
            # Prefect lost the deployment, and the next reconciliation recreates it.
            if row.finished_at is None or ledger.now() - row.finished_at > DEPLOYMENT_GRACE:
                await _clear_marks(ledger, [row])
            continue
        done.made += 1
        if newest := await unmirrored.record_flow_run(ledger, row.id, flow_run_id):
            with_runs.append(newest)
    return with_runs


async def _make(
    ledger: Ledger, client: PrefectClient, row: RunRow, stored: StoredJob
) -> str | None:
    """Create the Prefect run of ``row``; return None if its deployment does not exist.

    The run gets the deployment's parameters, because the row's parameters may no longer fit the
    deployment, and nothing runs with them.
    """
    key = f"{ledger.id}:{row.occurrence}:{row.prefect_runs + 1}"
    made = await deployment.create_run(
        client,
        str(stored.row.deployment_id),
        key,
        {},
        name=run_names.of_row(stored, row),
        state=states.of_row(row),
    )
    if made is None:
        return None
    await run_log.write_ends(client, [_end(made.id, row)])
    return str(made.id)


async def _is_settled(client: PrefectClient, row: RunRow, run: FlowRun) -> bool:
    """Return whether Prefect shows the outcome of ``row``, or showed it until a user changed it."""
    state, finished = run.state, row.finished_at
    if state is None or finished is None or _agrees(state, row):
        return True
    if row.due_to is not None:
        # The run ended with this outcome when the row was a single due time: later states are its
        # Retry.
        return any(_agrees(each, row) for each in await flow_runs.read_states(client, run.id))
    if state.name == states.WAITING_NAME:
        return False  # not set by a user: a process of ours overwrote a newer state
    retried = not state.is_final()
    return any(
        _agrees(each, row) or (retried and each.is_final())
        for each in await client.read_flow_run_states(run.id)
        if each.timestamp >= finished - MAX_CLOCK_SKEW
    )


def _end(flow_run_id: UUID, row: RunRow) -> run_log.End:
    message = states.outcome_message(row.state, row.id, row.error, row.reason, row.output)
    return run_log.End(flow_run_id, row.state, message)


def _agrees(state: State[Any], row: RunRow) -> bool:
    expected = states.terminal_state(row.state, "")
    return (state.type, state.name) == (expected.type, expected.name)


async def _force(ledger: Ledger, client: PrefectClient, row: RunRow, run: FlowRun) -> bool:
    async with ledger.read() as session:
        newest = await session.get(RunRow, row.id)
    if newest is None or not newest.unmirrored or newest.finished_at != row.finished_at:
        return False  # another process did it, or the outcome was corrected
    with suppress(ObjectNotFound):  # deleted since then: there is no run that could show it
        await client.set_flow_run_state(run.id, states.of_row(row), force=True)
        log.info(
            "set %s to %s in Prefect, as in the ledger",
            run.name,
            row.status,
            extra={"action": "mirrored"},
        )
        await run_log.write_ends(client, [_end(run.id, newest)])
    await _clear_marks(ledger, [row])
    return True


async def _clear_marks(ledger: Ledger, rows: Sequence[RunRow]) -> None:
    # A row with an outcome that was recorded after the rows were read keeps its mark.
    last = max((row.finished_at for row in rows if row.finished_at), default=None)
    await unmirrored.clear_marks(ledger, [row.id for row in rows], last)
