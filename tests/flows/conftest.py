"""A model agent for runs of the flow, called directly and by a process as a worker's."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.calling import Asked
from tests.providers import provider
from tests.world import World


@pytest.fixture
async def asked(world: World) -> AsyncIterator[Asked]:
    with provider() as here:
        yield Asked(world, here)
