"""Connections to Prefect's API, and the conversion of its errors into Daybook's errors."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx

from daybook import home
from daybook.errors import (
    DISK_FULL,
    DaybookError,
    InvalidInput,
    LedgerError,
    PrefectRefused,
    PrefectUnreachable,
)
from daybook.timing import TIMING

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

MAX_REFUSAL_LENGTH = 300
"""Maximum length in characters of Prefect's refusal in an error message."""
ANSWER_TIMEOUT_SECONDS = 10.0
"""How long a command that needs Prefect waits for its first answer.

The request would otherwise last until the timeout of Prefect's client, a minute.
"""
CLAIM_TIMEOUT_SECONDS = 20.0
"""Timeout for the requests to Prefect of a claim, of which each worker makes one at a time.

Prefect's client retries for more than a minute.
"""
REFUSED = "nothing listens there"
"""What `local_problem` returns if nothing listens at the address."""
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_UNAVAILABLE_CODES = {
    httpx.codes.UNAUTHORIZED,
    httpx.codes.REQUEST_TIMEOUT,
    httpx.codes.TOO_MANY_REQUESTS,
    httpx.codes.BAD_GATEWAY,
    httpx.codes.SERVICE_UNAVAILABLE,
    httpx.codes.GATEWAY_TIMEOUT,
}
"""Status codes of a Prefect that is unreachable or too busy, or that denies us access."""


@asynccontextmanager
async def connected(
    within_seconds: float = ANSWER_TIMEOUT_SECONDS,
) -> AsyncIterator[PrefectClient]:
    """Open a client of this process's Prefect server (`daybook.home.configure_prefect`).

    Raise `PrefectUnreachable` if no server is known, or if a server on this machine does not answer
    within ``within_seconds`` (`local_problem`), and the errors of `raising_daybook_errors`.
    """
    from prefect.client.orchestration import get_client
    from prefect.settings import get_current_settings

    address = get_current_settings().api.url
    if address is None:
        raise PrefectUnreachable(None)
    if problem := await local_problem(address, within_seconds):
        raise PrefectUnreachable(address, problem)
    with raising_daybook_errors(address):
        async with get_client() as client:
            yield client


@asynccontextmanager
async def answering(
    within_seconds: float = ANSWER_TIMEOUT_SECONDS,
) -> AsyncIterator[PrefectClient]:
    """Open a client as `connected` does, and check that Prefect answers; use this before a change.

    Also raise the errors of `check_connection`, and `PrefectUnreachable` without an answer in time.
    """
    async with connected(within_seconds) as client:
        async with limited(within_seconds):
            await check_connection(client)
        yield client


@asynccontextmanager
async def limited(seconds: float = CLAIM_TIMEOUT_SECONDS) -> AsyncIterator[None]:
    """Raise `PrefectUnreachable` if the block, requests to Prefect, takes longer."""
    from prefect.settings import get_current_settings

    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        address = get_current_settings().api.url
        raise PrefectUnreachable(address, f"no answer within {seconds:g} s") from None


@asynccontextmanager
async def connected_if_reachable() -> AsyncIterator[PrefectClient | None]:
    """Open a client as `connected` does; yield None if Prefect is unreachable.

    Prefect counts as unreachable if it does not answer within `Timing.prefect_answer`. Raise
    `PrefectRefused`, and the errors of `connected` if Prefect stops answering later.
    """
    async with AsyncExitStack() as stack:
        client: PrefectClient | None = None
        try:
            seconds = TIMING.prefect_answer.total_seconds()
            client = await stack.enter_async_context(answering(seconds))
        except PrefectRefused:
            raise
        except PrefectUnreachable:
            await stack.aclose()
            client = None
        yield client


async def local_problem(address: str, seconds: float) -> str:
    """Return why Prefect at an address of this machine does not answer; empty if it does.

    Prefect's client would need 1.5 s to find out that nothing listens there, and a minute for a
    process that is stopped: such a process accepts connections, and never answers. For an address
    of another machine, which may need a proxy, and for one with TLS or without a port, the result
    is empty.
    """
    url = urlsplit(address)
    if url.scheme != "http" or url.hostname not in _LOOPBACK or url.port is None:
        return ""
    path, host = url.path.rstrip("/"), url.netloc.rpartition("@")[2]
    request = f"GET {path}/health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(url.hostname, url.port)
            try:
                writer.write(request.encode())
                await reader.read(1)
            finally:
                writer.close()
    except ConnectionRefusedError:
        return REFUSED
    except TimeoutError:
        return f"no answer within {seconds:g} s"
    except OSError:
        return ""
    return ""


