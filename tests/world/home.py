"""Home of a test at a Prefect server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from daybook.home import Home
from daybook.ledger.engine import Ledger
from daybook.operations.prefect_selection import SelectedPrefect
from daybook.testing import ManualClock
from daybook.timing import TIMING, Timing
from tests.world.clock import Ahead
from tests.world.prefect import connected
from tests.world.prefect_world import PrefectWorld
from tests.world.workers import Workers

if TYPE_CHECKING:
    from tests.conftest import PrefectServer
    from tests.databases import Database


@asynccontextmanager
async def at_prefect(
    root: Path,
    server: PrefectServer | SelectedPrefect,
    database: Database | None = None,
    timing: Timing = TIMING,
    clock: ManualClock | None = None,
) -> AsyncIterator[PrefectWorld]:
    """Yield a home below ``root``, at the Prefect that this process uses.

    Its clock follows the machine's, and the test can put it forward. The ledger is the home's
    unless there is a ``database``. ``timing`` applies to its workers and their child processes.
    """
    home = Home(root / "home").make()
    address = database.address if database else f"sqlite+aiosqlite:///{home.path}/ledger.db"
    clock = clock or Ahead()
    variables = timing.environment()
    if database:
        variables["DAYBOOK_LEDGER_URL"] = address
    (root / "elsewhere").mkdir()
    selected = SelectedPrefect(server.api_url, server.ui_url)
    async with AsyncExitStack() as stack:
        ledger = await stack.enter_async_context(Ledger(address, clock))
        prefect = await stack.enter_async_context(connected())
        workers = Workers(prefect.client, home, root, selected, variables)
        world = PrefectWorld(ledger, clock, database, prefect, workers)
        # The last one closes first: no execution outlives its agents.
        for part in world.deployments, world.agents, world.foreign, workers, world.executions:
            stack.push_async_callback(part.close)
        yield world


@asynccontextmanager
async def with_worker(
    root: Path,
    server: PrefectServer | SelectedPrefect,
    timing: Timing = TIMING,
    most: int | None = None,
    before: Callable[[PrefectWorld], Awaitable[None]] | None = None,
) -> AsyncIterator[PrefectWorld]:
    """Yield a home at Prefect with one worker, for all tests of a module; `DAYBOOK_HOME` names it.

    ``before`` is called before the worker starts.

    The worker reaches Prefect through the first of ``world.workers.gates``. A test must not end the
    worker, and has to end the runs that it starts.
    """
    async with at_prefect(root, server, timing=timing) as world:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DAYBOOK_HOME", str(world.home.path))
            if before is not None:
                await before(world)
            gate = await world.workers.gate()
            await world.workers.begin(most=most, api_url=gate.api_url)
            yield world
