"""Stale Prefect runs, which Prefect regards as started although they have no process.

Prefect does not clean up stale runs: no other worker gets a run that a killed worker left pending,
and a run that it left running stays running.

::

    of this ledger, no live row   pending, running    scheduled for now: the claim decides
                                  cancelling          cancelled
    not Daybook's, its worker     running             crashed
    of our type is gone           pending             scheduled for now
                                  cancelling          cancelled

`scheduled_runs`, `ended_runs` and the lease handle our runs with a live row, and `state_mirror` the
runs with an `unmirrored` row. A run of ours is stale only after `Timing.start_limit`, or
`Timing.entry_limit` if it is running. Direct calls stay as they are, because no worker can run
them. The workers of other ledgers handle the runs of those ledgers. The `infrastructure_pid` of a
flow run that is not ours identifies its worker: `<worker's name>:<incarnation>:<pid>`. The runs of
another incarnation of a worker are its own only if surely no other living process has its name.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType, WorkerStatus
from prefect.states import Cancelled, Crashed, Scheduled

from daybook.ledger.engine import Ledger
from daybook.ledger.states import LIVE
from daybook.ledger.tables import RunRow
from daybook.prefect import ended_runs, flow_runs, occurrence, states
from daybook.prefect.deployments import PAGE_SIZE
from daybook.prefect.projection import ledger_tag
from daybook.processes import locations
from daybook.runs import workers as fleet
from daybook.timing import TIMING

log = logging.getLogger(__name__)


@dataclass
class StaleRunResult:
    """Numbers of runs that were rescheduled, set to crashed, and cancelled."""

    scheduled: int = 0
    crashed: int = 0
    cancelled: int = 0

    def __bool__(self) -> bool:
        return bool(self.scheduled or self.crashed or self.cancelled)


async def handle_stale_runs(
    ledger: Ledger,
    client: PrefectClient,
    pool: str,
    mark: str,
    *,
    supervised: Callable[[], Collection[str]] = tuple,
) -> StaleRunResult:
    """Handle the stale runs of the pool, as the worker with ``mark``: `<name>:<incarnation>`.

    First remove the folders that killed processes left on this machine. ``supervised`` returns the
    flow runs for which the worker has processes or is starting them. The worker's other runs have
    no process, although Prefect regards them as started.
    """
    counts = StaleRunResult()
    if folders := await asyncio.to_thread(locations.remove_abandoned):
        log.info("abandoned folders removed: %d", folders, extra={"action": "swept"})
    supervised_ids = set(supervised())  # some of the supervised runs end during the request
    runs = await flow_runs.read_started(client, pool)
    supervised_ids |= set(supervised())  # others start during the request
    runs = [run for run in runs if str(run.id) not in supervised_ids]
    if not runs:
        return counts
    ours = {str(run.id): run for run in runs if ledger_tag(ledger.id) in run.tags}
    rows = await ended_runs.rows_of_flow_runs(ledger, ours)
    for flow_run_id, run in ours.items():
        if _is_stale(rows.get(flow_run_id), run, ledger.now()):
            await _handle_own(ledger, client, run, counts)
    external = [run for run in runs if not occurrence.is_of_job(run)]
    orphaned = await _with_dead_worker(ledger, client, pool, mark, external)
    for run in orphaned:
        await _handle_external(client, run, counts, ledger.now())
    return counts


def _is_stale(row: RunRow | None, run: FlowRun, now: datetime) -> bool:
    if row is not None and (row.state in LIVE or row.unmirrored):
        return False
    state = run.state
    if state is None or run.deployment_id is None:
        return False
    since = max(state.timestamp, state.state_details.scheduled_time or state.timestamp)
    return since < now - (
        TIMING.entry_limit if state.type is StateType.RUNNING else TIMING.start_limit
    )


async def _handle_own(
    ledger: Ledger, client: PrefectClient, run: FlowRun, done: StaleRunResult
) -> None:
    if run.state_type is StateType.CANCELLING:
        await ended_runs.finish_cancellation(ledger, client, run)
        done.cancelled += 1
        return
    await flow_runs.clear_process_id(client, run)
    waiting = states.waiting_state(ledger.now(), "no process was running it")
    if await _set_state(client, run, waiting):
        done.scheduled += 1


async def _with_dead_worker(
    ledger: Ledger, client: PrefectClient, pool: str, mark: str, runs: list[FlowRun]
) -> list[FlowRun]:
    """Return the runs of earlier processes of this worker, and the runs of offline workers."""
    own_name, _, own_incarnation = mark.rpartition(":")
    by_worker: list[tuple[str, str, FlowRun]] = []
    for run in runs:
        name, _, incarnation = (run.infrastructure_pid or "").rpartition(":")[0].rpartition(":")
        if name and incarnation:
            by_worker.append((name, incarnation, run))
    namesakes = [(each, run) for name, each, run in by_worker if name == own_name]
    orphaned = [run for each, run in namesakes if each == own_incarnation]
    earlier = [run for each, run in namesakes if each != own_incarnation]
    if earlier:
        now = ledger.now()
        async with ledger.read() as session:
            alone = await fleet.has_name_alone(session, fleet.plain_name(own_name), now)
        # A process that started a run just now may not have recorded itself yet.
        since = now - TIMING.run_lease
        orphaned += [run for run in earlier if alone and run.state and run.state.timestamp < since]
    others = {name for name, _, _ in by_worker} - {own_name}
    if others:
        workers = await client.read_workers_for_work_pool(pool, limit=PAGE_SIZE)
        offline = {each.name for each in workers if each.status is WorkerStatus.OFFLINE}
        orphaned += [run for name, _, run in by_worker if name in offline & others]
    return orphaned


async def _handle_external(
    client: PrefectClient, run: FlowRun, done: StaleRunResult, now: datetime
) -> None:
    match run.state_type:
        case StateType.RUNNING:
            crashed: State[Any] = Crashed(message="the worker that ran it is no longer running")
            done.crashed += await _set_state(client, run, crashed)
        case StateType.PENDING:
            await flow_runs.clear_process_id(client, run)
            done.scheduled += await _set_state(client, run, Scheduled(scheduled_time=now))
        case _:
            cancelled: State[Any] = Cancelled(message="the worker that ran it is no longer running")
            done.cancelled += await _set_state(client, run, cancelled)


async def _set_state(client: PrefectClient, run: FlowRun, state: State[Any]) -> bool:
    """Set ``state`` on a run without a process; return whether Prefect accepted it."""
    change = await flow_runs.change_state(client, run, state)
    outcome = "set to" if change.accepted else "Prefect refused the state"
    log.info(
        "%s has no process: %s %s", run.name, outcome, state.name, extra={"action": "left_over"}
    )
    return change.accepted
