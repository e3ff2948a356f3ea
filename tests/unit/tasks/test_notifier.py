"""What Prefect's answer says of one event, and what of all."""

from __future__ import annotations

import httpx
import pytest
from prefect.client.orchestration import PrefectClient
from prefect.exceptions import PrefectHTTPStatusError

from daybook.tasks import notifier
from daybook.tasks.notifier import EventRejected, StarvingRun
from daybook.testing import ManualClock

pytestmark = pytest.mark.anyio


async def tell(status: int) -> None:
    """To a Prefect that answers so."""
    now = ManualClock().now()
    starving = StarvingRun("ledger", "run", 0, "task", "Tidy up", 1, (), now, 6, now)

    def answer(request: httpx.Request) -> httpx.Response:
        asked = status if request.url.path == "/api/events" else 404  # of a token it needs none
        return httpx.Response(asked, request=request, json={"detail": "words"})

    settings = {"transport": httpx.MockTransport(answer)}
    async with PrefectClient("http://localhost:1/api", httpx_settings=settings) as client:
        await notifier.prefect_notifier(client)(starving)


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_an_event_that_is_refused_for_what_it_is_was_not_taken(status: int) -> None:
    with pytest.raises(EventRejected, match=f"^HTTP {status}$"):
        await tell(status)


@pytest.mark.parametrize("status", [401, 403, 404, 500])
async def test_another_refusal_is_of_them_all(status: int) -> None:
    with pytest.raises(PrefectHTTPStatusError):
        await tell(status)


async def test_what_is_taken_is_told() -> None:
    await tell(204)
