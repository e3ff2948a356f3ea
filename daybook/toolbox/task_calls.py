"""What each tool of tasks does: verbs of `daybook.api`, for whoever `owners.current` says."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import anyio

from daybook import owners
from daybook.errors import NothingClaimable
from daybook.toolbox import task_text as words

LONGEST_WAIT = 25
"""Seconds; a client may give up on a call after thirty."""

MOST_WAITING = 10
"""So many calls of one owner wait in one process: each has a connection, and looks each second."""

YES = "yes"


_waiting: Counter[str] = Counter()


def waiting(owner: str) -> int:
    """How many calls of this owner wait in this process."""
    return _waiting[owner]


async def claim(given: dict[str, Any]) -> str:
    """The first run that fits the session. That there is none is an answer, and not a refusal.

    It comes at once where the session itself has to do something first, or too many calls of its
    owner wait.
    """
    from daybook.api import task_waits, tasks

    loop, owner = asyncio.get_running_loop(), owners.current().owner
    ends = loop.time() + given["wait_seconds"]
    while True:
        try:
            return words.claimed(await _claimed(given["session"], given.get("lease")))
        except NothingClaimable as error:
            why = error.why
        first = words.first_of_all(await tasks.find_session(given["session"]))
        left = ends - loop.time()
        if first or left <= 0:
            return words.nothing(why, first)
        if _waiting[owner] >= MOST_WAITING:
            return words.nothing(why, words.TOO_MANY_WAIT)
        _waiting[owner] += 1
        try:
            if not await task_waits.until_claimable(given["session"], left):
                return words.nothing(why)
        finally:
            _waiting[owner] -= 1


async def _claimed(session: str, lease: str | None) -> dict[str, Any]:
    """A claim is not ended in its middle; one that nobody is told of any more is given back."""
    from daybook.api import tasks

    claim = asyncio.ensure_future(tasks.next_run(session, lease))
    try:
        return await asyncio.shield(claim)
    except asyncio.CancelledError:
        with anyio.CancelScope(shield=True):
            await asyncio.wait({claim})
            if not claim.cancelled() and claim.exception() is None:
                got = claim.result()
                await tasks.release(got["run_id"], got["token"], "its client has gone")
        raise


async def heartbeat(given: dict[str, Any]) -> str:
    from daybook.api import tasks

    held = await tasks.heartbeat(given["run_id"], given["token"], given.get("lease"))
    return words.held(held)


async def complete(given: dict[str, Any]) -> str:
    from daybook.api import tasks

    said = given.get("output", "")
    return words.ended(await tasks.complete(given["run_id"], given["token"], said))


async def fail(given: dict[str, Any]) -> str:
    from daybook.api import tasks

    said = given["error"]
    return words.ended(await tasks.fail(given["run_id"], given["token"], said))


async def release(given: dict[str, Any]) -> str:
    from daybook.api import tasks

    said = given.get("reason", "")
    return words.ended(await tasks.release(given["run_id"], given["token"], said))


async def register(given: dict[str, Any]) -> str:
    """A session, and what it finds at once."""
    from daybook.api import task_waits, tasks

    listed = [each.strip() for each in given.pop("capabilities", "").split(",")]
    made = await tasks.register(**given, capabilities=[each for each in listed if each])
    return words.registered(made, await task_waits.waits(made["name"]))


async def report(given: dict[str, Any]) -> str:
    from daybook.api import task_waits, tasks

    name, prompting = given["session"], given.get("prompting") == YES
    said = await tasks.report(name, state=given["state"], prompting=prompting)
    return words.session(said, "Reported. ", await task_waits.waits(name))
