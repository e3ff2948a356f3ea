"""Connections to Prefect: nothing waits for a server that is not there."""

from __future__ import annotations

import pytest
from prefect.client import orchestration
from prefect.settings import PREFECT_API_URL, temporary_settings

from daybook.errors import PrefectUnreachable
from daybook.prefect import client as connection
from tests.receiver import serving
from tests.servers import free_port

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_prefects_client_does_not_retry_where_nothing_listens(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setattr(orchestration, "get_client", None)
    address = f"http://{host}:{free_port()}/api"
    with temporary_settings({PREFECT_API_URL: address}):
        with pytest.raises(PrefectUnreachable, match="nothing listens there"):
            async with connection.connected():
                pass
        async with connection.connected_if_reachable() as client:
            assert client is None


async def test_only_an_address_of_this_machine_is_known_to_have_no_server() -> None:
    async with serving() as server:
        assert not await connection.local_problem(f"{server.address}/api", 30)
        assert [each.path for each in server.requests] == ["/api/health"]
    # It could be reached through a proxy.
    assert not await connection.local_problem("http://prefect.example:4200/api", 30)
    assert not await connection.local_problem("https://127.0.0.1/api", 30)