@contextmanager
def raising_daybook_errors(address: str) -> Iterator[None]:
    """Raise errors of Prefect's client as Daybook errors; ``address`` is Prefect's address.

    Raise `PrefectUnreachable` if the server does not answer, or answers with a server error (5xx),
    408 or 429. Raise `PrefectRefused` if the server answers 401 or 403. Other HTTP errors pass
    through.
    """
    try:
        yield
    except httpx.TransportError as error:
        raise PrefectUnreachable(address, str(error) or type(error).__name__) from error
    except httpx.HTTPStatusError as error:
        if is_unauthorized(error):
            raise unauthorized_error(address, error.response.status_code) from error
        if error.response.is_server_error or error.response.status_code in _UNAVAILABLE_CODES:
            raise PrefectUnreachable(address, _status_text(error)) from error
        raise


def is_cloud(client: PrefectClient) -> bool:
    """Return whether Prefect is Prefect Cloud, which has no version and no pages of a server."""
    from prefect.client.base import ServerType

    return client.server_type == ServerType.CLOUD


async def check_connection(client: PrefectClient) -> None:
    """Raise `PrefectUnreachable` unless Prefect answers; call it before writing a change.

    A server error (5xx) is no answer. Raise `PrefectRefused` if Prefect answers 401, or answers
    the health check with 403.
    """
    address = str(client.api_url).rstrip("/")
    problem = await client.api_healthcheck()
    if problem is None:
        try:
            await client.api_version()  # the health check needs no credential
        except httpx.HTTPStatusError as error:
            # Prefect Cloud may answer 403: it has no such page for its users.
            if error.response.status_code == 401 or error.response.is_server_error:
                problem = error
    if isinstance(problem, httpx.HTTPStatusError):
        if is_unauthorized(problem):
            raise unauthorized_error(address, problem.response.status_code) from problem
        raise PrefectUnreachable(address, _status_text(problem)) from problem
    if problem is not None:
        raise PrefectUnreachable(address, str(problem) or type(problem).__name__)


def _status_text(error: httpx.HTTPStatusError) -> str:
    is_local = home.is_own_server(str(error.request.url))
    if (
        error.response.is_server_error
        and is_local
        and home.is_disk_full(home.current_home().prefect)
    ):
        return DISK_FULL
    return f"it returned status {describe_refusal(error)}"


def is_unauthorized(error: httpx.HTTPStatusError) -> bool:
    """Return whether Prefect denied access (401, 403) to this process's credential."""
    return error.response.status_code in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}


def unauthorized_error(address: str, status: int) -> PrefectRefused:
    """Return the error for a Prefect that answers ``status`` to this process's credential."""
    from prefect.settings import get_current_settings

    api = get_current_settings().api
    sent = "PREFECT_API_KEY" if api.key else ""
    sent = home.CLIENT_CREDENTIAL if api.auth_string else sent
    own = home.is_own_server(address)
    return PrefectRefused(address.rstrip("/"), sent, own=own, status=status)


def is_job_error(error: Exception) -> bool:
    """Return whether the error may concern one job only, so that other jobs can continue.

    False if Prefect or the ledger is unreachable, and for any `DaybookError` other than
    `InvalidInput` and `LedgerError`: the caller must stop.
    """
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code not in _UNAVAILABLE_CODES
    if isinstance(error, DaybookError):
        return isinstance(error, InvalidInput | LedgerError)
    return not isinstance(error, httpx.TransportError)


def describe_error(error: Exception) -> str:
    """Describe an error of one job without quoting parameters, which may be prompts or headers."""
    if isinstance(error, httpx.HTTPStatusError):
        return describe_refusal(error)
    if isinstance(error, DaybookError):
        return str(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {frame.name}, line {frame.lineno}"


def describe_refusal(error: httpx.HTTPStatusError) -> str:
    """Return the status code and Prefect's message, without values of the request."""
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
