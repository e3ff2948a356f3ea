from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from prefect.client.orchestration import PrefectClient

from daybook.agents import kinds
from daybook.home import Home
from tests.at_prefect import knowing_our_blocks


@pytest.fixture
async def client(prefect_server: object, daybook_home: Home) -> AsyncIterator[PrefectClient]:
    """Yield a client of a Prefect that has our block types and no agents."""
    async with knowing_our_blocks(*kinds.KINDS) as client:
        yield client
