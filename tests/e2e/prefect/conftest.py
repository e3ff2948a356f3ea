"""Fixtures for reconcile tests: jobs in Berlin's zone, at the session's Prefect server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.world.prefect_world import PrefectWorld


@pytest.fixture
async def world(world: PrefectWorld) -> AsyncIterator[PrefectWorld]:
    world.jobs.timezone = "Europe/Berlin"
    yield world
    for found in await world.client.read_deployments():  # including those without the ledger's tag
        await world.client.delete_deployment(found.id)
