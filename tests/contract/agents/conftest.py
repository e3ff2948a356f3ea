from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from prefect.client.orchestration import PrefectClient, get_client

import blocks
from daybook.agents import kinds


@pytest.fixture
async def client(prefect_server: object) -> AsyncIterator[PrefectClient]:
    """A client of a Prefect that knows our block types and holds no agent."""
    async with get_client() as client:
        await blocks.register(client)
        await _forget_all(client)
        yield client
        await _forget_all(client)


async def _forget_all(client: PrefectClient) -> None:
    for slug in kinds.KINDS:
        for document in await client.read_block_documents_by_type(slug):
            await client.delete_block_document(document.id)
