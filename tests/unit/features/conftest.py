"""The fixture with which a test starts runs."""

from __future__ import annotations

import pytest

from tests.unit.features.attempts import Started
from tests.world import World


@pytest.fixture
def running(world: World, shared_ledger: None) -> Started:
    return Started(world)
