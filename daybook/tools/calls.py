"""Calls of tools, and the outcome of the run that follows from each result.

========================================================  ======================================
an answer                                                 succeeded
an answer that is an error; an exception                  failed
`Temporary`, raised by a Python tool                      failed, to be retried
429, 503; the server cannot be reached or started         failed, to be retried
any other error status of the server after the call       failed
the connection ended, or a timeout, after the call was    unknown; if the job is idempotent:
sent to a server                                          failed or timed out, to be retried
a timeout of a Python tool, which has ended               timed out; if the job is idempotent:
                                                          to be retried
a name, an address, a param or a secret that is refused   raises `InvalidInput`; failed
========================================================  ======================================

The table follows promise 4: a call that may have had its effect is not repeated, unless the job is
idempotent. Every call of this module to a server contains the occurrence in its ``_meta``, and over
HTTP also in the header ``Idempotency-Key``; an agent's calls (`pool`) have only the ``_meta``. The
occurrence is the same in every attempt. A Python tool gets it from `daybook.tools.occurrence`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from daybook.errors import ToolUnreachable
from daybook.http import secrets as references
from daybook.http.guard import Guard
from daybook.http.secrets import FilledSecrets, SecretDestination, SecretStore
from daybook.jobs import payloads
from daybook.json_text import JsonObject
from daybook.ledger.states import Outcome, Status
from daybook.redaction import hide_in
from daybook.short_text import clip
from daybook.tools import answers, catalog, connection, python_tools
from daybook.tools.base import CallResult
from daybook.tools.connection import CallFailed, CallUnanswered
from daybook.tools.server_blocks import ToolServers

if TYPE_CHECKING:
    from daybook.tools.connection import Connection

MAX_ERROR_CHARACTERS = 2_000
"""Maximum length of a server's message in an error.

If an answer has a longer message, only the output of the run has the whole message.
"""


@dataclass
class PreparedCall:
    """A call that is ready to be made. Pass it to `call`, or `close` it.

    Do not store or show it, because it may contain secrets: ``params`` only refer to secrets, but
    ``values`` contain them. If the server could not be reached, ``failed`` is the result that
    `call` returns; otherwise it is None.
    """

    name: str
    tool: str
    params: JsonObject
    occurrence: str
    values: JsonObject = field(repr=False)
    filled: FilledSecrets = field(repr=False)
    connection: Connection | None = field(default=None, repr=False)
    failed: CallResult | None = None

    async def close(self) -> None:
        """Close the connection of a call that will not be made; `call` closes it otherwise."""
        if self.connection is not None:
            await self.connection.close()


async def prepare(  # noqa: PLR0917
    name: str,
    params: JsonObject,
    occurrence: str,
    servers: ToolServers,
    secrets: SecretStore,
    guard: Guard,
    *,
    payload: Any = None,
) -> PreparedCall:
    """Prepare a call for a claimed run that is not running yet. Do not make the call.

    ``payload`` is the run's payload (`daybook.jobs.payloads`), which fills the placeholders in
    ``params``. Raise `InvalidInput`, also for a literal secret in ``params``, and Prefect client
    errors if Prefect cannot be reached. If the tool's server cannot be reached, raise no error;
    then `call` returns a failed result, which may be retried.
    """
    references.refuse_literal_params(params)
    location = await catalog.locate(name, servers, guard)
    filled = FilledSecrets()
    if location is None or location.settings.command:
        destination = SecretDestination.of_tool(name)
    else:
        destination = SecretDestination.of_url(location.guard.check(location.settings.url))
    values = await references.fill_params(params, destination, secrets, filled)
    # Fill in the payload last, so that it cannot name a secret.
    values = payloads.fill(values, payload)
    hide = filled.hide
    prepared = PreparedCall(name, name, params, occurrence, values, filled)
    if location is None:
        catalog.check_params(python_tools.info(name), values, hide)
        return prepared

    prepared.tool = location.tool
    try:
        opened = prepared.connection = await connection.connect(
            location,
            secrets,
            occurrence=occurrence,
            filled=filled,
            secret_params=bool(references.referenced_names(params)),
        )
    except ToolUnreachable as error:
        outcome = Outcome(Status.FAILED, error=hide(str(error)))
        prepared.failed = CallResult(outcome, True, error.retry_after)
        return prepared
    try:
        catalog.check_params(catalog.describe(location, opened), values, hide)
    except BaseException:
        opened.done()
        await opened.close()
        raise
    return prepared


async def call(prepared: PreparedCall, *, timeout: float, idempotent: bool = False) -> CallResult:
    """Make the call once, within ``timeout`` seconds, and close its connection.

    This may take longer than the timeout, because a Python tool in a thread cannot be ended, and
    closing the connection takes time. Raise `InvalidInput`, in particular `OutgoingRefused`.
    """
    if prepared.failed is not None:
        return prepared.failed
    if prepared.connection is None:
        called = await python_tools.call(
            prepared.name,
            prepared.values,
            prepared.occurrence,
            timeout=timeout,
            hide=prepared.filled.hide,
        )
        if called.outcome.status is Status.TIMED_OUT:
            called = replace(called, temporary=idempotent)
    else:
        try:
            called = await _call_server(
                prepared, prepared.connection, timeout, idempotent=idempotent
            )
        finally:
            await prepared.connection.close()
    return replace(called, outcome=_stored_outcome(called.outcome, prepared))


async def _call_server(
    prepared: PreparedCall, server: Connection, timeout: float, *, idempotent: bool
) -> CallResult:
    hide = prepared.filled.hide
    try:
        answer = await server.call(
            prepared.tool, prepared.values, prepared.occurrence, timeout=timeout
        )
    except CallFailed as error:
        return CallResult(
            Outcome(Status.FAILED, error=clip(hide(str(error)), MAX_ERROR_CHARACTERS))
        )
    except CallUnanswered as error:
        message = str(error)
        if error.sent and not idempotent:
            reason = f"{message}; the call was sent, so its effect is unknown"
            return CallResult(Outcome(Status.UNKNOWN, reason, error=message))
        status = Status.TIMED_OUT if error.timed_out else Status.FAILED
        return CallResult(Outcome(status, error=message), not error.refused, error.retry_after)
    text, result = answers.from_mcp(answer, hide)
    if answer.is_error:
        reason = clip(text.kept, MAX_ERROR_CHARACTERS) or "the tool failed without a message"
        return CallResult(
            Outcome(Status.FAILED, text.remark, output=text.kept, result=result, error=reason)
        )
    return CallResult(Outcome(Status.SUCCEEDED, text.remark, output=text.kept, result=result))


def _stored_outcome(outcome: Outcome, prepared: PreparedCall) -> Outcome:
    """Return the outcome without secrets, and with the call added to its result.

    A tool may have repeated secrets in its answer.
    """
    hide = prepared.filled.hide
    succeeded = outcome.status is Status.SUCCEEDED
    result = {
        "tool_name": prepared.name,
        "params": prepared.params,
        "result": hide_in(outcome.result, hide),
    }
    return replace(
        outcome,
        reason=hide(outcome.reason),
        error=None if outcome.error is None else hide(outcome.error),
        output=None if outcome.output is None else hide(outcome.output),
        result=result if succeeded or outcome.result is not None else None,
    )
