"""Functions of the tools for jobs and sessions.

Each function takes the parsed arguments, calls operations of `daybook.api` for
`owners.current_actor()`, and returns the answer as text.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import TYPE_CHECKING

from daybook import api, markers
from daybook.errors import InvalidInput
from daybook.jobs.model import FIELDS
from daybook.schedules import durations
from daybook.toolbox import text
from daybook.toolbox.arguments import Arguments
from daybook.toolbox.text import hint
from daybook.validation import unknown_field

if TYPE_CHECKING:
    from daybook.delivery.views import RunDetails
    from daybook.jobs.views import ListedJob

log = logging.getLogger(__name__)

WAIT_TIMEOUT_SECONDS = 15.0
"""Maximum time to wait for the end of a run. A client may cancel a call after 30 seconds."""

CLEAR_VALUE = "none"
"""The value that clears a field of `_CLEARABLE` in `cron_update`.

An empty string does not change the field.
"""

OPTIONS = {
    name: str(markers.of(FIELDS[name]).for_agents) for name in markers.marked(FIELDS, "for_agents")
}
"""The fields that the argument `options` may have, each with a description of its values."""

MAX_TIMEOUT = timedelta(days=1)
"""Maximum timeout that a model may set."""

_CLEARABLE = ("channel", "model", "body")


def _use_current_server() -> None:
    # This import loads the settings, and a server starts without them.
    from daybook.prefect import address

    address.use_current_server()


async def add(given: Arguments) -> str:
    """Add a job. Its fields determine its kind."""
    _use_current_server()
    made = await api.jobs.add(_with_options(given))
    is_repeated = api.jobs.REPEATED_NOTE in made.notes
    return text.job(made, "" if is_repeated else "Added. ") + await _worker_note()


def _with_options(given: Arguments) -> Arguments:
    """Replace the argument `options` by the fields that it contains. Return the arguments.

    Raise `InvalidInput` for a timeout that is too long, and for a field that a model may not set,
    such as a command that runs before the job.
    """
    options = given.pop("options", {})
    for name in options:
        if name not in OPTIONS:
            raise unknown_field(name, OPTIONS)
    timeout = options.get("timeout")
    if timeout and durations.parse(str(timeout), "timeout") > MAX_TIMEOUT:
        raise InvalidInput("timeout", f"{timeout} is too long", "write at most 1d")
    return {**given, **options}


async def list_jobs(given: Arguments) -> str:
    status = given.get("status", "all")
    selected = [each for each in await api.jobs.list_jobs() if _matches(each, status)]
    return text.jobs(selected, status)


def _matches(found: ListedJob, status: str) -> bool:
    match status:
        case "enabled":
            return found.enabled
        case "disabled":
            return not found.enabled
        case "failed":
            return found.last_status in ("failed", "timed_out", "unknown")
        case _:
            return True


async def get(given: Arguments) -> str:
    return text.full_job(await api.jobs.show(given["job_id"]))


async def update(given: Arguments) -> str:
    ref = given.pop("job_id")
    if not given:
        hint = "pass a field to change, such as schedule"
        raise InvalidInput("job_id", "is the only argument, so nothing would change", hint)
    for name in _CLEARABLE:
        if given.get(name) == CLEAR_VALUE:
            given[name] = ""

    _use_current_server()
    return text.job(await api.jobs.edit_job(ref, _with_options(given)), "Changed. ")


async def remove(given: Arguments) -> str:
    _use_current_server()
    gone = await api.jobs.remove(given["job_id"])
    return f'Removed. Job "{gone.name}", id {gone.id}, will not run again; its runs are kept.'


async def enable(given: Arguments) -> str:
    _use_current_server()
    try:
        return text.job(await api.jobs.resume(given["job_id"]), "Enabled. ")
    except InvalidInput as error:
        match error.field:
            case "at":
                legal = hint("cron_update", "set a new schedule with {}")
                raise InvalidInput("schedule", error.problem, legal) from None
            case "max_runs":
                raise InvalidInput(
                    error.field, error.problem, "ask the operator for more runs"
                ) from None
        raise


async def disable(given: Arguments) -> str:
    _use_current_server()
    return text.job(await api.jobs.pause(given["job_id"], given.get("note", "")), "Disabled. ")


async def trigger(given: Arguments) -> str:
    """Run the job now, and wait a short time for the outcome. A run that takes longer continues."""
    from daybook.ledger.tables import new_id

    _use_current_server()
    ref = given["job_id"]
    job = await api.jobs.show(ref)
    observer, key, timezone = _WaitReason(), new_id(), job.schedule.timezone
    try:
        async with asyncio.timeout(WAIT_TIMEOUT_SECONDS):
            finished = await api.runs.run(ref, wait=True, request_id=key, talk=observer)
    except TimeoutError:
        # This call has the same request id, so it returns the run that was requested above and
        # starts no other.
        unfinished = await api.runs.run(ref, request_id=key)
        why = f"\nwhy: {observer.why}" if observer.why else ""
        later = f"{{}} with job_id {job.id[:8]} shows the outcome later."
        shown = text.run(unfinished, timezone, "Requested, and not finished yet: ")
        return f"{shown}{why}\n{hint('cron_runs', later)}".rstrip()
    return text.run(finished, timezone, "Ran: ")


async def cancel(given: Arguments) -> str:
    """Cancel a run.

    If the run is still live when the function returns, the answer contains this fact.
    """
    _use_current_server()
    ended = await api.runs.cancel(given["job_id"], WAIT_TIMEOUT_SECONDS)
    begin = (
        "Cancellation requested, and still running: " if ended.finished_at is None else "Ended: "
    )
    return text.run(ended, "", begin)


class _WaitReason:
    """Observer that records why a run does not start."""

    why = ""

    def asked(self) -> None:
        pass

    def held_up(self, why: str) -> None:
        self.why = why


async def history(given: Arguments) -> str:
    job = await api.jobs.show(given["job_id"])
    listed = await api.runs.history(job.id, given["limit"])
    return text.runs(job.name, job.schedule.timezone, listed)


async def next_due(given: Arguments) -> str:
    ref, schedule = given.get("job_id"), given.get("schedule")
    if (ref is None) == (schedule is None):
        problem = "is missing" if ref is None else "cannot be combined with job_id"
        raise InvalidInput("schedule", problem, "pass either job_id or schedule")
    if ref is not None:
        if "timezone" in given:
            raise InvalidInput(
                "timezone",
                "does not apply to a job, which has its own",
                "leave it out, or pass schedule instead of job_id",
            )
        return text.due_times(await api.due.of_job(ref, count=given["count"]))
    return text.due_times(
        api.due.of_schedule(
            schedule=str(schedule), timezone=given.get("timezone"), count=given["count"]
        )
    )


async def _worker_note() -> str:
    """Return a note if no worker is online, otherwise "".

    Raise no error, because the job is already stored.
    """
    from daybook.diagnosis import status

    try:
        if await status.worker_online():
            return ""
    except Exception as error:
        log.warning("cannot determine whether a worker is online: %r", error)
        return ""
    return "\nnote: no worker is online, so nothing runs until the operator starts `daybook up`"


# --- sessions

_SENDING: set[asyncio.Task[RunDetails]] = set()
"""Unfinished tasks of `send_to_session`.

This reference is needed, because the event loop has only weak references to tasks.
"""


async def list_sessions(given: Arguments) -> str:
    return text.sessions(await api.sessions.list_sessions(given["limit"]))


async def show_session(given: Arguments) -> str:
    return text.session(await api.sessions.show(given["session"], given["limit"]))


async def send_to_session(given: Arguments) -> str:
    """Continue the session, and wait a short time for the answer.

    A run that takes longer continues.
    """
    _use_current_server()
    sending = asyncio.create_task(api.sessions.send(given["session"], given["prompt"]))
    _SENDING.add(sending)
    sending.add_done_callback(_SENDING.discard)
    done, _ = await asyncio.wait({sending}, timeout=WAIT_TIMEOUT_SECONDS)
    if done:
        return text.run(sending.result(), "", "Answered: ")
    sending.add_done_callback(_log_failure)
    return "Sent, and not answered yet. session_get shows the answer later."


def _log_failure(sending: asyncio.Task[RunDetails]) -> None:
    if not sending.cancelled() and (error := sending.exception()) is not None:
        log.warning("a message to a session failed: %s", error, extra={"action": "send_failed"})
