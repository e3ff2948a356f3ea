"""Fixtures for reconcile tests: jobs in Berlin's zone, at the session's Prefect server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.world import World


@pytest.fixture
async def world(world: World) -> AsyncIterator[World]:
    world.timezone = "Europe/Berlin"
    yield world
    for found in await world.client.read_deployments():  # including those without the ledger's tag
        await world.client.delete_deployment(found.id)
