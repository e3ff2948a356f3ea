"""What each tool does: verbs of `daybook.api`, for whoever `owners.current` says.

Each takes the arguments that were given, already read, and gives the answer.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from daybook.errors import InvalidInput
from daybook.toolbox import text as words
from daybook.toolbox.hints import hint

log = logging.getLogger(__name__)

WAITS = 15.0
"""Seconds for which a run is waited for; a client may give up on a call after thirty."""

NONE = "none"
"""What takes a field away in `cron_update`, where an empty text means that it was not given."""

_TAKEN_AWAY = ("channel", "model", "body")


async def add(given: dict[str, Any]) -> str:
    """A job, of any kind: the fields say which."""
    from daybook.api import jobs
    from daybook.prefect import address

    address.prefect()
    made = await jobs.add(given)
    return words.job(made, "Added. ") + await _nobody_works()


async def list_jobs(given: dict[str, Any]) -> str:
    from daybook.api import jobs

    status = given.get("status", "all")
    found = [each for each in await jobs.list_jobs() if _is(each, status)]
    return words.jobs(found, status)


def _is(found: dict[str, Any], status: str) -> bool:
    match status:
        case "enabled":
            return bool(found["enabled"])
        case "disabled":
            return not found["enabled"]
        case "failed":
            return found["last_status"] in ("failed", "timed_out", "unknown")
        case _:
            return True


async def get(given: dict[str, Any]) -> str:
    from daybook.api import jobs

    return words.whole_job(await jobs.show(given["job_id"]))


async def update(given: dict[str, Any]) -> str:
    ref = given.pop("job_id")
    if not given:
        legal = "give what is to change, such as schedule"
        raise InvalidInput("job_id", "is given alone, so nothing would change", legal)
    for name in _TAKEN_AWAY:
        if given.get(name) == NONE:
            given[name] = ""
    from daybook.api import jobs
    from daybook.prefect import address

    address.prefect()
    return words.job(await jobs.edit_job(ref, given), "Changed. ")


async def remove(given: dict[str, Any]) -> str:
    from daybook.api import jobs
    from daybook.prefect import address

    address.prefect()
    gone = await jobs.remove(given["job_id"])
    return f'Removed. Job "{gone["name"]}", id {gone["id"]}, is not due any more; its runs stay.'


async def enable(given: dict[str, Any]) -> str:
    from daybook.api import jobs
    from daybook.prefect import address

    address.prefect()
    try:
        return words.job(await jobs.resume(given["job_id"]), "Enabled. ")
    except InvalidInput as error:
        match error.field:
            case "at":
                legal = hint("cron_update", "give a new schedule with {}")
                raise InvalidInput("schedule", error.problem, legal) from None
            case "max_runs":
                raise InvalidInput(
                    error.field, error.problem, "the operator may give it more"
                ) from None
        raise


async def disable(given: dict[str, Any]) -> str:
    from daybook.api import jobs
    from daybook.prefect import address

    address.prefect()
    return words.job(await jobs.pause(given["job_id"], given.get("note", "")), "Disabled. ")


async def trigger(given: dict[str, Any]) -> str:
    """Run it now. A run that takes longer goes on; the same request again finds it."""
    from daybook.api import jobs, runs
    from daybook.ledger.tables import new_id
    from daybook.prefect import address

    address.prefect()
    ref = given["job_id"]
    job = await jobs.show(ref)
    held, key, timezone = _Held(), new_id(), job["schedule"]["timezone"]
    try:
        async with asyncio.timeout(WAITS):
            done = await runs.run(ref, wait=True, request_id=key, talk=held)
    except TimeoutError:
        live = await runs.run(ref, request_id=key)
        why = f"\nwhy: {held.why}" if held.why else ""
        later = f"{{}} with job_id {job['id'][:8]} tells later what became of it."
        told = words.run(live, timezone, "Asked for, and not ended yet: ")
        return f"{told}{why}\n{hint('cron_runs', later)}".rstrip()
    return words.run(done, timezone, "Ran: ")


async def cancel(given: dict[str, Any]) -> str:
    """End what runs, or waits; it may be going yet when this answers, and says so."""
    from daybook.api import runs
    from daybook.prefect import address

    address.prefect()
    ended = await runs.cancel(given["job_id"], WAITS)
    begin = "Asked to end, and going yet: " if ended["finished_at"] is None else "Ended: "
    return words.run(ended, "", begin)


class _Held:
    """Hears why a run does not begin."""

    why = ""

    def asked(self) -> None:
        pass

    def held_up(self, why: str) -> None:
        self.why = why


async def history(given: dict[str, Any]) -> str:
    from daybook.api import jobs, runs

    job = await jobs.show(given["job_id"])
    found = await runs.history(job["id"], given["limit"])
    return words.runs(job["name"], job["schedule"]["timezone"], found)


async def coming(given: dict[str, Any]) -> str:
    from daybook.api import due

    ref, text = given.get("job_id"), given.get("schedule")
    if (ref is None) == (text is None):
        problem = "is missing" if ref is None else "is given beside job_id"
        raise InvalidInput("schedule", problem, "give either job_id or schedule")
    if ref is not None:
        if "timezone" in given:
            raise InvalidInput("timezone", "a job has its own", "leave it out, or give a schedule")
        return words.times(await due.of_job(ref, count=given["count"]))
    return words.times(due.of_text(str(text), given.get("timezone"), given["count"]))


async def _nobody_works() -> str:
    """What to know of a job that is stored already: nothing may go wrong here any more."""
    from daybook.operations import status

    try:
        if await status.worker_online():
            return ""
    except Exception as error:
        log.warning("whether a worker is online is not known: %r", error)
        return ""
    return "\nnote: no worker is online, so nothing runs until the operator starts `daybook up`"
