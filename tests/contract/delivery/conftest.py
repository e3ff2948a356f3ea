"""Fixture for delivery tests: a real Prefect with our block types and none of our documents."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from prefect.client.orchestration import PrefectClient

from daybook.delivery import destinations
from daybook.home import Home
from daybook.resources import secrets
from tests.at_prefect import knowing_our_blocks


@pytest.fixture
async def client(prefect_server: object, daybook_home: Home) -> AsyncIterator[PrefectClient]:
    """Yield a client of a Prefect that has no destinations and no secrets."""
    async with knowing_our_blocks(destinations.STORE.slug, secrets.STORE.slug) as client:
        yield client
