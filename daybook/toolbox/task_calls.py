"""Functions of the task tools. Each calls `daybook.api` for `owners.current_actor()`."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

import anyio

from daybook import api, owners
from daybook.errors import NothingClaimable
from daybook.tasks import model
from daybook.toolbox import task_text
from daybook.toolbox.arguments import Arguments

if TYPE_CHECKING:
    from daybook.tasks.views import ClaimedTaskRun

MAX_WAIT_SECONDS = 25
"""Maximum value of `wait_seconds`. A client may cancel a call after 30 seconds."""

MAX_WAITING_CALLS = 10
"""Maximum number of waiting calls of an owner in one process.

Each waiting call has a connection, and polls the ledger every second.
"""

YES = "yes"


_waiting: Counter[str] = Counter()


def waiting_calls(owner: str) -> int:
    """Return the number of waiting calls of this owner in this process."""
    return _waiting[owner]


async def claim(given: Arguments) -> str:
    """Claim the first run that the task session can claim.

    If there is none, wait up to `wait_seconds`. If there is still no run, return the reason; this
    is a normal result, not an error. The call does not wait if the task session has to do something
    first, if its idempotency key gets no run any more, or if too many calls of its owner are
    waiting.
    """
    loop, owner = asyncio.get_running_loop(), owners.current_actor().owner
    deadline = loop.time() + given["wait_seconds"]
    while True:
        try:
            return task_text.claimed(await _claimed(given))
        except NothingClaimable as error:
            why, is_final = error.why, error.is_final
        required = task_text.required_first(await api.tasks.find_session(given["session"]))
        left = deadline - loop.time()
        if required or is_final or left <= 0:
            then = required or (task_text.FINAL_HINT if is_final else "")
            return task_text.nothing_claimable(why, then)
        if _waiting[owner] >= MAX_WAITING_CALLS:
            return task_text.nothing_claimable(why, task_text.TOO_MANY_WAITING_HINT)
        _waiting[owner] += 1
        try:
            lowest = given.get("priority_min", model.LOWEST)
            if not await api.tasks.wait_until_claimable(given["session"], left, lowest):
                return task_text.nothing_claimable(why)
        finally:
            _waiting[owner] -= 1


async def _claimed(given: Arguments) -> ClaimedTaskRun:
    """Claim a run. If this call is cancelled, let the claim finish, and then release the run."""
    claim = asyncio.ensure_future(
        api.tasks.next_run(
            given["session"],
            given.get("lease"),
            priority_min=given.get("priority_min", model.LOWEST),
            idempotency_key=given.get("idempotency_key"),
        )
    )
    try:
        return await asyncio.shield(claim)
    except asyncio.CancelledError:
        with anyio.CancelScope(shield=True):
            await asyncio.wait({claim})
            if not claim.cancelled() and claim.exception() is None:
                claimed = claim.result()
                await api.tasks.release(claimed.run_id, claimed.token, "the client disconnected")
        raise


async def heartbeat(given: Arguments) -> str:
    renewed = await api.tasks.heartbeat(given["run_id"], given["token"], given.get("lease"))
    return task_text.renewed(renewed)


async def complete(given: Arguments) -> str:
    output = given.get("output", "")
    return task_text.ended(await api.tasks.complete(given["run_id"], given["token"], output))


async def fail(given: Arguments) -> str:
    error = given["error"]
    return task_text.ended(await api.tasks.fail(given["run_id"], given["token"], error))


async def release(given: Arguments) -> str:
    reason = given.get("reason", "")
    return task_text.ended(await api.tasks.release(given["run_id"], given["token"], reason))


async def register(given: Arguments) -> str:
    """Register a task session. The answer states whether the task session can claim a run now."""
    capabilities = [each.strip() for each in given.pop("capabilities", "").split(",")]
    registered = await api.tasks.register(
        **given, capabilities=[each for each in capabilities if each]
    )
    return task_text.registered(registered, await api.tasks.is_claimable(registered.name))


async def report(given: Arguments) -> str:
    name, prompting = given["session"], given.get("prompting") == YES
    reported = await api.tasks.report(name, state=given["state"], prompting=prompting)
    return task_text.session(reported, "Reported. ", await api.tasks.is_claimable(name))
