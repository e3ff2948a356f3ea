"""Fixtures for reconcile tests: jobs in Berlin's zone, at the session's Prefect server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.at_prefect import delete_deployments
from tests.world.prefect_world import PrefectWorld


@pytest.fixture
async def world(world: PrefectWorld) -> AsyncIterator[PrefectWorld]:
    world.jobs.timezone = "Europe/Berlin"
    yield world
    await delete_deployments(world.client)  # including those without the ledger's tag
