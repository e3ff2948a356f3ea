"""How an outcome looks in Prefect (`docs/promise.md` 13), and how a run is set back."""

from __future__ import annotations

import logging
from collections.abc import Collection
from datetime import datetime
from typing import Any, NoReturn
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import Abort
from prefect.states import Cancelling, Scheduled

from daybook.ledger.states import Status

log = logging.getLogger(__name__)

_STATES: dict[Status, tuple[StateType, str]] = {
    Status.SUCCEEDED: (StateType.COMPLETED, "Completed"),
    Status.SKIPPED: (StateType.COMPLETED, "Skipped"),
    Status.MISSED: (StateType.COMPLETED, "Missed"),
    Status.FAILED: (StateType.FAILED, "Failed"),
    Status.TIMED_OUT: (StateType.FAILED, "TimedOut"),
    Status.CANCELLED: (StateType.CANCELLED, "Cancelled"),
    Status.UNKNOWN: (StateType.CRASHED, "Unknown"),
}


WAITING = "AwaitingConcurrencySlot"
"""The name that survives pauses and edits of the deployment and is never marked late."""


def waiting(until: datetime, why: str) -> State[Any]:
    """The Prefect state of a run that waits until ``until`` (UTC)."""
    return Scheduled(name=WAITING, scheduled_time=until, message=why)


def message(status: Status, run_id: str | None, error: str | None, reason: str) -> str:
    """What is said of an outcome where Prefect shows it."""
    if status is Status.SUCCEEDED:
        return f"run {str(run_id)[:8]} succeeded"
    if status is Status.UNKNOWN:
        return reason or error or ""  # the reason says what is not known
    return error or reason


def state_of(status: Status, message: str, data: dict[str, Any] | None = None) -> State[Any]:
    """The terminal Prefect state of a terminal status.

    ``message`` is what the UI shows with it, ``data`` the flow's result. A state that is not
    completed has no data: Prefect makes the caller's error from the message then.
    """
    kind, name = _STATES[status]
    kept = data if kind is StateType.COMPLETED else None
    return State(type=kind, name=name, message=message or None, data=kept)


async def name(flow_run_id: str, wanted: str) -> None:
    """Name the flow run, so that Prefect's lists say whose it is; a failure changes nothing."""
    try:
        async with get_client() as client:
            await client.update_flow_run(UUID(flow_run_id), name=wanted)
    except Exception as error:
        log.warning("not named: %s", error, extra={"action": "name_failed"})


async def ask_to_end(flow_run_ids: Collection[str], why: str) -> None:
    """Ask whoever carries these flow runs to end them; a failure changes nothing.

    The run for which it is asked looks again, and is told to ask again.
    """
    for flow_run_id in flow_run_ids:
        try:
            async with get_client() as client:
                await client.set_flow_run_state(UUID(flow_run_id), Cancelling(message=why))
        except Exception as error:
            log.warning("not asked to end: %s", error, extra={"action": "ask_to_end_failed"})


async def set_back(flow_run_id: str, until: datetime, why: str) -> NoReturn:
    """Make this flow run wait in Prefect until ``until``, and leave it.

    Raises Prefect's `Abort`, which ends the process without touching the state.
    """
    async with get_client() as client:
        await client.set_flow_run_state(UUID(flow_run_id), waiting(until, why), force=True)
    raise Abort(f"waits until {until.isoformat()}: {why}")
