"""Prefect's client, with its failures as ours."""

from __future__ import annotations

import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx

from daybook import home
from daybook.errors import (
    DaybookError,
    InvalidInput,
    LedgerError,
    PrefectRefused,
    PrefectUnreachable,
)

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

MOST_WORDS = 300
"""How many characters are told of a refusal."""
_AWAY = {
    httpx.codes.UNAUTHORIZED,
    httpx.codes.BAD_GATEWAY,
    httpx.codes.SERVICE_UNAVAILABLE,
    httpx.codes.GATEWAY_TIMEOUT,
}
"""What is answered in place of a Prefect that is away or too busy, or lets us do nothing."""


@asynccontextmanager
async def connected() -> AsyncIterator[PrefectClient]:
    """A client of the Prefect server that this process was pointed at (`daybook.home.enter`).

    Raises `PrefectUnreachable` when none is known, or when it does not answer, `PrefectRefused`
    when it asks for another credential; what Prefect refuses otherwise comes through as it is.
    """
    from prefect.client.orchestration import get_client
    from prefect.settings import get_current_settings

    address = get_current_settings().api.url
    if address is None:
        raise PrefectUnreachable(None)
    try:
        async with get_client() as client:
            yield client
    except httpx.TransportError as error:
        raise PrefectUnreachable(address, str(error) or type(error).__name__) from error
    except httpx.HTTPStatusError as error:
        if error.response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            raise PrefectUnreachable(address, "503, it is too busy") from error
        if is_unauthorized(error):
            raise refused_us(address) from error
        raise


async def answers(client: PrefectClient) -> None:
    """Raise `PrefectUnreachable` unless Prefect answers: asked before a change is written.

    Raises `PrefectRefused` where it asks for another credential.
    """
    problem = await client.api_healthcheck()
    if problem is not None:
        address = str(client.api_url).rstrip("/")
        raise PrefectUnreachable(address, str(problem) or type(problem).__name__)
    try:
        await client.api_version()  # the health check is open to all
    except httpx.HTTPStatusError as error:
        if is_unauthorized(error):
            raise refused_us(str(client.api_url)) from error


def is_unauthorized(error: BaseException) -> bool:
    """Whether Prefect asks for another credential."""
    if not isinstance(error, httpx.HTTPStatusError):
        return False
    return error.response.status_code == httpx.codes.UNAUTHORIZED


def refused_us(address: str) -> PrefectRefused:
    """The error for a Prefect that answers 401, as this process's settings are."""
    from prefect.settings import get_current_settings

    api = get_current_settings().api
    sent = "PREFECT_API_KEY" if api.key else ""
    sent = home.CLIENT_CREDENTIAL if api.auth_string else sent
    return PrefectRefused(address.rstrip("/"), sent, own=home.is_own_server(address))


def is_of_one(error: Exception) -> bool:
    """Whether the error may be one job's own, so that the others go on.

    It is not where Prefect or the ledger is away, or its caller must not go on (`DaybookError`).
    """
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code not in _AWAY
    if isinstance(error, DaybookError):
        return isinstance(error, InvalidInput | LedgerError)
    return not isinstance(error, httpx.TransportError)


def trouble(error: Exception) -> str:
    """An error that is one job's own, in words: without values, which are prompts, or headers."""
    if isinstance(error, httpx.HTTPStatusError):
        return refusal(error)
    if isinstance(error, DaybookError):
        return str(error)
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {where.name}, line {where.lineno}"


def refusal(error: httpx.HTTPStatusError) -> str:
    """What Prefect says is wrong, without what it was sent: that is a prompt, or headers."""
    try:
        told = error.response.json()
        details = told.get("exception_detail") or told.get("detail") or told
        each = details if isinstance(details, list) else [details]
        words = "; ".join(_one(detail) for detail in each)
    except (ValueError, AttributeError):
        words = ""
    return f"{error.response.status_code} {words}".strip()[:MOST_WORDS]


def _one(detail: Any) -> str:
    if isinstance(detail, dict) and "msg" in detail:
        where = ".".join(str(part) for part in detail.get("loc", ()) if part != "body")
        return f"{where}: {detail['msg']}" if where else str(detail["msg"])
    return detail if isinstance(detail, str) else ""
