"""A ledger of its own for each test, at a time that the test moves, in each kind of database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from daybook.testing import ManualClock
from tests import databases
from tests.world import World, in_database


@pytest.fixture
def clock() -> ManualClock:
    """12:00:00.25 UTC, a quarter of a second after a full hour."""
    return ManualClock(ManualClock().now() + timedelta(milliseconds=250))


@pytest.fixture(params=databases.KINDS)
async def world(
    request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock
) -> AsyncIterator[World]:
    async with in_database(request, tmp_path / "ledger.db", clock) as world:
        yield world
