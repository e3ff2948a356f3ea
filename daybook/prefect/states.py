"""Prefect states of outcomes and of waiting runs.

Each outcome has one terminal state in Prefect; promise 13 has the table. A skipped direct call
first gets another type (`of_direct_call`).
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from contextlib import suppress
from datetime import datetime
from typing import Any, NoReturn
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import Abort, ObjectNotFound
from prefect.states import Cancelling, Scheduled

from daybook.json_text import JsonObject
from daybook.ledger.engine import Ledger
from daybook.ledger.states import TERMINAL, Status
from daybook.ledger.tables import RunRow
from daybook.runs import rows
from daybook.short_text import prefix

log = logging.getLogger(__name__)

_TERMINAL_STATES: dict[Status, tuple[StateType, str]] = {
    Status.SUCCEEDED: (StateType.COMPLETED, "Completed"),
    # Of the types that end a run, Prefect's UI counts CANCELLED neither as failed nor as completed.
    Status.SKIPPED: (StateType.CANCELLED, "Skipped"),
    Status.MISSED: (StateType.FAILED, "Missed"),
    Status.FAILED: (StateType.FAILED, "Failed"),
    Status.TIMED_OUT: (StateType.FAILED, "TimedOut"),
    Status.CANCELLED: (StateType.CANCELLED, "Cancelled"),
    Status.UNKNOWN: (StateType.CRASHED, "Unknown"),
}


WAITING_NAME = "AwaitingConcurrencySlot"
"""Name of the state of a waiting run.

A run with this state name survives pauses and edits of its deployment, and Prefect never marks it
late.
"""

MAX_MESSAGE_LENGTH = 200
"""Maximum number of characters of an answer in the message of a state."""

LATE_NAME = "Late"
"""The name that Prefect's late-run service gives to the state of an overdue scheduled run."""


def waiting_state(until: datetime, why: str) -> State[Any]:
    """Return the Prefect state of a run that waits until ``until`` (UTC)."""
    return Scheduled(name=WAITING_NAME, scheduled_time=until, message=why)


def outcome_message(
    status: Status, run_id: str | None, error: str | None, reason: str, output: str | None = None
) -> str:
    """Return the message that Prefect shows with an outcome; it may be empty.

    The message of a success is the first line of the ``output``, without the mark of a Markdown
    heading. If this line has only punctuation, as in JSON, the message is the whole output. Without
    an output, the message is a sentence that the run succeeded.
    """
    if status is Status.SUCCEEDED:
        text = (output or "").strip()
        first = text.partition("\n")[0]
        shown = first if any(map(str.isalnum, first)) else text
        line = " ".join(shown.lstrip("#").split())
        short = prefix(line, MAX_MESSAGE_LENGTH)
        if short:
            return short if short == line else f"{short}…"
        return f"run {str(run_id)[:8]} succeeded"
    if status is Status.UNKNOWN:
        return reason or error or ""  # the reason describes the unknown part
    return error or reason


def terminal_state(status: Status, message: str, data: JsonObject | None = None) -> State[Any]:
    """Return the terminal Prefect state of a terminal status, which shows ``message`` in the UI.

    Only COMPLETED has the flow's result, ``data``; otherwise Prefect builds the caller's error from
    the message.
    """
    kind, name = _TERMINAL_STATES[status]
    result = data if kind is StateType.COMPLETED else None
    return State(type=kind, name=name, message=message or None, data=result)


def of_row(row: RunRow) -> State[Any]:
    """Return the terminal Prefect state of ``row``, whose outcome is recorded."""
    message = outcome_message(row.state, row.id, row.error, row.reason, row.output)
    return terminal_state(row.state, message)


def of_direct_call(status: Status, message: str, data: JsonObject) -> State[Any]:
    """Return the terminal state of a flow that was called directly, in a script or as a subflow.

    A skipped call is COMPLETED, because Prefect raises `CancelledRun` in the caller of a cancelled
    flow. The mirror writes the usual type once the caller has its answer.
    """
    if status is not Status.SKIPPED:
        return terminal_state(status, message, data)
    name = _TERMINAL_STATES[status][1]
    return State(type=StateType.COMPLETED, name=name, message=message or None, data=data)


def is_skipped(state: State[Any]) -> bool:
    """Return whether Daybook skipped the run; only Daybook uses the name of this state."""
    return (state.type, state.name) == _TERMINAL_STATES[Status.SKIPPED]


def is_being_cancelled(state: State[Any] | None) -> bool:
    """Return whether the run has been cancelled, or is being cancelled, in Prefect."""
    cancelled = {StateType.CANCELLING, StateType.CANCELLED}
    return state is not None and state.type in cancelled and not is_skipped(state)


async def request_cancellation(flow_run_ids: Collection[str], why: str) -> None:
    """Request the cancellation of these flow runs; log an error instead of raising it.

    The run that waits for their end claims again later, and the claiming process repeats the
    request.
    """
    for flow_run_id in flow_run_ids:
        try:
            async with get_client() as client:
                await client.set_flow_run_state(UUID(flow_run_id), Cancelling(message=why))
        except Exception as error:
            log.warning("cannot ask a run to end: %s", error, extra={"action": "ask_to_end_failed"})


async def end_flow_run(flow_run_id: str, state: State[Any]) -> NoReturn:
    """Set the terminal state of this flow run and exit the flow.

    Raise Prefect's `Abort`, which ends the process without an error; to *return* a state of type
    FAILED or CANCELLED would end it with a traceback and exit code 1.
    """
    async with get_client() as client:
        await client.set_flow_run_state(UUID(flow_run_id), state)
    raise Abort(f"{state.name}: {state.message}")


async def suspend_flow_run(
    flow_run_id: str, until: datetime, why: str, ledger: Ledger | None = None
) -> NoReturn:
    """Make this flow run wait in Prefect until ``until`` (UTC), and exit the flow.

    With ``ledger``, an outcome that was recorded meanwhile replaces the waiting state
    (`show_recorded_outcome`). Raise Prefect's `Abort`, which leaves the state as it is.
    """
    async with get_client() as client:
        await client.set_flow_run_state(UUID(flow_run_id), waiting_state(until, why), force=True)
        if ledger is not None:
            await show_recorded_outcome(ledger, client, flow_run_id)
    raise Abort(f"waits until {until.isoformat()}: {why}")


async def show_recorded_outcome(ledger: Ledger, client: PrefectClient, flow_run_id: str) -> None:
    """Set the terminal state of a run whose outcome was recorded while the caller made it wait.

    Prefect has no compare-and-set: of two states set at the same time, it may keep the one that was
    requested first. So a process that makes a run wait reads the run's row again afterwards. If it
    dies before that, Prefect shows a waiting run until its scheduled time; then a worker gets the
    run and sets the terminal state.
    """
    async with ledger.read() as session:
        row = await rows.find(session, flow_run_id, None)
    if row is None or row.state not in TERMINAL:
        return
    with suppress(ObjectNotFound):  # the flow run was deleted in Prefect
        await client.set_flow_run_state(UUID(flow_run_id), of_row(row), force=True)
