"""External runs: flow runs in Daybook's pool that belong to no job.

External runs have no claim, lease or outcome, and run as in Prefect's own worker. If the process of
a run does not report its end to Prefect, this worker does, and runs the flow's crash or
cancellation hooks in a separate process.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Crashed

from daybook.ledger.states import Status
from daybook.prefect import occurrence, run_log
from daybook.prefect.states import terminal_state
from daybook.worker.dispatcher import Dispatcher, ResolveProcessSpec
from daybook.worker.launcher import Launcher
from daybook.worker.messages import LaunchRequest
from daybook.worker.supervision import StopCause, SupervisedRun, describe_exit

log = logging.getLogger(__name__)

HOOKS_TIMEOUT_SECONDS = 60.0
"""Timeout of a flow's hooks."""
_ACTIVE_STATES = {StateType.PENDING, StateType.RUNNING, StateType.CANCELLING}


async def start(
    dispatcher: Dispatcher,
    client: PrefectClient,
    run: FlowRun,
    configure: ResolveProcessSpec,
    mark: str,
) -> None:
    """Start the run. If it cannot be started, set it to Crashed in Prefect, with the reason.

    A run of a job whose deployment was deleted before the claim looks external too. It has had no
    effect, so set it to Skipped. Do nothing if the run was started or ended elsewhere.

    ``mark`` and this process's pid become the run's `infrastructure_pid`, by which `stale_runs`
    later recognises the worker that started the run.
    """
    own_pid = f"{mark}:{os.getpid()}"
    try:
        spec = await configure(run)
        # Set the pid before the run is pending, so that Prefect has the worker even after a kill.
        await client.update_flow_run(run.id, infrastructure_pid=own_pid)
        await dispatcher.start(run, spec)
    except Exception as error:
        if not await _awaits_start(client, run, own_pid):
            log.info("%s was started or ended elsewhere: %s", run.name, error)
            return
        if occurrence.is_of_job(run) and isinstance(error, ObjectNotFound):
            why = "its deployment was deleted before the run started"
            skipped = terminal_state(Status.SKIPPED, why)
            await client.set_flow_run_state(run.id, skipped, force=True)
            await run_log.write_ends(client, [run_log.End(run.id, Status.SKIPPED, why)])
            return
        log.exception("cannot start %s", run.name)
        crashed: State[Any] = Crashed(message=f"the worker cannot start it: {error}")
        await client.set_flow_run_state(run.id, crashed, force=True)


async def _awaits_start(client: PrefectClient, run: FlowRun, own_pid: str) -> bool:
    """Return whether the run still exists and no other worker has started it.

    A run of a job whose deployment was just deleted looks external here, but another worker may
    have started it.
    """
    try:
        current = await client.read_flow_run(run.id)
    except ObjectNotFound:
        return False
    kind = current.state.type if current.state else StateType.SCHEDULED
    is_own = current.infrastructure_pid == own_pid
    return kind is StateType.SCHEDULED or (kind is StateType.PENDING and is_own)


async def report_end(client: PrefectClient, launcher: Launcher, watched: SupervisedRun) -> None:
    """Report to Prefect an end that the process did not report, and run the flow's hooks."""
    run_id = watched.flow_run.id
    if watched.facts.ended and watched.cause is None:
        return  # Prefect has accepted the end that the process has reported
    try:
        run = await client.read_flow_run(run_id)
    except ObjectNotFound:
        return
    kind = run.state.type if run.state else None
    cancelled = watched.cause is StopCause.CANCEL and kind is not StateType.CANCELLED
    if not cancelled and kind not in _ACTIVE_STATES:
        return  # its own process has reported the end, or the run waits
    if cancelled:
        state: State[Any] = Cancelled(message="its worker ended it")
    else:
        state = Crashed(message=describe_exit(watched))
    await client.set_flow_run_state(run_id, state, force=True)
    ended_run = run.model_copy(update={"state": state}).model_dump(mode="json")
    try:
        process = await launcher.start(
            LaunchRequest(ended_run, mode="hooks", hook="cancelled" if cancelled else "crashed")
        )
        try:
            async with asyncio.timeout(HOOKS_TIMEOUT_SECONDS):
                await process.ended()
        except TimeoutError:
            log.warning("ended the hooks of %s after %g s", run.name, HOOKS_TIMEOUT_SECONDS)
            await process.end(0.0)
        process.output.unlink()
    except (OSError, httpx.HTTPError) as error:
        log.warning(
            "cannot run the hooks of %s: %s", run.name, error, extra={"action": "hooks_failed"}
        )
