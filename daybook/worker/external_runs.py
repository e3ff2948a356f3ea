"""Flow runs of our pool that are not of a job: they have no claim, no lease and no outcome of ours.

They run as Prefect would have them run. What a worker knows of their end it tells Prefect, whose
crash and cancellation hooks are called in a process of their own.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Crashed

from daybook.jobs.model import TAG_OF_OURS
from daybook.ledger.states import Status
from daybook.prefect.states import state_of
from daybook.worker.launch import Launcher
from daybook.worker.messages import Task
from daybook.worker.supervision import Cause, Watched, words_of_the_end

if TYPE_CHECKING:
    from daybook.worker.dispatcher import Taker

log = logging.getLogger(__name__)

HOOKS = 60.0
"""Seconds that a flow's hooks may take."""
_AT_WORK = {StateType.PENDING, StateType.RUNNING, StateType.CANCELLING}


@dataclass(frozen=True)
class How:
    """What the pool and the deployment want: further variables, a folder, another command."""

    environment: dict[str, str]
    folder: str
    command: str


Configure = Callable[[FlowRun], Awaitable[How]]


async def start(
    taker: Taker, client: PrefectClient, run: FlowRun, configure: Configure, mark: str
) -> None:
    """Start the run; one that cannot be started crashes, with the reason.

    A run of a job whose deployment was deleted before anybody claimed it looks foreign as well: of
    it nothing was lost, and it is skipped.

    ``mark`` and this process's pid become its `infrastructure_pid`, by which a later worker knows
    whose the run was.
    """
    mine = f"{mark}:{os.getpid()}"
    try:
        how = await configure(run)
        # Before it is pending: a kill afterwards leaves no run that nobody recognises.
        await client.update_flow_run(run.id, infrastructure_pid=mine)
        await taker.start(run, how)
    except Exception as error:
        if not await _waits_for_its_start(client, run, mine):
            log.info("%s was started or ended elsewhere: %s", run.name, error)
            return
        ours = any(tag.startswith(TAG_OF_OURS) for tag in run.tags)
        if ours and isinstance(error, ObjectNotFound):
            skipped = state_of(Status.SKIPPED, "its deployment was deleted before it began")
            await client.set_flow_run_state(run.id, skipped, force=True)
            return
        log.exception("%s cannot be started", run.name)
        crashed: State[Any] = Crashed(message=f"could not be started: {error}")
        await client.set_flow_run_state(run.id, crashed, force=True)


async def _waits_for_its_start(client: PrefectClient, run: FlowRun, mine: str) -> bool:
    """Whether it is still there, and nobody else has begun it.

    Of a job whose deployment was just deleted another worker may have the run, which looks foreign
    here.
    """
    try:
        found = await client.read_flow_run(run.id)
    except ObjectNotFound:
        return False
    kind = found.state.type if found.state else StateType.SCHEDULED
    is_mine = found.infrastructure_pid == mine
    return kind is StateType.SCHEDULED or (kind is StateType.PENDING and is_mine)


async def ended(client: PrefectClient, launcher: Launcher, watched: Watched) -> None:
    """Tell Prefect what the process did not, and have its hooks called."""
    run_id = watched.flow_run.id
    try:
        run = await client.read_flow_run(run_id)
    except ObjectNotFound:
        return
    kind = run.state.type if run.state else None
    cancelled = watched.cause is Cause.CANCEL and kind is not StateType.CANCELLED
    if not cancelled and kind not in _AT_WORK:
        return  # its own process has told, or it waits
    if cancelled:
        state: State[Any] = Cancelled(message="ended by its worker")
    else:
        state = Crashed(message=words_of_the_end(watched))
    await client.set_flow_run_state(run_id, state, force=True)
    told = run.model_copy(update={"state": state}).model_dump(mode="json")
    try:
        calling = await launcher.start(
            Task(told, mode="hooks", hook="cancelled" if cancelled else "crashed")
        )
        try:
            async with asyncio.timeout(HOOKS):
                await calling.ended()
        except TimeoutError:
            log.warning("hooks of %s are ended after %g s", run.name, HOOKS)
            await calling.end(0.0)
        calling.output.unlink()
    except (OSError, httpx.HTTPError) as error:
        log.warning("hooks of %s: %s", run.name, error, extra={"action": "hooks_failed"})
