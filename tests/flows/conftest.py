"""Fixture with a model agent for runs of the flow, called directly or in a worker's process."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.calling import Asked
from tests.providers import provider
from tests.world.prefect_world import PrefectWorld


@pytest.fixture
async def asked(world: PrefectWorld) -> AsyncIterator[Asked]:
    with provider() as fake_provider:
        yield Asked(world, fake_provider)
