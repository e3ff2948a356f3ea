"""Calls of the task tools: each calls operations of `daybook.api` for `owners.current_actor()`."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import anyio

from daybook import owners
from daybook.errors import NothingClaimable
from daybook.toolbox import task_text as words

if TYPE_CHECKING:
    from daybook.tasks.views import ClaimedTaskRun

MAX_WAIT_SECONDS = 25
"""Maximum `wait_seconds`; a client may cancel a call after 30 seconds."""

MAX_WAITING_CALLS = 10
"""Maximum waiting calls of one owner per process: each has a connection and polls each second."""

YES = "yes"


_waiting: Counter[str] = Counter()


def waiting_calls(owner: str) -> int:
    """Return how many calls of this owner wait in this process."""
    return _waiting[owner]


async def claim(given: dict[str, Any]) -> str:
    """Claim the first run that fits the session. Returning nothing is a normal result, not an
    error.

    Return without waiting if the session has to do something first, or if too many calls of its
    owner wait already.
    """
    from daybook.api import tasks

    loop, owner = asyncio.get_running_loop(), owners.current_actor().owner
    deadline = loop.time() + given["wait_seconds"]
    while True:
        try:
            return words.claimed(await _claimed(given["session"], given.get("lease")))
        except NothingClaimable as error:
            why = error.why
        required = words.required_first(await tasks.find_session(given["session"]))
        left = deadline - loop.time()
        if required or left <= 0:
            return words.nothing_claimable(why, required)
        if _waiting[owner] >= MAX_WAITING_CALLS:
            return words.nothing_claimable(why, words.TOO_MANY_WAITING_HINT)
        _waiting[owner] += 1
        try:
            if not await tasks.wait_until_claimable(given["session"], left):
                return words.nothing_claimable(why)
        finally:
            _waiting[owner] -= 1


async def _claimed(session: str, lease: str | None) -> ClaimedTaskRun:
    """Claim a run; if cancelled, complete the claim and then release the run."""
    from daybook.api import tasks

    claim = asyncio.ensure_future(tasks.next_run(session, lease))
    try:
        return await asyncio.shield(claim)
    except asyncio.CancelledError:
        with anyio.CancelScope(shield=True):
            await asyncio.wait({claim})
            if not claim.cancelled() and claim.exception() is None:
                claimed = claim.result()
                await tasks.release(claimed.run_id, claimed.token, "the client disconnected")
        raise


async def heartbeat(given: dict[str, Any]) -> str:
    from daybook.api import tasks

    renewed = await tasks.heartbeat(given["run_id"], given["token"], given.get("lease"))
    return words.renewed(renewed)


async def complete(given: dict[str, Any]) -> str:
    from daybook.api import tasks

    output = given.get("output", "")
    return words.ended(await tasks.complete(given["run_id"], given["token"], output))


async def fail(given: dict[str, Any]) -> str:
    from daybook.api import tasks

    error = given["error"]
    return words.ended(await tasks.fail(given["run_id"], given["token"], error))


async def release(given: dict[str, Any]) -> str:
    from daybook.api import tasks

    reason = given.get("reason", "")
    return words.ended(await tasks.release(given["run_id"], given["token"], reason))


async def register(given: dict[str, Any]) -> str:
    """Register a session; the answer says whether it can claim a run now."""
    from daybook.api import tasks

    capabilities = [each.strip() for each in given.pop("capabilities", "").split(",")]
    registered = await tasks.register(**given, capabilities=[each for each in capabilities if each])
    return words.registered(registered, await tasks.is_claimable(registered.name))


async def report(given: dict[str, Any]) -> str:
    from daybook.api import tasks

    name, prompting = given["session"], given.get("prompting") == YES
    reported = await tasks.report(name, state=given["state"], prompting=prompting)
    return words.session(reported, "Reported. ", await tasks.is_claimable(name))
