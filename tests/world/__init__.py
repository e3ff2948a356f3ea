"""Test environment: a ledger and a clock that the test moves.

`World` is only a ledger, in a database for this test. ``world.jobs``, ``world.runs`` and
``world.tasks`` act on it. `tests.world.prefect_world` adds a Prefect, agents and workers.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from daybook.ledger.engine import Ledger
from daybook.testing import ManualClock
from tests import databases
from tests.world.jobs import Jobs
from tests.world.runs import Runs
from tests.world.tasks import Tasks

if TYPE_CHECKING:
    from tests.databases import Database


class World:
    """A ledger with its jobs, runs and tasks; ``database`` is set if the test created its own."""

    def __init__(
        self, ledger: Ledger, clock: ManualClock, database: Database | None = None
    ) -> None:
        self.ledger, self.clock, self._database = ledger, clock, database
        self.jobs = Jobs(ledger)
        self.runs = Runs(ledger, clock)
        self.tasks = Tasks(self)

    @property
    def database(self) -> Database:
        assert self._database is not None
        return self._database

    def passes(self, **given: float) -> None:
        """Advance the ledger's clock."""
        self.clock.move(timedelta(**given))

    def at(self, **given: float) -> datetime:
        """Return the ledger's time plus the given duration."""
        return self.ledger.now() + timedelta(**given)


@asynccontextmanager
async def in_database(request: pytest.FixtureRequest, clock: ManualClock) -> AsyncIterator[World]:
    """Yield an empty ledger in the kind of database that the fixture's parameter names."""
    if request.param == "sqlite":
        async with databases.shared_ledger(clock) as shared:
            yield World(shared, clock, shared.database)
    else:
        there = databases.server_of(request)().prepared()
        async with Ledger(there.address, clock) as ledger:
            yield World(ledger, clock, there)
