"""Prefect's client, with its failures as ours."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import httpx

from daybook.errors import PrefectUnreachable

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient


@asynccontextmanager
async def connected() -> AsyncIterator[PrefectClient]:
    """A client of the Prefect server that this process was pointed at (`daybook.home.enter`).

    Raises `PrefectUnreachable` when none is known, or when it does not answer; what Prefect itself
    refuses comes through as it is.
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
        raise


async def answers(client: PrefectClient) -> None:
    """Raise `PrefectUnreachable` unless Prefect answers: asked before a change is written."""
    problem = await client.api_healthcheck()
    if problem is not None:
        raise PrefectUnreachable(str(client.api_url), str(problem) or type(problem).__name__)
