"""The notifier of starved tasks: errors that concern one event, and errors for all events."""

from __future__ import annotations

import httpx
import pytest
from prefect.client.orchestration import PrefectClient
from prefect.exceptions import PrefectHTTPStatusError

from daybook.features.tasks import notifier
from daybook.features.tasks.notifier import EventRejected, StarvingRun
from daybook.testing import ManualClock

pytestmark = pytest.mark.anyio


async def tell(status: int) -> None:
    """Send one event to a fake Prefect that answers with ``status``."""
    now = ManualClock().now()
    starving = StarvingRun("ledger", "run", 0, "task", "Tidy up", 1, (), now, 6, now)

    def answer(request: httpx.Request) -> httpx.Response:
        asked = status if request.url.path == "/api/events" else 404  # 404: no CSRF token
        return httpx.Response(asked, request=request, json={"detail": "words"})

    settings = {"transport": httpx.MockTransport(answer)}
    async with PrefectClient("http://localhost:1/api", httpx_settings=settings) as client:
        await notifier.prefect_notifier(client)(starving)


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_an_event_with_invalid_content_raises_event_rejected(status: int) -> None:
    with pytest.raises(EventRejected, match=f"^HTTP {status}$"):
        await tell(status)


@pytest.mark.parametrize("status", [401, 403, 404, 500])
async def test_any_other_http_error_is_raised_unchanged(status: int) -> None:
    with pytest.raises(PrefectHTTPStatusError):
        await tell(status)


async def test_an_accepted_event_raises_nothing() -> None:
    await tell(204)
