"""Leftovers: runs that Prefect holds for started and that nobody runs (`docs/promise.md` 13).

Prefect reaps none: a run left pending by a killed worker is offered to no other, one left running
stays so for good.

::

    of this ledger, no live row   pending, running    scheduled for now: the claim decides
                                  cancelling          cancelled
    not Daybook's, its worker     running             crashed
    of our type is gone           pending             scheduled for now
                                  cancelling          cancelled

Runs of ours with a live row are the business of `ensure`, `ends` and the lease; those of another
ledger are its own. A flow that is not ours says by its `infrastructure_pid` whose it is:
`<worker's name>:<incarnation>:<pid>`.
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

from daybook.jobs.model import TAG_OF_OURS
from daybook.ledger.engine import Ledger
from daybook.ledger.states import LIVE
from daybook.ledger.tables import RunRow
from daybook.prefect import ended_runs, flow_runs, states
from daybook.prefect.projection import ledger_tag
from daybook.processes import locations
from daybook.timing import TIMING

log = logging.getLogger(__name__)


@dataclass
class LeftOver:
    """How many runs were scheduled again, crashed, and cancelled."""

    scheduled: int = 0
    crashed: int = 0
    cancelled: int = 0

    def __bool__(self) -> bool:
        return bool(self.scheduled or self.crashed or self.cancelled)


async def leftovers(
    ledger: Ledger,
    client: PrefectClient,
    pool: str,
    worker_name: str,
    *,
    supervised: Callable[[], Collection[str]] = tuple,
) -> LeftOver:
    """One pass over the started runs of the pool, by the worker of this name; first, over the
    folders that killed processes left on this machine.

    ``supervised`` says of which flow runs it has processes, or is just starting them: of its others
    Prefect was not told how they ended.
    """
    done = LeftOver()
    if folders := await asyncio.to_thread(locations.sweep):
        log.info("%d folders had nobody: removed", folders, extra={"action": "swept"})
    mine = set(supervised())  # some of them end while Prefect is asked
    runs = await flow_runs.at_work(client, pool)
    mine |= set(supervised())  # and others were started
    runs = [run for run in runs if str(run.id) not in mine]
    if not runs:
        return done
    ours = {str(run.id): run for run in runs if ledger_tag(ledger.id) in run.tags}
    known = await ended_runs.known_rows(ledger, ours)
    for flow_run_id, run in ours.items():
        if _nobodys(known.get(flow_run_id), run, ledger.now()):
            await _ours(ledger, client, run, done)
    foreign = [run for run in runs if not any(tag.startswith(TAG_OF_OURS) for tag in run.tags)]
    gone = await _gone(client, pool, worker_name, foreign)
    for run in gone:
        await _foreign(client, run, done, ledger.now())
    return done


def _nobodys(row: RunRow | None, run: FlowRun, now: datetime) -> bool:
    if row is not None and (row.state in LIVE or row.unmirrored):
        return False
    state = run.state
    if state is None or run.deployment_id is None:
        return False
    since = max(state.timestamp, state.state_details.scheduled_time or state.timestamp)
    return since < now - (
        TIMING.entry_limit if state.type is StateType.RUNNING else TIMING.start_limit
    )


async def _ours(ledger: Ledger, client: PrefectClient, run: FlowRun, done: LeftOver) -> None:
    if run.state_type is StateType.CANCELLING:
        await ended_runs.cancelled(ledger, client, run)
        done.cancelled += 1
        return
    await flow_runs.forget_process(client, run)
    again = states.waiting(ledger.now(), "nobody was running it")
    if await _change(client, run, again):
        done.scheduled += 1


async def _gone(
    client: PrefectClient, pool: str, worker_name: str, runs: list[FlowRun]
) -> list[FlowRun]:
    """Those whose worker does not live any more."""
    by_worker: list[tuple[str, str, FlowRun]] = []
    for run in runs:
        name, _, rest = (run.infrastructure_pid or "").rpartition(":")[0].rpartition(":")
        if name and rest:
            by_worker.append((name, rest, run))
    found = [run for name, _, run in by_worker if name == worker_name]
    others = {name for name, _, _ in by_worker} - {worker_name}
    if others:
        workers = await client.read_workers_for_work_pool(pool, limit=flow_runs.PAGE)
        offline = {each.name for each in workers if each.status is WorkerStatus.OFFLINE}
        found += [run for name, _, run in by_worker if name in offline & others]
    return found


async def _foreign(client: PrefectClient, run: FlowRun, done: LeftOver, now: datetime) -> None:
    match run.state_type:
        case StateType.RUNNING:
            crashed: State[Any] = Crashed(message="the worker that ran it is gone")
            done.crashed += await _change(client, run, crashed)
        case StateType.PENDING:
            await flow_runs.forget_process(client, run)
            done.scheduled += await _change(client, run, Scheduled(scheduled_time=now))
        case _:
            gone: State[Any] = Cancelled(message="the worker that ran it is gone")
            done.cancelled += await _change(client, run, gone)


async def _change(client: PrefectClient, run: FlowRun, state: State[Any]) -> bool:
    change = await flow_runs.change(client, run, state)
    log.info("%s had nobody: %s", run.name, state.name, extra={"action": "left_over"})
    return change.accepted
