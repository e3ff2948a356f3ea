"""Calling a tool once, and what it means for the run.

========================================================  ======================================
an answer                                                 succeeded
an answer that is an error; an exception                  failed
`Temporary`, raised by a Python tool                      failed, to be tried again
429, 503; the server cannot be reached, or not started    failed, to be tried again
the connection ended, or the time was up, after it was    unknown; where the job is idempotent:
sent to a server                                          failed or timed out, to be tried again
the time of a Python tool was up, and it has ended        timed out; where the job is idempotent:
                                                          to be tried again
an address, a param or a secret that is refused           raises `InvalidInput`; failed
========================================================  ======================================

It is rule 4 of `docs/promise.md`. Every call to a server carries the occurrence, the same in every
attempt: as ``Idempotency-Key`` and in its ``_meta``; a Python tool asks for `occurrence`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from daybook.errors import ToolUnreachable
from daybook.http import secrets as references
from daybook.http.guard import Guard
from daybook.http.secrets import FilledSecrets, SecretDestination, SecretStore
from daybook.ledger.states import Outcome, Status
from daybook.tools import answers, catalog, python_tools
from daybook.tools.base import Called, Servers

if TYPE_CHECKING:
    from daybook.tools.connection import Connection

LONGEST_ERROR = 2_000
"""Characters of a tool's own words that an error repeats; all of them are in the output."""


@dataclass
class Prepared:
    """A call that is ready. It may hold secrets and an open connection: it is neither stored nor
    shown, and `call` or `close` has to follow.

    ``params`` are as they are stored, with references; ``values`` hold the secrets. ``failed`` is
    what `call` will say because the server could not be reached.
    """

    name: str
    tool: str
    params: dict[str, Any]
    occurrence: str
    values: dict[str, Any] = field(repr=False)
    filled: FilledSecrets = field(repr=False)
    connection: Connection | None = field(default=None, repr=False)
    failed: Called | None = None

    async def close(self) -> None:
        """Where it is not called after all; `call` closes by itself."""
        if self.connection is not None:
            await self.connection.close()


async def prepare(  # noqa: PLR0917
    name: str,
    params: dict[str, Any],
    occurrence: str,
    servers: Servers,
    secrets: SecretStore,
    guard: Guard,
) -> Prepared:
    """Between claim and begin: all but the call.

    ``params`` that hold what looks like a secret itself are refused. Raises `InvalidInput`, and
    what Prefect's client raises when it cannot be asked. A server that cannot be reached now is no
    error yet: `call` tells it, as an attempt that failed and may be repeated.
    """
    references.refuse_literal_params(params)
    place = await catalog.place(name, servers, guard)
    filled = FilledSecrets()
    if place is None or place.settings.command:
        where = SecretDestination.of_tool(name)
    else:
        where = SecretDestination.of_url(place.guard.check(place.settings.url))
    values = await references.fill_params(params, where, secrets, filled)
    hide = filled.hide
    prepared = Prepared(name, name, params, occurrence, values, filled)
    if place is None:
        catalog.check_params(python_tools.info(name), values, hide)
        return prepared
    from daybook.tools import connection

    prepared.tool = place.tool
    try:
        there = prepared.connection = await connection.connected(
            place,
            secrets,
            occurrence=occurrence,
            filled=filled,
            secret_params=bool(references.referenced_names(params)),
        )
    except ToolUnreachable as error:
        told = Outcome(Status.FAILED, error=hide(str(error)))
        prepared.failed = Called(told, True, error.retry_after)
        return prepared
    try:
        catalog.check_params(catalog.described(place, there), values, hide)
    except BaseException:
        there.done()
        await there.close()
        raise
    return prepared


async def call(prepared: Prepared, *, timeout: float, idempotent: bool = False) -> Called:
    """Call it once, and close; ``timeout`` in seconds, without the time that closing takes.

    Raises `OutgoingRefused`.
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
            called = await _asked(prepared, prepared.connection, timeout, idempotent=idempotent)
        finally:
            await prepared.connection.close()
    return replace(called, outcome=_kept(called.outcome, prepared))


async def _asked(
    prepared: Prepared, there: Connection, timeout: float, *, idempotent: bool
) -> Called:
    from daybook.tools.connection import Failed, Unanswered

    hide = prepared.filled.hide
    try:
        answer = await there.call(
            prepared.tool, prepared.values, prepared.occurrence, timeout=timeout
        )
    except Failed as error:
        return Called(Outcome(Status.FAILED, error=_short(hide(str(error)))))
    except Unanswered as error:
        return _unanswered(error, str(error), idempotent=idempotent)
    text, result = answers.of_mcp(answer, hide)
    if answer.is_error:
        told = _short(text.kept) or "the tool says that it failed, and no more"
        return Called(
            Outcome(Status.FAILED, text.remark, output=text.kept, result=result, error=told)
        )
    return Called(Outcome(Status.SUCCEEDED, text.remark, output=text.kept, result=result))


def _unanswered(error: Any, told: str, *, idempotent: bool) -> Called:
    if error.sent and not idempotent:
        why = f"{told}; it was sent, and whether it was done is not known"
        return Called(Outcome(Status.UNKNOWN, why, error=told))
    status = Status.TIMED_OUT if error.timed_out else Status.FAILED
    return Called(Outcome(status, error=told), not error.refused, error.retry_after)


def _kept(outcome: Outcome, prepared: Prepared) -> Outcome:
    """The outcome as a run has it, without secrets: who is sent one may say it back."""
    hide = prepared.filled.hide
    succeeded = outcome.status is Status.SUCCEEDED
    result = {
        "tool_name": prepared.name,
        "params": prepared.params,
        "result": _hidden(outcome.result, prepared.filled),
    }
    return replace(
        outcome,
        reason=hide(outcome.reason),
        error=None if outcome.error is None else hide(outcome.error),
        output=None if outcome.output is None else hide(outcome.output),
        result=result if succeeded or outcome.result is not None else None,
    )


def _hidden(value: Any, filled: FilledSecrets) -> Any:
    match value:
        case str():
            return filled.hide(value)
        case list():
            return [_hidden(each, filled) for each in value]
        case dict():
            return {filled.hide(str(n)): _hidden(each, filled) for n, each in value.items()}
        case _:
            return value


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_ERROR else f"{text[:LONGEST_ERROR]} …"
