"""Fixture with a model agent for runs of the flow, called directly or in a worker's process."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.calling import ModelAgent
from tests.providers import provider
from tests.world.prefect_world import PrefectWorld


@pytest.fixture
async def model_agent(world: PrefectWorld) -> AsyncIterator[ModelAgent]:
    with provider() as fake_provider:
        yield ModelAgent(world, fake_provider)
