"""Prefect's client, with its failures as Daybook errors."""

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

MAX_REFUSAL_LENGTH = 300
"""Maximum number of characters of a refusal in messages."""
_UNAVAILABLE_CODES = {
    httpx.codes.UNAUTHORIZED,
    httpx.codes.BAD_GATEWAY,
    httpx.codes.SERVICE_UNAVAILABLE,
    httpx.codes.GATEWAY_TIMEOUT,
}
"""Status codes that show that Prefect is unreachable, is too busy, or denies us access."""


@asynccontextmanager
async def connected() -> AsyncIterator[PrefectClient]:
    """Open a client of this process's Prefect server (`daybook.home.configure_prefect`).

    Raises `PrefectUnreachable` if no server is known or it does not answer, and `PrefectRefused` if
    it asks for another credential. Other HTTP errors pass through.
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
            raise PrefectUnreachable(address, "it is too busy (503)") from error
        if is_unauthorized(error):
            raise unauthorized_error(address) from error
        raise


async def check_connection(client: PrefectClient) -> None:
    """Raise `PrefectUnreachable` unless Prefect answers; called before a change is written.

    Raises `PrefectRefused` if Prefect asks for another credential.
    """
    problem = await client.api_healthcheck()
    if problem is not None:
        address = str(client.api_url).rstrip("/")
        raise PrefectUnreachable(address, str(problem) or type(problem).__name__)
    try:
        await client.api_version()  # the health check needs no credential
    except httpx.HTTPStatusError as error:
        if is_unauthorized(error):
            raise unauthorized_error(str(client.api_url)) from error


def is_unauthorized(error: BaseException) -> bool:
    """Return whether Prefect asks for another credential."""
    if not isinstance(error, httpx.HTTPStatusError):
        return False
    return error.response.status_code == httpx.codes.UNAUTHORIZED


def unauthorized_error(address: str) -> PrefectRefused:
    """Return the error for a Prefect that answers 401 to this process's credential."""
    from prefect.settings import get_current_settings

    api = get_current_settings().api
    sent = "PREFECT_API_KEY" if api.key else ""
    sent = home.CLIENT_CREDENTIAL if api.auth_string else sent
    return PrefectRefused(address.rstrip("/"), sent, own=home.is_own_server(address))


def is_job_error(error: Exception) -> bool:
    """Return whether the error may concern one job only, so that the others continue.

    It does not if Prefect or the ledger is unreachable, or if the caller must stop
    (`DaybookError`).
    """
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code not in _UNAVAILABLE_CODES
    if isinstance(error, DaybookError):
        return isinstance(error, InvalidInput | LedgerError)
    return not isinstance(error, httpx.TransportError)


def describe_error(error: Exception) -> str:
    """Describe an error of one job, without values, which can be prompts or headers."""
    if isinstance(error, httpx.HTTPStatusError):
        return describe_refusal(error)
    if isinstance(error, DaybookError):
        return str(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {frame.name}, line {frame.lineno}"


def describe_refusal(error: httpx.HTTPStatusError) -> str:
    """Return Prefect's error message, without the request's values: prompts or headers."""
    try:
        body = error.response.json()
        details = body.get("exception_detail") or body.get("detail") or body
        each = details if isinstance(details, list) else [details]
        words = "; ".join(_describe_detail(detail) for detail in each)
    except (ValueError, AttributeError):
        words = ""
    return f"{error.response.status_code} {words}".strip()[:MAX_REFUSAL_LENGTH]


def _describe_detail(detail: Any) -> str:
    if isinstance(detail, dict) and "msg" in detail:
        location = ".".join(str(part) for part in detail.get("loc", ()) if part != "body")
        return f"{location}: {detail['msg']}" if location else str(detail["msg"])
    return detail if isinstance(detail, str) else ""
