"""Functions of the task tools. Each calls an operation for `owners.current_actor()`."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

import anyio

from daybook import owners
from daybook.errors import NotFound, NothingClaimable, TokenRefused
from daybook.features import tasks
from daybook.features.tasks import model, tool_text
from daybook.redaction import redact_tokens
from daybook.short_text import one_line
from daybook.toolbox.arguments import Arguments
from daybook.toolbox.invocation import NotDone, ToolFunction

if TYPE_CHECKING:
    from daybook.features.tasks.views import ClaimedTaskRun

MAX_WAIT_SECONDS = 25
"""Maximum value of `wait_seconds`. A client may cancel a call after 30 seconds."""

MAX_WAITING_CALLS = 10
"""Maximum number of waiting calls of an owner in one process.

Each waiting call has a connection, and polls the ledger every second.
"""

YES = "yes"


def with_next_step(does: ToolFunction) -> ToolFunction:
    """Return ``does``, but with the next step in the text of an error about a session or a run."""

    async def call(given: Arguments) -> str:
        try:
            return await does(given)
        except (NotFound, TokenRefused) as error:
            if (step := tool_text.step_after(error)) is None:
                raise
            raise NotDone(redact_tokens(one_line(error)) + step) from error

    return call


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
            return tool_text.claimed(await _claimed(given))
        except NothingClaimable as error:
            why, is_final = error.why, error.is_final
        required = tool_text.required_first(await tasks.operations.find_session(given["session"]))
        left = deadline - loop.time()
        if required or is_final or left <= 0:
            then = required or (tool_text.FINAL_HINT if is_final else "")
            return tool_text.nothing_claimable(why, then)
        if _waiting[owner] >= MAX_WAITING_CALLS:
            return tool_text.nothing_claimable(why, tool_text.TOO_MANY_WAITING_HINT)
        _waiting[owner] += 1
        try:
            lowest = given.get("priority_min", model.LOWEST)
            if not await tasks.operations.wait_until_claimable(given["session"], left, lowest):
                return tool_text.nothing_claimable(why)
        finally:
            _waiting[owner] -= 1


async def _claimed(given: Arguments) -> ClaimedTaskRun:
    """Claim a run. If this call is cancelled, let the claim finish, and then release the run."""
    claim = asyncio.ensure_future(
        tasks.operations.next_run(
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
                await tasks.operations.release(
                    claimed.run_id, claimed.token, "the client disconnected"
                )
        raise


async def heartbeat(given: Arguments) -> str:
    renewed = await tasks.operations.heartbeat(given["run_id"], given["token"], given.get("lease"))
    return tool_text.renewed(renewed)


async def complete(given: Arguments) -> str:
    output = given.get("output", "")
    return tool_text.ended(await tasks.operations.complete(given["run_id"], given["token"], output))


async def fail(given: Arguments) -> str:
    error = given["error"]
    return tool_text.ended(await tasks.operations.fail(given["run_id"], given["token"], error))


async def release(given: Arguments) -> str:
    reason = given.get("reason", "")
    return tool_text.ended(await tasks.operations.release(given["run_id"], given["token"], reason))


async def register(given: Arguments) -> str:
    """Register a task session. The answer states whether the task session can claim a run now."""
    capabilities = [each.strip() for each in given.pop("capabilities", "").split(",")]
    registered = await tasks.operations.register(
        **given, capabilities=[each for each in capabilities if each]
    )
    return tool_text.registered(registered, await tasks.operations.is_claimable(registered.name))


async def report(given: Arguments) -> str:
    name, prompting = given["session"], given.get("prompting") == YES
    reported = await tasks.operations.report(name, state=given["state"], prompting=prompting)
    return tool_text.session(reported, "Reported. ", await tasks.operations.is_claimable(name))
